//! `close`, `join` and drop, in any order and from any thread.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::warnings;

cases![
    close_runs_what_was_accepted,
    join_of_a_running_pool_is_refused,
    join_may_be_repeated,
    nothing_is_left_after_join,
    any_order_any_number_any_thread,
    submissions_after_close_are_refused,
    submissions_after_terminate_are_refused,
    close_ends_a_half_consumed_imap_after_what_it_drew,
    unused_pool_ends,
    pool_may_be_used_and_dropped_in_other_threads,
    handles_outlive_the_pool,
    drop_of_a_closed_pool_warns_of_what_it_cuts_off,
    join_waits_for_a_callback_and_terminate_does_not,
];

fn close_runs_what_was_accepted(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let path = book.path();
    let many = pool.map_async((0..1000u32).map(move |x| (x, path.clone())), |(x, book)| {
        stage::note(&book, x);
        x
    });
    let one = pool.apply_async((1u8,), |x| x);
    pool.close();
    pool.join().unwrap();
    assert_eq!(book.lines().len(), 1000);
    assert_eq!(many.get().unwrap(), (0..1000).collect::<Vec<_>>());
    assert_eq!(one.get().unwrap(), 1);
}

fn join_of_a_running_pool_is_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    assert!(matches!(pool.join(), Err(PoolError::StillRunning)));
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
}

fn join_may_be_repeated(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.close();
    for _ in 0..3 {
        pool.join().unwrap();
    }
    let pool = stage::pool(method, 1);
    pool.terminate();
    for _ in 0..3 {
        pool.join().unwrap();
    }
}

fn nothing_is_left_after_join(method: StartMethod) {
    for end in [Pool::close, Pool::terminate] {
        let pool = stage::pool(method, 3);
        stage::assert_works(&pool);
        let pids = pool.pids();
        assert_eq!(pids.len(), 3);
        end(&pool);
        pool.join().unwrap();
        assert!(pids.iter().all(|&pid| processes::Process::find(pid).is_none()), "a worker or a zombie is left");
        assert_eq!(pool.pids(), [0u32; 0]);
    }
}

