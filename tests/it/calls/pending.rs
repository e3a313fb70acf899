//! `cancel_pending`, of a call and of a pool: what has not begun never does, and what has begun goes on.

use std::collections::BTreeSet;
use std::thread;

use procpool::StartMethod;
use procpool::TaskError;

use crate::faults::failpoints::with_rings;
use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    pending_call_is_cancelled,
    begun_call_is_not_cancelled,
    rest_of_a_begun_call_is_cancelled,
    item_that_a_worker_holds_is_cancelled,
    cancelled_never_runs,
    cancelled_with_its_context_never_runs,
    all_pending_calls_are_cancelled,
    cancelled_imap_ends,
    cancelled_map_gets_an_outcome_for_each_item,
    shutdown_with_cancelled_futures,
];

fn assert_cancelled<T: std::fmt::Debug>(result: Result<T, TaskError>) {
    assert!(matches!(result, Err(TaskError::Cancelled)), "{result:?}");
}

fn pending_call_is_cancelled(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (mut gate, book, other) = (Gate::closed(), Notebook::new(), Notebook::new());
    let running = stage::held(&pool, &gate, &book);
    book.wait_for(1);
    let path = other.path();
    let pending = pool.map_async((0..100u32).map(|x| (path.clone(), x)), |(book, x)| stage::note(&book, x));
    assert!(pending.cancel_pending());
    assert!(pending.is_cancelled());
    assert_cancelled(pending.get());
    assert!(!pending.cancel_pending(), "it has its result");
    assert!(!running.ready());
    let pids = pool.pids();
    gate.open();
    running.get().unwrap();
    assert_eq!(pool.pids(), pids, "the worker goes on");
    stage::assert_works(&pool);
    assert_eq!(other.lines().len(), 0);
}

