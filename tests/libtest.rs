//! Pools under libtest, where `main` cannot call `init`: `test_init!` replaces the call.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Write;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use procpool::Pool;
use procpool::PoolError;
use procpool::StartError;
use procpool::StartMethod;

procpool::test_init!();

/// Aborts the test run with a message if the test hangs.
struct Deadline {
    // Dropped at the end of the test, which ends the watchdog.
    _done: mpsc::Sender<()>,
}

impl Deadline {
    fn new(test: &'static str) -> Self {
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(120)) == Err(RecvTimeoutError::Timeout) {
                let state = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
                // Not captured by libtest, which would lose it in the abort.
                let _ = writeln!(std::io::stderr().lock(), "{test} hangs\n{state}");
                std::process::abort();
            }
        });
        Self { _done: done }
    }
}

fn assert_works(method: StartMethod) {
    let _deadline = Deadline::new("a pool under libtest");
    let pool = Pool::builder().processes(2).start_method(method).build().unwrap();
    assert_eq!(pool.map(0..100u32, |x| x + 1).unwrap(), (1..101).collect::<Vec<_>>());
    pool.apply((1u8,), |_| -> u8 { std::process::exit(0) }).unwrap_err();
    assert_eq!(pool.apply((20u8, 22u8), |a, b| a + b).unwrap(), 42);
    pool.close();
    pool.join().unwrap();
}

#[test]
fn spawned_workers_are_not_test_runs() {
    assert_works(StartMethod::Spawn);
}

#[test]
fn forkserver_workers_are_not_test_runs() {
    assert_works(StartMethod::Forkserver);
}

/// Tests run in threads of libtest, so a fork would copy the locks that other threads hold.
#[test]
fn fork_is_refused_in_a_threaded_test_run() {
    let error = Pool::builder().processes(1).start_method(StartMethod::Fork).build().unwrap_err();
    assert!(matches!(error, PoolError::Start(StartError::ForeignThreads { .. })), "{error:?}");
}
