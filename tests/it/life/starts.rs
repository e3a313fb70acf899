//! Calls that continue while a worker is starting, however long that takes: the process that starts workers is stopped.
//!
//! `spawn` has no such process; there the same checks run with starts that take their usual time.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::forkserver;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::processes::Process;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

const WAIT_MAX: Duration = Duration::from_secs(30);

cases![
    submission_does_not_wait_for_a_start,
    join_ends_when_the_pool_is_terminated_during_a_start,
    terminate_and_join_during_starts_panic_nowhere,
    drop_during_a_start_panics_nowhere,
    dead_worker_delays_no_end,
];

/// The process that starts the workers, stopped until this is dropped.
struct Stopped(Option<u32>);

impl Stopped {
    /// Finds the parent of a replacement, unless that is this process, and stops it.
    fn starter_of(pool: &Pool) -> Stopped {
        let victims = pool.pids();
        victims.iter().for_each(|&pid| stage::signal(pid, Signal::SIGKILL));
        let replacements = stage::until_replaced(pool, pool.processes(), &victims);
        stage::until_ended(&victims);
        let starter = Process::find(replacements[0]).unwrap().parent;
        let starter = (starter != std::process::id()).then_some(starter);
        if let Some(pid) = starter {
            stage::signal(pid, Signal::SIGSTOP);
            stage::until("a stopped starter", || Process::find(pid).unwrap().state == 'T');
        }
        Stopped(starter)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // A dropped pool may already have ended its template.
            let _ = nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGCONT);
        }
    }
}

/// Each worker leaves after one item, so each item that begins is followed by a start.
fn pool_of_one_item_workers(method: StartMethod, processes: usize) -> Pool {
    let pool = Pool::builder().processes(processes).start_method(method).max_tasks_per_child(1).build().unwrap();
    stage::until_complete(&pool);
    pool
}

/// Joins a terminated pool, which may report that a worker that is still starting has not been reaped.
fn join_during_a_start(pool: &Pool) {
    match pool.join() {
        Ok(()) => {}
        Err(PoolError::Unreaped { pids }) if pids.is_empty() => {}
        other => panic!("{other:?}"),
    }
}

fn until_joined(pool: &Pool) {
    stage::until("the last start", || pool.join().is_ok());
    assert_eq!(pool.pids(), [0u32; 0]);
}

fn submission_does_not_wait_for_a_start(method: StartMethod) {
    let pool = pool_of_one_item_workers(method, 2);
    let stopped = Stopped::starter_of(&pool);
    let first = pool.apply_async((1u64,), |x| x);
    let second = pool.apply_async((2u64,), |x| x);
    assert_eq!(first.get_timeout(WAIT_MAX).unwrap(), Some(1));
    assert_eq!(second.get_timeout(WAIT_MAX).unwrap(), Some(2));
    let third = pool.apply_async((3u64,), |x| x);
    let _ = third.get_timeout(Duration::from_millis(10));
    drop(stopped);
    assert_eq!(third.get().unwrap(), 3);
}

fn join_ends_when_the_pool_is_terminated_during_a_start(method: StartMethod) {
    let pool = Arc::new(pool_of_one_item_workers(method, 1));
    let stopped = Stopped::starter_of(&pool);
    let (book, gate) = (Notebook::new(), Gate::closed());
    let running = pool.apply_async((book.path(), gate.path()), |book, gate| {
        stage::note(&book, "here");
        stage::pass(&gate);
    });
    let waiting = pool.apply_async((1u64,), |x| x);
    book.wait_for(1);
    pool.close();
    let (sender, joined) = mpsc::channel();
    let joining = Arc::clone(&pool);
    let joiner = thread::spawn(move || {
        sender.send(()).unwrap();
        join_during_a_start(&joining);
    });
    joined.recv_timeout(WAIT_MAX).unwrap();
    pool.terminate();
    drop(stopped);
    joiner.join().unwrap();
    until_joined(&pool);
    assert!(matches!(running.get(), Err(TaskError::Terminated)));
    assert!(matches!(waiting.get(), Err(TaskError::Terminated) | Ok(1)));
}

/// Another thread drives the pool during the starts.
fn terminate_and_join_during_starts_panic_nowhere(method: StartMethod) {
    for continue_first in [false, true] {
        let pool = Arc::new(pool_of_one_item_workers(method, 3));
        let stopped = Stopped::starter_of(&pool);
        let book = Notebook::new();
        let path = book.path();
        let working = Arc::clone(&pool);
        let worker = thread::spawn(move || {
            let items = vec![path; 6];
            working.chunk_size(1).map_async(items, |book| stage::note(&book, "here")).get()
        });
        book.wait_for(3);
        let stopped = (!continue_first).then_some(stopped);
        pool.terminate();
        join_during_a_start(&pool);
        drop(stopped);
        match worker.join().expect("the thread that drives the pool does not panic") {
            Ok(_) | Err(TaskError::Terminated) => {}
            Err(other) => panic!("{other:?}"),
        }
        pool.terminate();
        until_joined(&pool);
    }
}

fn drop_during_a_start_panics_nowhere(method: StartMethod) {
    for join_first in [false, true] {
        let pool = pool_of_one_item_workers(method, 1);
        let stopped = Stopped::starter_of(&pool);
        let book = Notebook::new();
        let handle = pool.apply_async((book.path(),), |book| stage::note(&book, "here"));
        book.wait_for(1);
        if join_first {
            pool.terminate();
            join_during_a_start(&pool);
            pool.terminate();
        }
        drop(pool);
        drop(stopped);
        // A start that the pool did not wait for ends in the background, and leaves nothing.
        stage::until("the end of the last start", || {
            let left = processes::children(std::process::id());
            processes::thread_count() == 1 && left.iter().all(|child| Some(child.pid) == forkserver::pid())
        });
        assert!(matches!(handle.get(), Ok(()) | Err(TaskError::Terminated)));
    }
}

/// If `terminate` waited for output of a dead worker, each would take a second, or never return.
fn dead_worker_delays_no_end(method: StartMethod) {
    let begun = std::time::Instant::now();
    for round in 0..30 {
        let pool = stage::pool(method, 2);
        stage::assert_works(&pool);
        pool.pids().into_iter().for_each(|pid| stage::signal(pid, Signal::SIGKILL));
        match round % 3 {
            0 => {}
            1 => {
                pool.terminate();
                pool.join().unwrap();
            }
            _ => {
                pool.close();
                pool.join().unwrap();
            }
        }
        drop(pool);
    }
    assert!(begun.elapsed() < WAIT_MAX, "30 ends took {:?}", begun.elapsed());
}
