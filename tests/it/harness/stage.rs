//! What the cases use to see and to steer tasks from outside.
//!
//! A task is a function pointer in another process, so it shares nothing with the case but files: it writes
//! lines into a [`Notebook`] and waits at a [`Gate`]. Nothing here sleeps to let something happen; [`until`]
//! waits for a condition, and says which one when it does not come.

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

/// Longer than anything here takes, shorter than the deadline of a case.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool as most cases want it.
pub(crate) fn pool(method: StartMethod, processes: usize) -> Pool {
    Pool::builder().processes(processes).start_method(method).build().unwrap()
}

/// Lines that tasks write and the case reads.
#[derive(Debug)]
pub(crate) struct Notebook {
    folder: TempDir,
}

impl Notebook {
    pub(crate) fn new() -> Notebook {
        Notebook { folder: TempDir::new().unwrap() }
    }

    /// What a task needs for [`note`].
    pub(crate) fn path(&self) -> String {
        self.folder.path().join("notes").display().to_string()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        lines_of(&self.path())
    }

    /// Waits until there are at least `count` lines.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<String> {
        until(&format!("{count} notes"), || self.lines().len() >= count);
        self.lines()
    }
}

/// The whole lines of a notebook.
pub(crate) fn lines_of(path: &str) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// In a task: appends one line. A single write with O_APPEND, so that no two tasks mix.
pub(crate) fn note(path: &str, line: impl Display) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Where tasks wait until the case lets them through: a file that the case holds locked.
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

    /// What a task needs for [`pass`].
    pub(crate) fn path(&self) -> String {
        self.folder.path().join("gate").display().to_string()
    }

    /// Lets everybody through, now and later. An explicit unlock, which also frees the copies that a fork made.
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

/// In a task: takes so long.
pub(crate) fn doze(millis: u64) -> u64 {
    thread::sleep(Duration::from_millis(millis));
    millis
}

/// Waits for a future on this thread.
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

/// A task that notes which process it is, waits at the gate, and returns that.
pub(crate) fn held(pool: &Pool, gate: &Gate, book: &Notebook) -> AsyncResult<u32> {
    pool.apply_async((gate.path(), book.path()), |gate, book| {
        note(&book, std::process::id());
        pass(&gate);
        std::process::id()
    })
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "still waiting for: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until every one of the processes has ended.
pub(crate) fn until_ended(pids: &[u32]) {
    until(&format!("the end of {pids:?}"), || pids.iter().all(|&pid| processes::ended(pid)));
}

/// Waits until the pool has `count` live workers, none of them among `gone`.
pub(crate) fn until_replaced(pool: &Pool, count: usize, gone: &[u32]) {
    until("the replacements", || {
        let pids = pool.pids();
        pids.len() == count && pids.iter().all(|pid| !gone.contains(pid))
    });
}

/// Sends a signal to a process that the case knows to be its own worker.
pub(crate) fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Waits until this process has no children, and the descriptors that it had `before`. A pool that is dropped while one
/// of its workers is being started does not wait for that.
pub(crate) fn until_nothing_is_left(before: &[(i32, String)]) {
    until("the end of all that was begun", || {
        procpool::forkserver::stop();
        let here = std::process::id();
        processes::children(here).is_empty() && processes::descriptors(here) == before
    });
}

/// As [`signal`] with SIGKILL, for a worker that may have ended meanwhile.
pub(crate) fn kill_if_there(pid: u32) {
    let _ = nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
}

/// The first worker of the pool, once it is there.
pub(crate) fn pool_pid(pool: &Pool) -> u32 {
    until("a worker", || !pool.pids().is_empty());
    pool.pids()[0]
}

/// As [`signal`], to a process that may have ended a moment ago.
pub(crate) fn signal_if_there(pid: u32, signal: Signal) {
    match nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("{pid}: {errno}"),
    }
}

/// Whether a file is there; a way for tasks to see whether something has been done once.
pub(crate) fn first_to_claim(path: &str) -> bool {
    OpenOptions::new().write(true).create_new(true).open(Path::new(path)).is_ok()
}

/// Checks that the pool runs tasks.
pub(crate) fn assert_works(pool: &Pool) {
    assert_eq!(pool.map(0..20u64, |x| x * x).unwrap(), (0..20u64).map(|x| x * x).collect::<Vec<_>>());
}

/// Every item has its own value, save one at most that went with a worker.
pub(crate) fn assert_one_lost_at_most(results: Vec<Result<u32, TaskError>>, count: usize) {
    assert_eq!(results.len(), count);
    assert_one_lost_at_most_or(results, |_| false);
}

/// As [`assert_one_lost_at_most`], where other errors are allowed too.
pub(crate) fn assert_one_lost_at_most_or(results: Vec<Result<u32, TaskError>>, allowed: impl Fn(&TaskError) -> bool) {
    let mut lost = 0;
    for (x, result) in (0u32..).zip(results) {
        match result {
            Ok(value) => assert_eq!(value, x),
            Err(TaskError::WorkerDied { started: true, .. }) => lost += 1,
            Err(other) => assert!(allowed(&other), "item {x}: {other:?}"),
        }
    }
    assert!(lost <= 1, "{lost} items lost by one death");
}

/// Waits until every worker of the pool has begun its work: each runs an item at the same time as all others.
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

/// Gives the error of a result that must be one.
pub(crate) fn error<T: std::fmt::Debug>(result: Result<T, TaskError>) -> TaskError {
    result.expect_err("an error")
}
