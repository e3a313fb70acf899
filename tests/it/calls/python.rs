//! CPython's own pool tests (`Lib/test/_test_multiprocessing.py`), under their names.
//!
//! Cases that other modules cover are left out. Where this pool differs on purpose, the case says what it does instead.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use procpool::Pool;
use procpool::PoolError;
use procpool::Side;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::TimedOut;
use serde::Deserialize;
use serde::Serialize;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

const WAIT_MAX: Duration = Duration::from_secs(30);

cases![
    test_apply,
    test_map,
    test_starmap,
    test_starmap_async,
    test_map_async,
    test_map_async_callbacks,
    test_map_chunksize,
    test_map_handle_iterable_exception,
    test_map_no_failfast,
    test_async,
    test_async_timeout,
    test_imap,
    test_imap_handle_iterable_exception,
    test_imap_unordered,
    test_imap_unordered_handle_iterable_exception,
    test_make_pool,
    test_terminate,
    test_empty_iterable,
    test_context,
    test_traceback,
    test_wrapped_exception,
    test_map_unpicklable,
    test_release_task_refs,
    test_enter,
    test_async_error_callback,
    test_unpickleable_result,
    test_pool_worker_lifetime,
    test_pool_worker_lifetime_early_close,
    test_pool_maxtasksperchild_invalid,
    test_release_unused_processes,
    test_noforkbomb,
];

fn sqr(x: i64) -> i64 {
    x * x
}

fn mul(x: i64, y: i64) -> i64 {
    x * y
}

fn raising(_: u8) -> anyhow::Result<u8> {
    anyhow::bail!("KeyError(\"key\")")
}

fn squares(count: i64) -> Vec<i64> {
    (0..count).map(sqr).collect()
}

fn test_apply(method: StartMethod) {
    let pool = stage::pool(method, 4);
    assert_eq!(pool.apply((5i64,), sqr).unwrap(), sqr(5));
    assert_eq!(pool.apply((5i64, 3), mul).unwrap(), mul(5, 3));
}

fn test_map(method: StartMethod) {
    let pool = stage::pool(method, 4);
    assert_eq!(pool.map(0..10i64, sqr).unwrap(), squares(10));
    assert_eq!(pool.chunk_size(20).map(0..100i64, sqr).unwrap(), squares(100));
}

fn test_starmap(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let tuples = |count: i64| (0..count).zip((0..count).rev());
    let products = |count: i64| tuples(count).map(|(x, y)| x * y).collect::<Vec<_>>();
    assert_eq!(pool.starmap(tuples(10), mul).unwrap(), products(10));
    assert_eq!(pool.chunk_size(20).starmap(tuples(100), mul).unwrap(), products(100));
}

fn test_starmap_async(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let tuples: Vec<(i64, i64)> = (0..100).zip((0..100).rev()).collect();
    let products: Vec<i64> = tuples.iter().map(|(x, y)| x * y).collect();
    assert_eq!(pool.starmap_async(tuples, mul).get().unwrap(), products);
}

fn test_map_async(method: StartMethod) {
    let pool = stage::pool(method, 4);
    assert_eq!(pool.map_async(0..10i64, sqr).get().unwrap(), squares(10));
}

fn test_map_async_callbacks(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let (sender, calls) = mpsc::channel();
    let (first, second) = (sender.clone(), sender.clone());
    pool.map_async([1i64], |x| x).on_success(move |values| first.send(Ok(values)).unwrap()).wait();
    assert_eq!(calls.recv_timeout(WAIT_MAX).unwrap().unwrap(), [1]);
    pool.map_async([1u8], raising).on_error(move |error| second.send(Err(error)).unwrap()).wait();
    let call = calls.recv_timeout(WAIT_MAX).unwrap();
    assert!(matches!(&call, Err(TaskError::Failed(failure)) if failure.message.contains("KeyError")), "{call:?}");
    assert!(calls.try_recv().is_err());
}