fn begun_call_is_not_cancelled(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let running = stage::held(&pool, &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    assert!(!running.cancel_pending());
    assert!(!running.ready());
    gate.open();
    assert_eq!(running.get().unwrap(), pid);
    assert!(!running.cancel_pending() && !running.is_cancelled());
    pool.terminate();
    assert!(!pool.apply_async((1u8,), |x| x).cancel_pending(), "refused");
}

fn rest_of_a_begun_call_is_cancelled(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let paths = (gate.path(), book.path());
    let items = (0..100u32).map(|x| (x, paths.clone()));
    let handle = pool.chunk_size(1).map_async(items, |(x, (gate, book))| {
        stage::note(&book, x);
        stage::pass(&gate);
    });
    book.wait_for(1);
    assert!(!handle.cancel_pending(), "one has begun");
    assert!(!handle.ready(), "and has not ended");
    gate.open();
    assert_cancelled(handle.get());
    assert!(handle.is_cancelled());
    stage::assert_works(&pool);
    let begun = book.lines();
    assert_eq!(begun.first().map(String::as_str), Some("0"));
    assert!(begun.len() < 100, "the rest did not run");
}

/// A worker has been sent the items and has not begun them.
fn item_that_a_worker_holds_is_cancelled(method: StartMethod) {
    let pool = stage::pool(method, 1);
    // Short items, so that more are sent ahead.
    pool.map(0..2000u32, |x| x).unwrap();
    let (mut gate, book, other) = (Gate::closed(), Notebook::new(), Notebook::new());
    let (paths, path) = ((gate.path(), book.path()), other.path());
    let items = (0..1000u32).map(|x| (x, paths.clone(), path.clone()));
    let handle = pool.chunk_size(1).map_async(items, |(x, (gate, book), other)| {
        if x == 0 {
            stage::note(&book, x);
            stage::pass(&gate);
        } else {
            stage::note(&other, x);
        }
    });
    book.wait_for(1);
    assert!(!handle.cancel_pending());
    let after = pool.apply_async((1u8,), |x| x);
    gate.open();
    assert_eq!(after.get().unwrap(), 1);
    assert_cancelled(handle.get());
    if with_rings() {
        assert_eq!(other.lines().len(), 0);
    }
}

/// Calls are cancelled at all moments of their way to a worker.
fn cancelled_never_runs(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let (mut cancelled, mut ran) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..300u32 {
        let handles: Vec<_> = (0..4)
            .map(|x| {
                pool.apply_async((book.path(), 4 * round + x), |book, x| {
                    stage::note(&book, x);
                    x
                })
            })
            .collect();
        for _ in 0..round * 40 {
            std::hint::spin_loop();
        }
        if round % 3 == 0 {
            pool.cancel_pending();
        }
        for (x, handle) in (0..).zip(handles) {
            let was_cancelled = handle.cancel_pending() || handle.is_cancelled();
            match handle.get() {
                Ok(value) => assert!(!was_cancelled && ran.insert(value)),
                Err(error) => {
                    assert!(was_cancelled);
                    assert_cancelled::<()>(Err(error));
                    cancelled.insert(4 * round + x);
                }
            }
        }
    }
    stage::assert_works(&pool);
    let noted: Vec<u32> = book.lines().iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(noted.len(), ran.len(), "each that has run, once");
    assert_eq!(noted.into_iter().collect::<BTreeSet<_>>(), ran);
    assert!(ran.is_disjoint(&cancelled));
    assert_eq!(ran.len() + cancelled.len(), 1200);
}

/// The worker reads the context and the item while the call is cancelled.
fn cancelled_with_its_context_never_runs(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let (mut cancelled, mut ran) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..600u32 {
        let context = (book.path(), vec![0u8; if round % 5 == 0 { 100_000 } else { 10 }]);
        let handle = pool.with(&context).apply_async((round,), |(book, _), x| {
            stage::note(book, x);
            x
        });
        for _ in 0..round % 60 * 100 {
            std::hint::spin_loop();
        }
        let was_cancelled = handle.cancel_pending();
        match handle.get() {
            Ok(value) => assert!(!was_cancelled && ran.insert(value)),
            Err(error) => {
                assert!(was_cancelled);
                assert_cancelled::<()>(Err(error));
                cancelled.insert(round);
            }
        }
    }
    stage::assert_works(&pool);
    let noted: Vec<u32> = book.lines().iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(noted.len(), ran.len(), "each that has run, once");
    assert_eq!(noted.into_iter().collect::<BTreeSet<_>>(), ran);
    assert_eq!(ran.len() + cancelled.len(), 600);
}

fn all_pending_calls_are_cancelled(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (mut gate, book, other) = (Gate::closed(), Notebook::new(), Notebook::new());
    let running = [stage::held(&pool, &gate, &book), stage::held(&pool, &gate, &book)];
    book.wait_for(2);
    let path = other.path();
    let pending: Vec<_> = (0..100u32)
        .map(|x| pool.apply_async((path.clone(), x), |book: String, x: u32| stage::note(&book, x)))
        .collect();
    pool.cancel_pending();
    pending.iter().for_each(|handle| assert_cancelled(handle.get()));
    assert!(running.iter().all(|handle| !handle.ready()));
    gate.open();
    running.iter().for_each(|handle| assert!(handle.get().is_ok()));
    stage::assert_works(&pool);
    assert_eq!(other.lines().len(), 0);
}

fn cancelled_imap_ends(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    for _ in 0..2 {
        let mut results = pool.imap(0u64.., |x| x);
        results.next().unwrap().unwrap();
        let running = stage::held(&pool, &gate, &book);
        results.next().unwrap().unwrap();
        pool.cancel_pending();
        running.cancel();
        // What was drawn has an outcome each, and then it ends, although the input has no end.
        assert!(results.all(|result| matches!(result, Ok(_) | Err(TaskError::Cancelled))));
    }
    stage::assert_works(&pool);
}

fn cancelled_map_gets_an_outcome_for_each_item(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let paths = (gate.path(), book.path());
    thread::scope(|scope| {
        let mapping = scope.spawn(|| {
            pool.chunk_size(1).map_results((0..50u32).map(|x| (x, paths.clone())), |(x, (gate, book))| {
                stage::note(&book, x);
                stage::pass(&gate);
                x
            })
        });
        book.wait_for(1);
        pool.cancel_pending();
        gate.open();
        let results = mapping.join().unwrap().unwrap();
        assert_eq!(results.len(), 50);
        assert_eq!(*results[0].as_ref().unwrap(), 0);
        let ran = book.lines().len();
        for (x, result) in results.into_iter().enumerate() {
            assert_eq!(result.is_ok(), x < ran, "{x}: {result:?}");
        }
    });
}

fn shutdown_with_cancelled_futures(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let running = stage::held(&pool, &gate, &book);
    book.wait_for(1);
    let pending: Vec<_> = (0..10u32).map(|x| pool.apply_async((x,), |x| x)).collect();
    pool.close();
    pool.cancel_pending();
    gate.open();
    pool.join().unwrap();
    running.get().unwrap();
    pending.iter().for_each(|handle| assert_cancelled(handle.get()));
}
