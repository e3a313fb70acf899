//! Waiting for a process: again and again, from several threads, with and without a time limit.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use procpool::Fd;
use procpool::StartMethod;
use procpool::channel;
use procpool::channel::RecvError;
use procpool::process::ProcessError;
use procpool::wait;
use start_methods::failpoint;

use super::by;
use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::sys;
use crate::ipc;
use crate::ipc::Reader;

cases![
    join_may_be_repeated,
    many_threads_wait_for_one_process,
    threads_that_give_up_leave_the_others_waiting,
    time_limits_are_kept,
    descriptor_tells_the_end,
    first_of_processes_and_messages,
    outcome_counts_although_the_process_does_not_end,
    outcome_that_another_thread_takes_is_seen_by_all,
    full_table_of_this_process_loses_no_result,
    handles_travel_between_threads,
];

/// Waits at the gate, and returns the number.
fn gated(gate: String, number: u32) -> u32 {
    stage::pass(&gate);
    number
}

fn join_may_be_repeated(method: StartMethod) {
    let process = by(method).spawn((7u32, "x".repeat(100_000)), |number, text| (number, text)).unwrap();
    for _ in 0..3 {
        assert_eq!(process.join().unwrap().0, 7);
        assert_eq!(process.join_timeout(Duration::ZERO).unwrap().unwrap().1.len(), 100_000);
    }
    let panics: fn() = || panic!("as planned");
    let failed = by(method).spawn((), panics).unwrap();
    for _ in 0..3 {
        assert!(matches!(failed.join(), Err(ProcessError::Panicked(panic)) if panic.message == "as planned"));
    }
}

fn many_threads_wait_for_one_process(method: StartMethod) {
    let mut gate = Gate::closed();
    let process = by(method).spawn((gate.path(), 7), gated).unwrap();
    let all_wait = Barrier::new(21);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..20u32)
            .map(|index| {
                let (process, all_wait) = (&process, &all_wait);
                scope.spawn(move || {
                    all_wait.wait();
                    match index % 2 {
                        0 => process.join(),
                        _ => process.join_timeout(Duration::from_secs(60)).map(|value| value.expect("in time")),
                    }
                })
            })
            .collect();
        all_wait.wait();
        gate.open();
        waiting.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap().unwrap(), 7));
    });
}

fn threads_that_give_up_leave_the_others_waiting(method: StartMethod) {
    let mut gate = Gate::closed();
    let process = by(method).spawn((gate.path(), 7), gated).unwrap();
    thread::scope(|scope| {
        let patient = scope.spawn(|| process.join());
        // Whichever thread watches the process: it may be one of these, which then pass that on.
        for _ in 0..20 {
            let hasty: Vec<_> =
                (0..4).map(|_| scope.spawn(|| process.join_timeout(Duration::from_millis(2)))).collect();
            hasty.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap().unwrap(), None));
        }
        gate.open();
        assert_eq!(patient.join().unwrap().unwrap(), 7);
    });
}

fn time_limits_are_kept(method: StartMethod) {
    let mut gate = Gate::closed();
    let process = by(method).spawn((gate.path(), 7), gated).unwrap();
    assert_eq!(process.join_timeout(Duration::ZERO).unwrap(), None);
    assert_eq!(process.join_timeout(Duration::from_millis(10)).unwrap(), None);
    assert!(process.is_alive());
    assert!(process.exit_status().unwrap().is_none());
    gate.open();
    assert_eq!(process.join_timeout(Duration::MAX).unwrap(), Some(7));
    assert!(!process.is_alive());
    assert!(process.exit_status().unwrap().unwrap().success());
}

fn descriptor_tells_the_end(method: StartMethod) {
    let mut gate = Gate::closed();
    let process = by(method).spawn((gate.path(), 7), gated).unwrap();
    assert!(!sys::readable_within(&process, Duration::from_millis(10)).unwrap());
    gate.open();
    assert!(sys::readable_within(&process.as_fd(), Duration::from_secs(30)).unwrap());
    assert_eq!(process.join().unwrap(), 7);
}