fn test_map_chunksize(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let nothing: [i64; 0] = [];
    assert_eq!(pool.chunk_size(1).map_async(nothing, sqr).get_timeout(WAIT_MAX).unwrap().unwrap(), nothing);
}

/// CPython raises the iterator's own exception; here it is a typed error that keeps the message.
fn test_map_handle_iterable_exception(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let exception_throwing = |at: i64| (0..100i64).inspect(move |&x| assert!(x != at, "SayWhenError"));
    for at in [-1, 0, 99] {
        match pool.map(exception_throwing(at), sqr) {
            Ok(values) => assert!(at == -1 && values == squares(100)),
            Err(TaskError::Input { message, .. }) => {
                assert!(at >= 0 && message.contains("SayWhenError"))
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// The failure of one item does not stop others: the second is released only after the first has failed.
fn test_map_no_failfast(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let items = [(0u8, book.path(), gate.path()), (1, book.path(), gate.path())];
    let handle = pool.chunk_size(1).map_async(items, |(x, book, gate)| {
        stage::note(&book, x);
        assert!(x != 0, "at once");
        stage::pass(&gate);
        stage::note(&book, "late");
    });
    book.wait_for(2);
    assert!(!handle.wait_timeout(Duration::from_millis(20)), "it failed before every item was settled");
    gate.open();
    assert!(matches!(handle.get(), Err(TaskError::Panicked(_))));
    assert!(book.lines().contains(&"late".to_owned()));
}

fn test_async(method: StartMethod) {
    let pool = stage::pool(method, 4);
    assert_eq!(pool.apply_async((7i64,), sqr).get().unwrap(), 49);
}

/// CPython raises `TimeoutError`; here it is `Ok(None)`, not yet.
fn test_async_timeout(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let gate = Gate::closed();
    let handle = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    assert_eq!(handle.get_timeout(Duration::from_millis(10)).unwrap(), None);
}

fn test_imap(method: StartMethod) {
    let pool = stage::pool(method, 4);
    assert_eq!(pool.imap(0..10i64, sqr).map(Result::unwrap).collect::<Vec<_>>(), squares(10));
    let mut results = pool.imap(0..10i64, sqr);
    for x in 0..10 {
        assert_eq!(results.next().unwrap().unwrap(), x * x);
    }
    assert!(results.next().is_none());
    let mut results = pool.chunk_size(100).imap(0..1000i64, sqr);
    for x in 0..1000 {
        assert_eq!(results.next().unwrap().unwrap(), x * x);
    }
    assert!(results.next().is_none());
}

fn test_imap_handle_iterable_exception(method: StartMethod) {
    let pool = stage::pool(method, 4);
    for (at, chunk_size) in [(3, 1), (7, 2), (7, 4)] {
        let mut results =
            pool.chunk_size(chunk_size).imap((0..20i64).inspect(move |&x| assert!(x != at, "SayWhenError")), sqr);
        for x in 0..at {
            assert_eq!(results.next().unwrap().unwrap(), x * x);
        }
        assert!(matches!(results.next(), Some(Err(TaskError::Input { .. }))));
        assert!(results.next().is_none());
    }
}

fn test_imap_unordered(method: StartMethod) {
    let pool = stage::pool(method, 4);
    for chunk_size in [1, 100] {
        let mut values: Vec<i64> =
            pool.chunk_size(chunk_size).imap_unordered(0..420i64, sqr).map(Result::unwrap).collect();
        values.sort_unstable();
        assert_eq!(values, squares(420));
    }
}

fn test_imap_unordered_handle_iterable_exception(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let input = (0..20i64).inspect(|&x| assert!(x != 7, "SayWhenError"));
    let (values, errors): (Vec<_>, Vec<_>) = pool.imap_unordered(input, sqr).partition(Result::is_ok);
    let values: BTreeSet<i64> = values.into_iter().map(Result::unwrap).collect();
    assert_eq!(values, squares(7).into_iter().collect());
    assert!(matches!(&errors[..], [Err(TaskError::Input { .. })]), "{errors:?}");
}

fn test_make_pool(method: StartMethod) {
    assert!(Pool::builder().start_method(method).processes(0).build().is_err());
    let pool = stage::pool(method, 3);
    assert_eq!((pool.processes(), pool.pids().len()), (3, 3));
    pool.close();
    pool.join().unwrap();
}

fn test_terminate(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let gate = Gate::closed();
    let handle = pool.map_async((0..1000).map(|_| gate.path()), |gate| stage::pass(&gate));
    pool.terminate();
    pool.join().unwrap();
    assert!(matches!(handle.get(), Err(TaskError::Terminated)));
}

fn test_empty_iterable(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let nothing: [i64; 0] = [];
    assert_eq!(pool.map(nothing, sqr).unwrap(), nothing);
    assert_eq!(pool.imap(nothing, sqr).count(), 0);
    assert_eq!(pool.imap_unordered(nothing, sqr).count(), 0);
    assert_eq!(pool.map_async(nothing, sqr).get().unwrap(), nothing);
}

/// `with Pool() as p` is a scope in Rust: leaving it terminates the pool.
fn test_context(method: StartMethod) {
    let gate = Gate::closed();
    let left = {
        let pool = stage::pool(method, 2);
        assert_eq!(pool.map(0..10i64, sqr).unwrap(), squares(10));
        pool.apply_async((gate.path(),), |gate| stage::pass(&gate))
    };
    assert!(matches!(left.get(), Err(TaskError::Terminated)));
}

/// Python sends the text of the remote traceback; this pool sends the location of the panic, and the backtrace if
/// enabled.
fn test_traceback(method: StartMethod) {
    crate::harness::sys::set_env("RUST_BACKTRACE", "1");
    let pool = stage::pool(method, 1);
    let error = pool.apply((1u8,), |_| -> u8 { panic!("123") }).unwrap_err();
    let TaskError::Panicked(panic) = error else { panic!("{error:?}") };
    assert_eq!(panic.message, "123");
    assert!(panic.location.is_some_and(|location| location.contains("python.rs")));
    let backtrace = panic.backtrace.expect("RUST_BACKTRACE asked for one");
    assert!(backtrace.contains("python::test_traceback"), "{backtrace}");
}

/// An error with a chain of causes keeps all of them.
fn test_wrapped_exception(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let error = pool.apply((1u8,), |_| -> anyhow::Result<u8> { Err(anyhow::anyhow!("inner").context("outer")) });
    assert!(matches!(error, Err(TaskError::Failed(failure)) if failure.message == "outer: inner"));
}

struct Unpicklable;

impl Serialize for Unpicklable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("cannot pickle"))
    }
}

impl<'de> Deserialize<'de> for Unpicklable {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Unpicklable, D::Error> {
        Err(serde::de::Error::custom("cannot unpickle"))
    }
}

fn test_map_unpicklable(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let error = pool.map((0..10).map(|_| Unpicklable), |_| 1u8).unwrap_err();
    assert!(matches!(&error, TaskError::Encode { side: Side::Argument, .. }), "{error:?}");
    stage::assert_works(&pool);
}

/// Arguments are dropped in this process as soon as they are sent.
fn test_release_task_refs(method: StartMethod) {
    #[derive(Serialize, Deserialize)]
    struct Counted {
        #[serde(skip)]
        counter: std::sync::Arc<()>,
    }
    let counts = |counted: &Counted| std::sync::Arc::strong_count(&counted.counter);
    let pool = stage::pool(method, 2);
    let counter = std::sync::Arc::new(());
    let items = vec![Counted { counter: counter.clone() }, Counted { counter: counter.clone() }];
    assert_eq!(items.iter().map(counts).max(), Some(3));
    let handle = pool.map_async(items, |_| ());
    handle.wait();
    assert_eq!(std::sync::Arc::strong_count(&counter), 1);
}

/// A pool that has ended cannot be used again.
fn test_enter(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    pool.terminate();
    assert!(matches!(pool.apply((1i64,), sqr), Err(TaskError::Refused(PoolError::Terminated))));
    pool.join().unwrap();
}

fn test_async_error_callback(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (sender, calls) = mpsc::channel();
    let handle = pool.apply_async((1u8,), raising).on_error(move |error| sender.send(error).unwrap());
    assert!(matches!(handle.get(), Err(TaskError::Failed(_))));
    assert!(matches!(calls.recv_timeout(WAIT_MAX).unwrap(), TaskError::Failed(_)));
}

/// Twenty times, with a callback each: neither the worker nor the link breaks.
fn test_unpickleable_result(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..20 {
        let (sender, calls) = mpsc::channel();
        let handle = pool.apply_async((1u8,), |_| Unpicklable).on_error(move |error| sender.send(error).unwrap());
        assert!(matches!(handle.get().err(), Some(TaskError::Encode { .. })));
        assert!(matches!(calls.recv_timeout(WAIT_MAX).unwrap(), TaskError::Encode { .. }));
    }
}

fn test_pool_worker_lifetime(method: StartMethod) {
    let pool = Pool::builder().processes(3).start_method(method).max_tasks_per_child(10).build().unwrap();
    let before = pool.pids();
    assert_eq!(before.len(), 3);
    let handles: Vec<_> = (0..100i64).map(|x| pool.apply_async((x,), sqr)).collect();
    for (x, handle) in (0i64..).zip(&handles) {
        assert_eq!(handle.get().unwrap(), sqr(x));
    }
    // If it was slow, none of the first three workers may have run its ten items yet.
    stage::until("three new workers", || {
        pool.map(0..30i64, sqr).unwrap();
        let now = pool.pids();
        now.len() == 3 && now.iter().all(|pid| !before.contains(pid))
    });
    pool.close();
    pool.join().unwrap();
}

fn test_pool_worker_lifetime_early_close(method: StartMethod) {
    let pool = Pool::builder().processes(3).start_method(method).max_tasks_per_child(1).build().unwrap();
    let handles: Vec<_> = (0..6i64).map(|x| pool.apply_async((x,), sqr)).collect();
    pool.close();
    pool.join().unwrap();
    for (x, handle) in (0i64..).zip(&handles) {
        assert_eq!(handle.get().unwrap(), sqr(x));
    }
}

/// -1, 0.5 and "12" do not compile, so only 0 is tested.
fn test_pool_maxtasksperchild_invalid(method: StartMethod) {
    let built = Pool::builder().processes(1).start_method(method).max_tasks_per_child(0).build();
    assert!(matches!(built, Err(PoolError::ZeroMaxTasksPerChild)));
}

/// A pool that cannot be made leaves no worker; the audit of the case checks that.
fn test_release_unused_processes(method: StartMethod) {
    fn exits(code: i32) {
        std::process::exit(code);
    }
    match Pool::builder().processes(4).start_method(method).initializer((1,), exits).build() {
        Err(error) => assert!(matches!(error, PoolError::Broken { .. }), "{error:?}"),
        Ok(pool) => {
            assert!(matches!(pool.apply((1i64,), sqr), Err(TaskError::Refused(PoolError::Broken { .. }))));
            let mut results = pool.imap(0..3i64, sqr);
            assert_ne!(results.next_timeout(WAIT_MAX).map(|_| ()), Err(TimedOut));
        }
    }
}

/// A worker that makes a pool makes only one: the program that runs again starts as a worker and not in `main`.
fn test_noforkbomb(method: StartMethod) {
    let book = Notebook::new();
    let pool = stage::pool(method, 1);
    let inner = pool.apply((book.path(), method.to_string()), |book, method| {
        stage::note(&book, std::process::id());
        let inner = stage::pool(method.parse().unwrap(), 1);
        inner.apply((book,), |book| stage::note(&book, std::process::id())).map_err(|error| error.to_string())
    });
    inner.unwrap().unwrap();
    assert_eq!(book.lines().len(), 2);
}
