//! Tools to observe and control tasks from a case.
//!
//! A task runs in another process and shares only files with the case: it appends lines to a [`Notebook`] and waits at
//! a [`Gate`]. Nothing here sleeps and hopes; [`until`] waits for a condition, and names the condition if it
//! never holds.

use std::fmt::Display;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::fcntl::FlockArg;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use procpool::AsyncResult;
use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;
use tempfile::TempDir;

use crate::harness::processes;

/// Longer than any wait here takes, shorter than the deadline of a case.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The pool that most cases use.
pub(crate) fn pool(method: StartMethod, processes: usize) -> Pool {
    Pool::builder().processes(processes).start_method(method).build().unwrap()
}

/// A file to which tasks append lines, read by the case.
#[derive(Debug)]
pub(crate) struct Notebook {
    folder: TempDir,
}

impl Notebook {
    pub(crate) fn new() -> Notebook {
        Notebook { folder: TempDir::new().unwrap() }
    }

    /// The path to pass to a task, for [`note`].
    pub(crate) fn path(&self) -> String {
        self.folder.path().join("notes").display().to_string()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        lines_of(&self.path())
    }

    /// Waits for at least `count` lines.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<String> {
        until(&format!("{count} notes"), || self.lines().len() >= count);
        self.lines()
    }
}

/// The complete lines of a notebook.
pub(crate) fn lines_of(path: &str) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// In a task: appends one line, by a single write with `O_APPEND`, so that lines of several tasks do not mix.
pub(crate) fn note(path: &str, line: impl Display) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// A gate at which tasks wait until the case opens it: a file that the case holds locked.
#[derive(Debug)]
pub(crate) struct Gate {
    folder: TempDir,
    lock: Option<Flock<File>>,
}

impl Gate {
    pub(crate) fn closed() -> Gate {
        let folder = TempDir::new().unwrap();
        let file = File::create(folder.path().join("gate")).unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
        Gate { folder, lock: Some(lock) }
    }

    /// The path to pass to a task, for [`pass`].
    pub(crate) fn path(&self) -> String {
        self.folder.path().join("gate").display().to_string()
    }

    /// Opens the gate for good. It unlocks explicitly, since closing does not release a lock that forked copies share.
    pub(crate) fn open(&mut self) {
        drop(self.lock.take());
    }
}

/// In a task: waits until the gate is open.
pub(crate) fn pass(path: &str) {
    let mut file = File::open(path).unwrap();
    loop {
        match Flock::lock(file, FlockArg::LockShared) {
            Ok(_) => return,
            Err((again, Errno::EINTR)) => file = again,
            Err((_, errno)) => panic!("the gate is broken: {errno}"),
        }
    }
}

/// In a task: sleeps.
pub(crate) fn doze(millis: u64) -> u64 {
    thread::sleep(Duration::from_millis(millis));
    millis
}

/// Blocks this thread on a future.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// A task that notes its process id, waits at the gate, and returns the id.
pub(crate) fn held(pool: &Pool, gate: &Gate, book: &Notebook) -> AsyncResult<u32> {
    pool.apply_async((gate.path(), book.path()), |gate, book| {
        note(&book, std::process::id());
        pass(&gate);
        std::process::id()
    })
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + WAIT_MAX;
    while !condition() {
        assert!(Instant::now() < give_up, "still waiting for: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until all of the processes have ended.
pub(crate) fn until_ended(pids: &[u32]) {
    until(&format!("the end of {pids:?}"), || pids.iter().all(|&pid| processes::ended(pid)));
}

/// Waits until `attempt` returns something.
pub(crate) fn until_some<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    until(what, || {
        found = attempt();
        found.is_some()
    });
    found.unwrap()
}

/// Waits until the pool has `count` live workers, none of them among `gone`. Returns these workers: where some leave by
/// themselves, another call of `pids` may return others.
pub(crate) fn until_replaced(pool: &Pool, count: usize, gone: &[u32]) -> Vec<u32> {
    until_some("the replacements", || {
        let pids = pool.pids();
        (pids.len() == count && pids.iter().all(|pid| !gone.contains(pid))).then_some(pids)
    })
}

/// Waits until the pool has as many live workers as it is to have, and returns them.
pub(crate) fn until_complete(pool: &Pool) -> Vec<u32> {
    until_replaced(pool, pool.processes(), &[])
}

/// Sends a signal to a process that is known to be a worker of the case.
pub(crate) fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Waits until this process has no children and the same descriptors as `before`. A pool that is dropped while one of
/// its workers is starting does not wait for that start.
pub(crate) fn until_nothing_is_left(before: &[(i32, String)]) {
    until("the end of all that was begun", || {
        procpool::forkserver::stop();
        let here = std::process::id();
        processes::children(here).is_empty() && processes::descriptors(here) == before
    });
}

/// As [`signal`] with SIGKILL, but the worker may already have ended.
pub(crate) fn kill_if_there(pid: u32) {
    let _ = nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
}

/// Waits for the first worker of the pool.
pub(crate) fn pool_pid(pool: &Pool) -> u32 {
    until_some("a worker", || pool.pids().first().copied())
}

/// As [`signal`], but the process may already have ended.
pub(crate) fn signal_if_there(pid: u32, signal: Signal) {
    match nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("{pid}: {errno}"),
    }
}

/// Whether a file exists: how tasks check that something has been done once.
pub(crate) fn first_to_claim(path: &str) -> bool {
    OpenOptions::new().write(true).create_new(true).open(Path::new(path)).is_ok()
}

/// Checks that the pool runs tasks.
pub(crate) fn assert_works(pool: &Pool) {
    assert_eq!(pool.map(0..20u64, |x| x * x).unwrap(), (0..20u64).map(|x| x * x).collect::<Vec<_>>());
}

/// Checks that every item has its own value, except at most one that was lost with a worker.
pub(crate) fn assert_one_lost_at_most(results: Vec<Result<u32, TaskError>>, count: usize) {
    assert_eq!(results.len(), count);
    assert_one_lost_at_most_or(results, |_| false);
}

/// As [`assert_one_lost_at_most`], but `allowed` errors may occur too.
pub(crate) fn assert_one_lost_at_most_or(results: Vec<Result<u32, TaskError>>, allowed: impl Fn(&TaskError) -> bool) {
    let mut lost = Vec::new();
    for (x, result) in (0u32..).zip(results) {
        match result {
            Ok(value) => assert_eq!(value, x),
            Err(error @ TaskError::WorkerDied { .. }) => lost.push((x, error)),
            Err(other) => assert!(allowed(&other), "item {x}: {other:?}"),
        }
    }
    assert!(lost.len() <= 1, "lost by one death: {lost:?}");
}

/// Waits until every worker of the pool works, by running one item on each at the same time.
pub(crate) fn until_all_work(pool: &Pool) {
    let book = Notebook::new();
    let count = pool.processes();
    let items = vec![(book.path(), count); count];
    pool.chunk_size(1)
        .starmap(items, |book, count| {
            note(&book, "here");
            until("all workers", || lines_of(&book).len() == count);
        })
        .unwrap();
}

/// Returns the error of a result that must be one.
pub(crate) fn error<T: std::fmt::Debug>(result: Result<T, TaskError>) -> TaskError {
    result.expect_err("an error")
}
