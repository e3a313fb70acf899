//! Callbacks: called once each, not on the caller's thread, and free to use the pool.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use procpool::AsyncResult;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;

/// Longer than it takes until a callback is called.
const WAIT_MAX: Duration = Duration::from_secs(30);

cases![
    callback_runs_exactly_once_for_a_value,
    callback_runs_exactly_once_for_an_error,
    callback_runs_for_a_result_that_is_already_there,
    callback_runs_off_the_callers_thread,
    callback_runs_although_the_handle_is_dropped,
    callback_of_map_gets_all_values,
    panicking_callback_is_harmless,
    callback_may_submit,
    callback_may_wait_for_another_job,
    callback_may_terminate,
    callback_may_not_join,
    blocked_callback_stalls_no_result,
    callbacks_are_told_of_termination,
    callback_may_drop_the_last_pool,
    callbacks_run_in_the_order_of_the_results,
];

/// The callbacks own the senders, so the channel ends once both have run or been dropped.
fn callback_runs_exactly_once_for_a_value(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (sender, calls) = mpsc::channel();
    let other = sender.clone();
    let handle = pool
        .apply_async((20u8,), |x| x + 1)
        .on_success(move |value| sender.send(Ok(value)).unwrap())
        .on_error(move |error| other.send(Err(error)).unwrap());
    assert_eq!(handle.get().unwrap(), 21);
    assert_eq!(calls.recv_timeout(WAIT_MAX).unwrap().unwrap(), 21);
    drop(handle);
    drop(pool);
    assert!(calls.recv().is_err(), "a second call");
}

fn callback_runs_exactly_once_for_an_error(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (sender, calls) = mpsc::channel();
    let other = sender.clone();
    let handle = pool
        .apply_async((20u8,), |_| -> u8 { panic!("told") })
        .on_success(move |value| sender.send(Ok(value)).unwrap())
        .on_error(move |error| other.send(Err(error)).unwrap());
    handle.wait();
    let call = calls.recv_timeout(WAIT_MAX).unwrap();
    assert!(matches!(&call, Err(TaskError::Panicked(panic)) if panic.message == "told"), "{call:?}");
    drop(handle);
    drop(pool);
    assert!(calls.recv().is_err(), "a second call");
}

fn callback_runs_for_a_result_that_is_already_there(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (sender, calls) = mpsc::channel();
    let handle = pool.apply_async((20u8,), |x| x + 1);
    handle.wait();
    let handle = handle.on_success(move |value| sender.send(value).unwrap());
    assert_eq!(calls.recv_timeout(WAIT_MAX).unwrap(), 21);
    assert_eq!(handle.get().unwrap(), 21);
    let (sender, calls) = mpsc::channel();
    let handle = pool.apply_async((20u8,), |_| -> u8 { panic!("late") });
    handle.wait();
    let _handle = handle.on_error(move |error| sender.send(error).unwrap());
    assert!(matches!(calls.recv_timeout(WAIT_MAX).unwrap(), TaskError::Panicked(_)));
}

fn callback_runs_off_the_callers_thread(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (sender, calls) = mpsc::channel();
    let late_sender = sender.clone();
    let handle = pool.apply_async((1u8,), |x| x).on_success(move |_| sender.send(thread::current().id()).unwrap());
    handle.wait();
    assert_ne!(calls.recv_timeout(WAIT_MAX).unwrap(), thread::current().id());
    let handle = pool.apply_async((1u8,), |x| x);
    handle.wait();
    let _handle = handle.on_success(move |_| late_sender.send(thread::current().id()).unwrap());
    assert_ne!(calls.recv_timeout(WAIT_MAX).unwrap(), thread::current().id());
}

/// No thread waits for the job, so the background thread must drive it.
fn callback_runs_although_the_handle_is_dropped(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (sender, calls) = mpsc::channel();
    drop(pool.apply_async((20u8,), |x| x + 1).on_success(move |value| sender.send(value).unwrap()));
    assert_eq!(calls.recv_timeout(WAIT_MAX).unwrap(), 21);
}

fn callback_of_map_gets_all_values(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (sender, calls) = mpsc::channel();
    let handle = pool.map_async(0..100u32, |x| x).on_success(move |values| sender.send(values).unwrap());
    assert_eq!(calls.recv_timeout(WAIT_MAX).unwrap(), (0..100).collect::<Vec<_>>());
    assert!(handle.successful());
}

fn panicking_callback_is_harmless(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (sender, calls) = mpsc::channel();
    let loud = pool.apply_async((1u8,), |x| x).on_success(|_| panic!("a callback that panics on purpose"));
    let louder = pool.apply_async((1u8,), |_| -> u8 { panic!("task") }).on_error(|_| panic!("another on purpose"));
    let quiet = pool.apply_async((2u8,), |x| x).on_success(move |value| sender.send(value).unwrap());
    assert_eq!(calls.recv_timeout(WAIT_MAX).unwrap(), 2);
    assert_eq!(loud.get().unwrap(), 1);
    assert!(matches!(louder.get(), Err(TaskError::Panicked(panic)) if panic.message == "task"));
    assert_eq!(quiet.get().unwrap(), 2);
    stage::assert_works(&pool);
}

fn callback_may_submit(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 1));
    let (sender, calls) = mpsc::channel();
    let inner_pool = Arc::clone(&pool);
    let handle = pool.apply_async((20u32,), |x| x + 1).on_success(move |value| {
        let inner = inner_pool.apply_async((value,), |x| 2 * x);
        drop(inner_pool);
        sender.send(inner).unwrap();
    });
    let inner: AsyncResult<u32> = calls.recv_timeout(WAIT_MAX).unwrap();
    assert_eq!(inner.get().unwrap(), 42);
    assert_eq!(handle.get().unwrap(), 21);
    assert_ends(pool);
}