fn any_order_any_number_any_thread(method: StartMethod) {
    for round in 0..5 {
        let pool = stage::pool(method, 2);
        let handle = pool.map_async(0..100u32, |x| x);
        thread::scope(|scope| {
            for thread_index in 0..8 {
                let pool = &pool;
                scope.spawn(move || {
                    for step in 0..6 {
                        match (thread_index + step + round) % 3 {
                            0 => pool.close(),
                            1 => pool.terminate(),
                            _ => match pool.join() {
                                Ok(()) | Err(PoolError::StillRunning) => {}
                                Err(other) => panic!("{other:?}"),
                            },
                        }
                    }
                });
            }
        });
        pool.join().unwrap();
        // The job was accepted, so its handle resolves, whether it was finished or terminated.
        match handle.get() {
            Ok(values) => assert_eq!(values.len(), 100),
            Err(TaskError::Terminated) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Submits in every way, and returns the errors.
fn submit_everywhere(pool: &Pool) -> Vec<TaskError> {
    let callback_seen = {
        let (sender, seen) = mpsc::channel();
        let handle = pool.apply_async((1u8,), |x| x).on_error(move |error| sender.send(error).unwrap());
        assert!(handle.ready() && !handle.successful());
        seen.recv().unwrap()
    };
    vec![
        callback_seen,
        stage::error(pool.apply((1u8,), |x| x)),
        stage::error(pool.apply_async((1u8,), |x| x).get()),
        stage::error(pool.map([1u8], |x| x)),
        stage::error(pool.map_async([1u8], |x| x).get()),
        stage::error(pool.map_results([1u8], |x| x)),
        stage::error(pool.starmap([(1u8,)], |x| x)),
        stage::error(pool.starmap_async([(1u8,)], |x| x).get()),
        stage::error(pool.starmap_results([(1u8,)], |x| x)),
        stage::error(pool.imap([1u8], |x| x).next().unwrap()),
        stage::error(pool.imap_unordered([1u8], |x| x).next().unwrap()),
        stage::error(pool.with(&1u8).apply((1u8,), |_, x| x)),
    ]
}

fn submissions_after_close_are_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.close();
    for error in submit_everywhere(&pool) {
        assert!(matches!(&error, TaskError::Refused(PoolError::Closed)), "{error:?}");
    }
    pool.join().unwrap();
    for error in submit_everywhere(&pool) {
        assert!(matches!(&error, TaskError::Refused(PoolError::Closed)), "{error:?}");
    }
}

fn submissions_after_terminate_are_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.terminate();
    for error in submit_everywhere(&pool) {
        assert!(matches!(&error, TaskError::Refused(PoolError::Terminated)), "{error:?}");
    }
    pool.join().unwrap();
    for error in submit_everywhere(&pool) {
        assert!(matches!(&error, TaskError::Refused(PoolError::Terminated)), "{error:?}");
    }
}

fn close_ends_a_half_consumed_imap_after_what_it_drew(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let drawn = std::cell::Cell::new(0u64);
    let mut results = pool.imap((0u64..).inspect(|_| drawn.set(drawn.get() + 1)), |x| x);
    assert_eq!(results.next().unwrap().unwrap(), 0);
    let before = drawn.get();
    pool.close();
    pool.join().unwrap();
    let mut values = 0;
    let end = loop {
        match results.next().expect("the input was not exhausted, so there must be an error") {
            Ok(value) => {
                values += 1;
                assert_eq!(value, values);
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(end, TaskError::Refused(PoolError::Closed)), "{end:?}");
    assert!(results.next().is_none());
    assert_eq!(1 + values, before, "an item that was drawn before the close got no answer");
}

fn unused_pool_ends(method: StartMethod) {
    for _ in 0..5 {
        drop(stage::pool(method, 2));
    }
}

fn pool_may_be_used_and_dropped_in_other_threads(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let handle = thread::scope(|scope| scope.spawn(|| pool.apply_async((3u8,), |x| x)).join().unwrap());
    assert_eq!(handle.get().unwrap(), 3);
    thread::spawn(move || {
        stage::assert_works(&pool);
        drop(pool);
    })
    .join()
    .unwrap();
}

fn handles_outlive_the_pool(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let done = pool.apply_async(("x".to_owned(),), |x| x);
    let mut results = pool.imap(0u64.., |x| x);
    assert_eq!(results.next().unwrap().unwrap(), 0);
    done.wait();
    drop(pool);
    assert_eq!(done.get().unwrap(), "x");
    assert!(results.by_ref().any(|result| result.is_err()));
    assert!(results.all(|result| result.is_err()));
    let (sender, calls) = mpsc::channel();
    let _done = done.on_success(move |value| sender.send(value).unwrap());
    assert_eq!(calls.recv_timeout(std::time::Duration::from_secs(30)).unwrap(), "x");
}

/// `close` asks for the rest to be finished, and only `join` waits for it. The other drops are deliberate, or cut nothing
/// off.
fn drop_of_a_closed_pool_warns_of_what_it_cuts_off(method: StartMethod) {
    let gate = Gate::closed();
    let busy = || {
        let pool = stage::pool(method, 1);
        let handle = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
        (pool, handle)
    };
    let pools = [busy(), busy(), busy()];
    let idle = stage::pool(method, 1);
    idle.apply((), || 1u8).unwrap();
    warnings::collect();
    let [(left, _early), (ended, _terminated), (cut, handle)] = pools;
    drop(left);
    ended.close();
    ended.terminate();
    drop(ended);
    idle.close();
    drop(idle);
    assert_eq!(warnings::lines(), [""; 0]);
    cut.close();
    drop(cut);
    assert!(matches!(handle.get(), Err(TaskError::Terminated)));
    let warnings = warnings::lines();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("1 unfinished call"), "{warnings:?}");
}

fn join_waits_for_a_callback_and_terminate_does_not(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (entered, has_entered) = mpsc::channel();
    let (release, is_released) = mpsc::channel::<()>();
    let _handle = pool.apply_async((), || 1u8).on_success(move |_| {
        entered.send(()).unwrap();
        assert!(is_released.recv().is_err(), "it is released by the drop of the sender");
    });
    has_entered.recv().unwrap();
    pool.terminate();
    assert!(!pool.join_timeout(Duration::from_millis(50)).unwrap());
    drop(release);
    pool.join().unwrap();
}
