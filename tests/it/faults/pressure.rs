//! Whole lives of pools under pressure: constant signals, any limit of descriptors, no new processes, no new threads.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::faults::exhaustion;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;
use crate::harness::sys::Forbidden;

cases![
    signals_that_interrupt_everything_cost_nothing,
    any_number_of_descriptors_is_enough_or_told,
    pool_that_is_built_survives_a_death_with_few_descriptors,
    missing_pidfds_are_told_or_made_good,
    refused_pidfd_signals_are_told_or_made_good,
    no_process_to_be_had_is_told,
    no_thread_to_be_had_is_told,
    no_process_to_be_had_later_costs_no_results,
];

/// The signal of the storm: ignored by default, and interrupts system calls in processes that install a handler.
const STORM: Signal = Signal::SIGWINCH;
const STORM_TIME: Duration = Duration::from_millis(1500);

/// Sends signals to every thread of this process, every worker, and the process that forks them, until told to end.
fn storm(pool: &Pool, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        sys::signal_all_threads(STORM);
        let others = pool.pids().into_iter().chain(procpool::forkserver::pid());
        for pid in others {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap());
            for signal in [STORM, Signal::SIGCONT] {
                let _ = nix::sys::signal::kill(pid, signal);
            }
        }
        thread::sleep(Duration::from_micros(100));
    }
}

fn work(pool: &Pool) {
    let large = vec![7u8; 300_000];
    assert_eq!(pool.map(0..50u32, |x| x).unwrap(), (0..50).collect::<Vec<_>>());
    assert_eq!(pool.imap(0..50u32, |x| x).map(Result::unwrap).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    assert!(pool.apply((large.clone(),), |bytes| bytes).unwrap() == large);
    assert_eq!(
        pool.with(&large).map(0..4usize, |large, x| large.len() + x).unwrap(),
        [300_000, 300_001, 300_002, 300_003]
    );
    let slow = pool.map_async(0..4u32, |x| {
        thread::sleep(Duration::from_millis(2));
        x
    });
    assert_eq!(slow.get().unwrap(), [0, 1, 2, 3]);
}

fn signals_that_interrupt_everything_cost_nothing(method: StartMethod) {
    sys::interrupt_by(STORM);
    let builder = Pool::builder().processes(3).start_method(method).max_tasks_per_child(40);
    let pool = builder.initializer(((),), |()| sys::interrupt_by(STORM)).build().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let storming = scope.spawn(|| storm(&pool, &over));
        let end = Instant::now() + STORM_TIME;
        let working = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while Instant::now() < end {
                work(&pool);
            }
            if method != StartMethod::Fork {
                // Another pool is made and dropped meanwhile, but not by `fork`, which is refused beside the storm's
                // thread.
                stage::assert_works(&stage::pool(method, 2));
            }
            pool.close();
            pool.join().unwrap();
        }));
        over.store(true, Ordering::SeqCst);
        storming.join().unwrap();
        working.unwrap();
    });
}

/// Everything that a pool does in its life. Errors are checked only by type here.
fn life(method: StartMethod) -> Result<(), TaskError> {
    let pool = Pool::builder().processes(2).start_method(method).max_tasks_per_child(30).build()?;
    assert_eq!(pool.map(0..40u32, |x| x)?, (0..40).collect::<Vec<_>>());
    let large = vec![7u8; 100_000];
    assert!(pool.apply((large.clone(),), |bytes| bytes)? == large);
    assert_eq!(pool.with(&large).map(0..4usize, |large, x| large.len() + x)?, [100_000, 100_001, 100_002, 100_003]);
    pool.pids().into_iter().take(1).for_each(stage::kill_if_there);
    let killed = pool.map_results(0..40u32, |x| x)?;
    stage::assert_one_lost_at_most_or(
        killed,
        |error| matches!(error, TaskError::Refused(error) if exhaustion::is_scarcity(error)),
    );
    Ok(())
}

fn any_number_of_descriptors_is_enough_or_told(method: StartMethod) {
    let before = processes::descriptors(std::process::id());
    let (mut failures, mut successes) = (0, 0);
    for spare in 0..=40 {
        match exhaustion::with_spare_descriptors(spare, || life(method)) {
            Ok(()) => successes += 1,
            Err(TaskError::Refused(error)) if exhaustion::is_scarcity(&error) => failures += 1,
            Err(TaskError::Encode { .. } | TaskError::Decode { .. }) => failures += 1,
            // A large value whose descriptor cannot be received costs its worker.
            Err(TaskError::WorkerDied { .. }) => failures += 1,
            Err(other) => panic!("{spare} to spare: {other:?}"),
        }
        stage::until_nothing_is_left(&before);
    }
    assert!(failures > 0 && successes > 0, "the sweep missed the edge: {failures} failures, {successes} successes");
}