fn first_of_processes_and_messages(method: StartMethod) {
    let (tx, rx) = channel::bounded::<u8>(1).unwrap();
    let (mut gate, mut other_gate) = (Gate::closed(), Gate::closed());
    let process = by(method).spawn((gate.path(), 7), gated).unwrap();
    let talks = |tx: channel::Sender<u8>, gate: String| {
        stage::pass(&gate);
        tx.send(9).unwrap();
    };
    let talker = by(method).spawn((tx, other_gate.path()), talks).unwrap();
    assert!(wait::any(&[&process, &rx], Some(Duration::from_millis(10))).unwrap().is_empty());
    gate.open();
    assert_eq!(wait::any(&[&process, &rx], None).unwrap(), [0]);
    assert_eq!(process.join().unwrap(), 7);
    other_gate.open();
    assert_eq!(wait::any(&[&rx], None).unwrap(), [0]);
    assert_eq!(rx.recv().unwrap(), 9);
    assert_eq!(wait::any(&[&talker], None).unwrap(), [0]);
    talker.join().unwrap();
    // The last sender was in that process.
    assert!(matches!(rx.recv(), Err(RecvError::Disconnected)));
}

/// Returns, and keeps its process from ending: another thread has locked the output that is flushed at the end.
fn linger(number: u32) -> u32 {
    let locked = Arc::new(Barrier::new(2));
    let there = Arc::clone(&locked);
    thread::spawn(move || {
        let _output = std::io::stdout().lock();
        there.wait();
        loop {
            thread::park();
        }
    });
    locked.wait();
    number
}

fn outcome_counts_although_the_process_does_not_end(method: StartMethod) {
    let process = by(method).spawn((7,), linger).unwrap();
    thread::scope(|scope| {
        let others: Vec<_> = (0..3).map(|_| scope.spawn(|| process.join())).collect();
        assert_eq!(process.join().unwrap(), 7);
        others.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap().unwrap(), 7));
    });
    assert!(process.is_alive());
    assert_eq!(process.join_timeout(Duration::ZERO).unwrap(), Some(7), "it is not waited for again");
}

/// The thread that sleeps at the descriptors is not the one that reads.
fn outcome_that_another_thread_takes_is_seen_by_all(method: StartMethod) {
    failpoint::arm("parent before_watch 1- sleep 30");
    let process = by(method).spawn((7,), linger).unwrap();
    thread::scope(|scope| {
        let patient = scope.spawn(|| process.join());
        stage::until("the outcome", || process.join_timeout(Duration::from_micros(100)).unwrap().is_some());
        assert_eq!(patient.join().unwrap().unwrap(), 7);
    });
    failpoint::arm("");
}

fn full_table_of_this_process_loses_no_result(method: StartMethod) {
    let large = by(method).spawn((1usize << 20,), |len| vec![7u8; len]).unwrap();
    let carrying: fn() -> Reader = || {
        let (reader, writer) = ipc::pipe();
        ipc::say(&writer, "said");
        Fd::new(reader)
    };
    let carrying = by(method).spawn((), carrying).unwrap();
    stage::until("the ends", || !large.is_alive() && !carrying.is_alive());
    let limits = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 40, limits.1).unwrap();
    let full: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let answers = (large.join(), carrying.join().map(drop));
    drop(full);
    setrlimit(Resource::RLIMIT_NOFILE, limits.0, limits.1).unwrap();
    for error in [answers.0.map(drop).unwrap_err(), answers.1.unwrap_err()] {
        assert!(matches!(error, ProcessError::Decode { .. }), "{error:?}");
        assert!(error.to_string().contains("ulimit -n"), "{error}");
    }
    assert_eq!(large.join().unwrap().len(), 1 << 20);
    let reader = carrying.join().unwrap();
    drop(carrying);
    assert_eq!(ipc::read_to_end(reader.into_inner()), "said");
}

fn handles_travel_between_threads(method: StartMethod) {
    let process = Arc::new(by(method).spawn((3u8,), |x| x * 2).unwrap());
    let there = Arc::clone(&process);
    let waiting = thread::spawn(move || there.join().unwrap());
    assert_eq!(process.join().unwrap(), 6);
    assert_eq!(waiting.join().unwrap(), 6);
}
