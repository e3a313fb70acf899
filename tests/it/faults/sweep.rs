//! Kills a process at every boundary of its system calls: before each call, and after it.
//!
//! The case traces the process (ptrace) from a separate thread, lets it run from one boundary to the next, and kills
//! it at the k-th, for k = 0, 1, 2, … up to the run in which the process ends by itself. By default it takes strides,
//! to stay within the deadline of a case; `PROCPOOL_IT_SWEEP_STRIDE=1` tries every k and needs a longer deadline.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::ptrace;
use nix::sys::ptrace::Options;
use nix::sys::signal::Signal;
use nix::sys::wait::Id;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitid;
use nix::unistd::Pid;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::faults::failpoints::arm;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![worker_killed_at_any_system_call, server_killed_at_any_system_call, program_may_trace_what_it_has_started,];

fn boundaries(default_stride: usize) -> impl Iterator<Item = usize> {
    let stride = std::env::var("PROCPOOL_IT_SWEEP_STRIDE").ok().and_then(|stride| stride.parse().ok());
    (0..).step_by(stride.unwrap_or(default_stride))
}

/// Traces the process, then calls `begin`, and kills it at its `count`-th boundary. Returns false if it had fewer.
///
/// It does not reap: the process belongs to another parent, which learns of its end when the calling thread ends.
fn kill_at(pid: u32, count: usize, begin: impl FnOnce()) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).unwrap();
    ptrace::interrupt(pid).unwrap();
    let mut begin = Some(begin);
    let mut passed = 0;
    loop {
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
        let signal = match waitid(Id::Pid(pid), flags) {
            Ok(WaitStatus::PtraceSyscall(_)) => {
                if passed == count {
                    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
                    return true;
                }
                passed += 1;
                None
            }
            // A signal on its way to the process, which is delivered when the process continues.
            Ok(WaitStatus::PtraceEvent(_, signal, 0)) => Some(signal),
            Ok(WaitStatus::PtraceEvent(..)) => None,
            // It has ended, and its parent may already have reaped it.
            Ok(_) | Err(_) => return false,
        };
        if ptrace::syscall(pid, signal).is_err() {
            // Killed by another process while it was stopped.
            return false;
        }
        if let Some(begin) = begin.take() {
            begin();
        }
    }
}

type Results = Vec<Result<u32, TaskError>>;

fn noted(x: u32, book: &str) -> u32 {
    stage::note(book, x);
    x
}

/// A mix of everything that a worker does: ten items, more than one worker may run.
fn session(pool: &Pool, book: &str) -> Results {
    let mut results: Results = Vec::new();
    let items = |range: std::ops::Range<u32>| range.map(|x| (x, book.to_owned())).collect::<Vec<_>>();
    results.extend(pool.chunk_size(2).map_results(items(0..4), |(x, book)| noted(x, &book)).unwrap());
    let large = vec![7u8; 200_000];
    results.push(pool.apply((large.clone(), 4, book.to_owned()), |bytes: Vec<u8>, x, book| {
        assert_eq!(bytes.len(), 200_000);
        noted(x, &book)
    }));
    let made = pool.apply((5, book.to_owned()), |x, book| (noted(x, &book), vec![7u8; 200_000]));
    results.push(made.map(|(x, bytes)| {
        assert!(bytes == large);
        x
    }));
    let context = "context".to_owned();
    let with_context = pool.with(&context).map_results(items(6..8), |context, (x, book)| {
        assert_eq!(context, "context");
        noted(x, &book)
    });
    results.extend(with_context.unwrap());
    results.extend(pool.map_results(items(8..10), |(x, book)| noted(x, &book)).unwrap());
    results
}

/// Checks that each item has one outcome, none is begun twice, and at most `lost_max` are lost.
#[track_caller]
fn check(results: Results, book: &Notebook, lost_max: usize) {
    assert_eq!(results.len(), 10);
    let mut begun = BTreeMap::new();
    for line in book.lines() {
        *begun.entry(line.parse::<u32>().unwrap()).or_insert(0) += 1;
    }
    assert!(begun.values().all(|&count| count == 1), "an item was run twice: {begun:?}");
    let mut lost = 0;
    for (x, result) in (0u32..).zip(results) {
        match result {
            Ok(value) => assert!(value == x && begun.contains_key(&x)),
            Err(TaskError::WorkerDied { .. }) => lost += 1,
            Err(other) => panic!("item {x}: {other:?}"),
        }
    }
    assert!(lost <= lost_max, "{lost} items lost");
}