fn callback_may_wait_for_another_job(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 1));
    let (sender, calls) = mpsc::channel();
    let inner_pool = Arc::clone(&pool);
    let _handle = pool.apply_async((20u32,), |x| x + 1).on_success(move |value| {
        let sum: u32 = inner_pool.map(0..value, |x| x).unwrap().iter().sum();
        drop(inner_pool);
        sender.send(sum).unwrap();
    });
    assert_eq!(calls.recv_timeout(WAIT_MAX).unwrap(), 210);
    assert_ends(pool);
}

fn callback_may_terminate(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 2));
    let gate = Gate::closed();
    let (sender, calls) = mpsc::channel();
    let held = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    let inner_pool = Arc::clone(&pool);
    let _handle = pool.apply_async((1u8,), |x| x).on_success(move |_| {
        inner_pool.terminate();
        drop(inner_pool);
        sender.send(()).unwrap();
    });
    calls.recv_timeout(WAIT_MAX).unwrap();
    assert!(matches!(held.get(), Err(TaskError::Terminated)));
    assert_ends(pool);
}

fn callback_may_not_join(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 1));
    let (closed, wait_for_close) = mpsc::channel();
    let (sender, calls) = mpsc::channel();
    let inner_pool = Arc::clone(&pool);
    let _handle = pool.apply_async((1u8,), |x| x).on_success(move |_| {
        wait_for_close.recv_timeout(WAIT_MAX).unwrap();
        let answer = inner_pool.join();
        drop(inner_pool);
        sender.send(answer).unwrap();
    });
    pool.close();
    closed.send(()).unwrap();
    let answer = calls.recv_timeout(WAIT_MAX).unwrap();
    assert!(matches!(answer, Err(PoolError::WouldDeadlock)), "{answer:?}");
    assert_ends(pool);
}

fn blocked_callback_stalls_no_result(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (release, blocked) = mpsc::channel::<()>();
    let (entered, entry) = mpsc::channel();
    let handle = pool.apply_async((1u8,), |x| x).on_success(move |_| {
        entered.send(()).unwrap();
        blocked.recv_timeout(WAIT_MAX).unwrap();
    });
    entry.recv_timeout(WAIT_MAX).unwrap();
    assert_eq!(handle.get().unwrap(), 1);
    stage::assert_works(&pool);
    assert_eq!(pool.apply_async((2u8,), |x| x).get().unwrap(), 2);
    release.send(()).unwrap();
}

fn callbacks_are_told_of_termination(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let gate = Gate::closed();
    let (sender, calls) = mpsc::channel();
    let running_sender = sender.clone();
    let _running = pool
        .apply_async((gate.path(),), |gate| stage::pass(&gate))
        .on_error(move |error| running_sender.send(error).unwrap());
    let _queued = pool.apply_async((1u8,), |x| x).on_error(move |error| sender.send(error).unwrap());
    pool.terminate();
    for _ in 0..2 {
        assert!(matches!(calls.recv_timeout(WAIT_MAX).unwrap(), TaskError::Terminated));
    }
}

/// The audit checks that no thread of these pools is left.
fn callback_may_drop_the_last_pool(method: StartMethod) {
    let threads = processes::thread_count();
    for _ in 0..10 {
        let slot = Arc::new(Mutex::new(None));
        let taken = Arc::clone(&slot);
        let (sender, calls) = mpsc::channel();
        let mut gate = Gate::closed();
        let pool = stage::pool(method, 1);
        let handle = pool.apply_async((gate.path(),), |gate| stage::pass(&gate)).on_success(move |()| {
            let pool: Option<Pool> = taken.lock().unwrap().take();
            assert!(pool.is_some());
            drop(pool);
            sender.send(()).unwrap();
        });
        *slot.lock().unwrap() = Some(pool);
        gate.open();
        calls.recv_timeout(WAIT_MAX).unwrap();
        handle.get().unwrap();
        // A thread that drops its own pool cannot be joined; until it has ended, the next fork is refused.
        stage::until("the end of the callback thread", || processes::thread_count() == threads);
    }
}

/// The callbacks have dropped their clones, so this is the last one, and its drop ends the pool here.
fn assert_ends(pool: Arc<Pool>) {
    let pool = Arc::into_inner(pool).expect("the callbacks dropped their clones");
    pool.close();
    pool.join().unwrap();
}

/// Several threads drive by turns, and each takes what became due out of the engine.
fn callbacks_run_in_the_order_of_the_results(method: StartMethod) {
    const CALLS: usize = 300;
    let pool = Arc::new(stage::pool(method, 1));
    for _ in 0..5 {
        let gate = Gate::closed();
        let (sender, calls) = mpsc::channel();
        let held = pool.apply_async((gate.path(),), |gate: String| stage::pass(&gate));
        let handles: Vec<_> = (0..CALLS)
            .map(|n| {
                let sender = sender.clone();
                pool.apply_async((n,), |n| n).on_success(move |n| sender.send(n).unwrap())
            })
            .collect();
        drop(sender);
        let mut gate = gate;
        thread::scope(|scope| {
            for part in handles.chunks(CALLS / 4) {
                scope.spawn(move || part.iter().for_each(|handle| handle.wait()));
            }
            gate.open();
        });
        held.get().unwrap();
        let order: Vec<usize> = calls.iter().collect();
        assert_eq!(order, (0..CALLS).collect::<Vec<_>>());
    }
}
