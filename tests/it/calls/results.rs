//! `AsyncResult`: waiting, polling, and the future.

use std::future::Future;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::thread;
use std::thread::Thread;
use std::time::Duration;

use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;

/// Longer than it takes until a callback is called.
const WAIT_MAX: Duration = Duration::from_secs(30);

cases![
    get_is_repeatable,
    error_is_repeatable,
    timeout_means_not_yet,
    wait_tells_when_it_is_there,
    ready_and_successful_tell_the_state,
    types_may_cross_threads,
    several_threads_wait_for_one_handle,
    future_resolves_without_a_runtime,
    future_wakes_the_last_waker_only,
    futures_resolve_to_errors,
];

fn get_is_repeatable(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let handle = pool.apply_async(("a".to_owned(),), |text| text.repeat(3));
    for _ in 0..3 {
        assert_eq!(handle.get().unwrap(), "aaa");
        assert_eq!(handle.get_timeout(Duration::ZERO).unwrap().unwrap(), "aaa");
    }
    drop(pool);
    assert_eq!(handle.get().unwrap(), "aaa");
}

fn error_is_repeatable(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let handle = pool.apply_async((1u8,), |_| -> u8 { panic!("for ever") });
    for _ in 0..3 {
        assert!(matches!(handle.get(), Err(TaskError::Panicked(panic)) if panic.message == "for ever"));
        assert!(matches!(handle.get_timeout(Duration::ZERO), Err(TaskError::Panicked(_))));
    }
}

fn timeout_means_not_yet(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let handle = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    assert!(handle.get_timeout(Duration::ZERO).unwrap().is_none());
    assert!(handle.get_timeout(Duration::from_millis(20)).unwrap().is_none());
    gate.open();
    assert_eq!(handle.get_timeout(WAIT_MAX).unwrap(), Some(()));
    assert_eq!(handle.get_timeout(Duration::MAX).unwrap(), Some(()));
}

fn wait_tells_when_it_is_there(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let handle = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    assert!(!handle.wait_timeout(Duration::ZERO));
    assert!(!handle.wait_timeout(Duration::from_millis(20)));
    gate.open();
    assert!(handle.wait_timeout(WAIT_MAX));
    handle.wait();
    assert!(handle.ready());
}

fn ready_and_successful_tell_the_state(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let good = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    let bad = pool.apply_async((1u8,), |_| -> u8 { panic!("bad") });
    assert!(!good.ready() && !good.successful());
    gate.open();
    good.wait();
    bad.wait();
    assert!(good.ready() && good.successful());
    assert!(bad.ready() && !bad.successful());
}

fn types_may_cross_threads(method: StartMethod) {
    fn assert_send_sync<T: Send + Sync>(_: &T) {}
    let pool = stage::pool(method, 1);
    assert_send_sync(&pool);
    let handle = pool.apply_async((1u8,), |x| x);
    assert_send_sync(&handle);
    let value = thread::scope(|scope| scope.spawn(move || handle.get().unwrap()).join().unwrap());
    assert_eq!(value, 1);
}

fn several_threads_wait_for_one_handle(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let handle = pool.apply_async((gate.path(),), |gate| {
        stage::pass(&gate);
        vec![1u8, 2, 3]
    });
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..4).map(|_| scope.spawn(|| handle.get().unwrap())).collect();
        assert!(!handle.ready());
        gate.open();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), [1, 2, 3]);
        }
    });
}

fn future_resolves_without_a_runtime(method: StartMethod) {
    let pool = stage::pool(method, 1);
    assert_eq!(block_on(pool.apply_async((20u8,), |x| x + 1)).unwrap(), 21);
    assert_eq!(block_on(pool.map_async(0..10u8, |x| x)).unwrap(), (0..10).collect::<Vec<_>>());
    let both = async {
        let first = pool.apply_async((1u8,), |x| x);
        let second = pool.apply_async((2u8,), |x| x);
        first.await.unwrap() + second.await.unwrap()
    };
    assert_eq!(block_on(both), 3);
    let done = pool.apply_async((5u8,), |x| x);
    done.wait();
    assert_eq!(block_on(done).unwrap(), 5);
}

fn future_wakes_the_last_waker_only(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let mut future = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    let (first, last) = (Arc::new(Wakings::new()), Arc::new(Wakings::new()));
    for wakings in [&first, &last] {
        let waker = Waker::from(Arc::clone(wakings));
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    gate.open();
    while last.count.load(Ordering::SeqCst) == 0 {
        thread::park();
    }
    assert_eq!(first.count.load(Ordering::SeqCst), 0);
    let waker = Waker::from(last);
    assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_ready());
}

fn futures_resolve_to_errors(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let error = stage::error(block_on(pool.apply_async((1u8,), |_| -> u8 { panic!("awaited") })));
    assert!(matches!(&error, TaskError::Panicked(panic) if panic.message == "awaited"), "{error:?}");
    let gate = Gate::closed();
    let mut held = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    let waker = Waker::from(Arc::new(Wakings::new()));
    assert!(Pin::new(&mut held).poll(&mut Context::from_waker(&waker)).is_pending());
    pool.terminate();
    assert!(matches!(block_on(held), Err(TaskError::Terminated)));
}

/// Counts wake-ups, and unparks the thread that made it.
struct Wakings {
    count: AtomicUsize,
    thread: Thread,
}

impl Wakings {
    fn new() -> Wakings {
        Wakings { count: AtomicUsize::new(0), thread: thread::current() }
    }
}

impl Wake for Wakings {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Wakings::new()));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