/// From the moment when the worker has read its boot message, through all kinds of work, to its retirement.
fn worker_killed_at_any_system_call(method: StartMethod) {
    let before = processes::descriptors(std::process::id());
    for boundary in boundaries(29) {
        let (book, mut gate) = (Notebook::new(), Gate::closed());
        arm(&format!("procpool-0 at_birth 1 wait {}", gate.path()));
        let pool = Pool::builder().processes(1).start_method(method).max_tasks_per_child(8).build().unwrap();
        let victim = stage::pool_pid(&pool);
        let (results, was_killed) = thread::scope(|scope| {
            let tracing = scope.spawn(|| kill_at(victim, boundary, || gate.open()));
            let results = session(&pool, &book.path());
            (results, tracing.join().unwrap())
        });
        check(results, &book, usize::from(was_killed));
        stage::assert_works(&pool);
        pool.close();
        pool.join().unwrap();
        drop(pool);
        drop((book, gate));
        stage::until_nothing_is_left(&before);
        if !was_killed {
            return;
        }
    }
}

/// The process that forks the workers, if the method has one.
fn server(method: StartMethod) -> Option<u32> {
    match method {
        StartMethod::Fork => {
            let children = processes::children(std::process::id());
            Some(children.into_iter().find(|child| child.comm == "fork-template").unwrap().pid)
        }
        StartMethod::Forkserver => procpool::forkserver::pid(),
        StartMethod::Spawn => None,
    }
}

/// While the server reaps two workers and forks their replacements, which cost no item.
fn server_killed_at_any_system_call(method: StartMethod) {
    if method == StartMethod::Spawn {
        return;
    }
    let before = processes::descriptors(std::process::id());
    for boundary in boundaries(7) {
        let pool = stage::pool(method, 2);
        stage::until_all_work(&pool);
        let server = server(method).unwrap();
        let was_killed = thread::scope(|scope| {
            let (sender, begun) = std::sync::mpsc::channel();
            let tracing = scope.spawn(move || kill_at(server, boundary, || sender.send(()).unwrap()));
            begun.recv().unwrap();
            let victims = pool.pids();
            victims.iter().for_each(|&victim| stage::signal(victim, Signal::SIGKILL));
            let results = pool.map_results(0..20u32, |x| x);
            let is_broken =
                |error: &PoolError| method == StartMethod::Fork && matches!(error, PoolError::Broken { .. });
            match results {
                Ok(results) => (0..).zip(results).for_each(|(x, result)| match result {
                    Ok(value) => assert_eq!(value, x),
                    // The state of a template is lost with it.
                    Err(TaskError::Refused(error)) => assert!(is_broken(&error), "{error:?}"),
                    Err(other) => panic!("item {x} at boundary {boundary}: {other:?}"),
                }),
                Err(TaskError::Refused(error)) => assert!(is_broken(&error), "{error:?}"),
                Err(other) => panic!("boundary {boundary}: {other:?}"),
            }
            if method == StartMethod::Forkserver {
                stage::until_replaced(&pool, 2, &victims);
                stage::assert_works(&pool);
            }
            // If it is still alive, this ends it.
            drop(pool);
            procpool::forkserver::stop();
            tracing.join().unwrap()
        });
        stage::until_nothing_is_left(&before);
        if !was_killed {
            return;
        }
    }
}

/// A child that is traced by its own parent reports its stops to every wait for its end.
fn program_may_trace_what_it_has_started(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::until_all_work(&pool);
    let Some(server) = server(method) else { return };
    let victims = pool.pids();
    let pid = Pid::from_raw(i32::try_from(server).unwrap());
    let seize = || {
        ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).unwrap();
        ptrace::interrupt(pid).unwrap();
        stage::until("its stop", || processes::Process::find(server).unwrap().state == 't');
        stage::signal(victims[0], Signal::SIGKILL);
        // Long enough for the pool to ask for another worker and to check whether the process it asks has ended; too
        // short for it to give that process up.
        let killed = Instant::now();
        stage::until("a moment", || killed.elapsed() > Duration::from_millis(200));
        ptrace::detach(pid, None).unwrap();
    };
    // In a separate thread, since tracing ends with the thread.
    thread::scope(|scope| scope.spawn(seize).join().unwrap());
    stage::until_replaced(&pool, 1, &victims);
    stage::assert_works(&pool);
    assert!(!processes::ended(server));
}