fn pool_that_is_built_survives_a_death_with_few_descriptors(method: StartMethod) {
    let (mut failures, mut successes) = (0, 0);
    for spare in 0..=40 {
        let built = exhaustion::with_spare_descriptors(spare, || {
            let pool = Pool::builder().processes(2).start_method(method).build()?;
            stage::assert_works(&pool);
            let victim = pool.pids()[0];
            stage::signal(victim, Signal::SIGKILL);
            stage::until_replaced(&pool, 2, &[victim]);
            stage::assert_works(&pool);
            Ok(())
        });
        match built {
            Ok(()) => successes += 1,
            Err(PoolError::Start(_) | PoolError::System { .. }) => failures += 1,
            Err(other) => panic!("{spare} to spare: {other:?}"),
        }
        procpool::forkserver::stop();
    }
    assert!(failures > 0 && successes > 0, "the sweep missed the edge: {failures} failures, {successes} successes");
}

/// A pool does everything that it promises, or is refused by `build` with the reason.
fn works_or_is_refused(method: StartMethod, works: bool) {
    let built = Pool::builder().processes(2).start_method(method).build();
    if !works {
        let error = built.unwrap_err().to_string();
        assert!(error.contains("pidfd") && error.contains("use fork"), "{error}");
        return;
    }
    let pool = built.unwrap();
    work(&pool);
    let never: fn(u32) = |_| loop {
        std::hint::spin_loop();
    };
    let limited = pool.timeout(Duration::from_millis(80)).apply((1u32,), never);
    assert!(matches!(limited, Err(TaskError::TimedOut { .. })), "{limited:?}");
    let died = pool.apply((1u32,), |_| -> u32 { std::process::abort() });
    assert!(matches!(died, Err(TaskError::WorkerDied { status: Some(_), .. })), "{died:?}");
    let cancelled = pool.apply_async((1u32,), never);
    cancelled.cancel();
    assert!(matches!(cancelled.get(), Err(TaskError::Cancelled)));
    stage::until_all_work(&pool);
    let busy = pool.apply_async((1u32,), never);
    pool.terminate();
    pool.join().unwrap();
    busy.get().unwrap_err();
}

/// As under valgrind.
fn missing_pidfds_are_told_or_made_good(method: StartMethod) {
    sys::refuse(libc::SYS_pidfd_open, libc::ENOSYS);
    works_or_is_refused(method, method == StartMethod::Fork);
}

fn refused_pidfd_signals_are_told_or_made_good(method: StartMethod) {
    sys::refuse(libc::SYS_pidfd_send_signal, libc::EPERM);
    works_or_is_refused(method, true);
}

/// EAGAIN comes from the kernel here, not from a failpoint.
fn no_process_to_be_had_is_told(method: StartMethod) {
    sys::forbid(Forbidden::Processes);
    let built = Pool::builder().processes(2).start_method(method).build();
    match built.map_err(TaskError::from).and_then(|pool| pool.map(0..10u32, |x| x)) {
        Err(TaskError::Refused(PoolError::Start(StartError::System { errno, .. }))) => assert_eq!(errno, libc::EAGAIN),
        Err(TaskError::Refused(PoolError::Broken { last, .. })) => {
            assert!(matches!(*last, PoolError::Start(StartError::System { errno: libc::EAGAIN, .. })), "{last:?}");
        }
        other => panic!("{other:?}"),
    }
}

fn no_thread_to_be_had_is_told(method: StartMethod) {
    sys::forbid(Forbidden::Threads);
    match Pool::builder().processes(2).start_method(method).build() {
        Err(PoolError::System { errno, .. }) => assert_eq!(errno, libc::EAGAIN),
        other => panic!("{other:?}"),
    }
}

/// Servers and templates may still fork; this process may not. The pool works with the workers it has, or fails with
/// the cause.
fn no_process_to_be_had_later_costs_no_results(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    sys::forbid(Forbidden::Processes);
    let victims = pool.pids();
    stage::signal(victims[0], Signal::SIGKILL);
    for _ in 0..20 {
        stage::assert_works(&pool);
    }
    if method != StartMethod::Spawn {
        stage::until_replaced(&pool, 2, &victims[..1]);
    }
    pool.pids().into_iter().for_each(stage::kill_if_there);
    match (method, pool.map(0..10u32, |x| x)) {
        (StartMethod::Spawn, Err(TaskError::Refused(PoolError::Broken { .. }))) => {}
        (StartMethod::Fork | StartMethod::Forkserver, Ok(values)) => assert_eq!(values, (0..10).collect::<Vec<_>>()),
        (_, other) => panic!("{other:?}"),
    }
}
