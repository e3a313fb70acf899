//! Wakers: tasks that await a call are woken, whatever callbacks and other wakers do.

use std::sync::Arc;
use std::sync::mpsc;
use std::task::Wake;
use std::task::Waker;
use std::time::Duration;

use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;

use crate::faults::failpoints::arm;
use crate::harness::cases;
use crate::harness::polling::poll;
use crate::harness::polling::waker;
use crate::harness::stage;
use crate::harness::stage::Gate;

cases![
    blocked_callback_delays_no_waker,
    waker_may_use_the_pool,
    waker_that_panics_is_harmless,
    waker_may_not_join,
    task_is_woken_without_a_waker_thread,
    dropped_future_drops_its_waker,
];

/// Longer than anything here takes.
const WAIT_MAX: Duration = Duration::from_secs(30);

fn blocked_callback_delays_no_waker(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (release, released) = mpsc::channel::<()>();
    let (started, starting) = mpsc::channel();
    let blocking = pool.apply_async((1u8,), |x| x).on_success(move |_| {
        started.send(()).unwrap();
        let _ = released.recv();
    });
    starting.recv_timeout(WAIT_MAX).unwrap();
    assert_eq!(stage::block_on(pool.apply_async((20u8,), |x| x + 1)).unwrap(), 21);
    drop(release);
    blocking.get().unwrap();
}

fn waker_may_use_the_pool(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 2));
    let mut gate = Gate::closed();
    let (told, telling) = mpsc::channel();
    let mut future = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    let inner = Arc::clone(&pool);
    let waker = waker(move || {
        let sum = inner.map(0..100u32, |x| x).unwrap().iter().sum::<u32>();
        drop(inner);
        told.send(sum).unwrap();
    });
    assert!(poll(&mut future, &waker).is_pending());
    gate.open();
    assert_eq!(telling.recv_timeout(WAIT_MAX).unwrap(), 4950);
    assert!(poll(&mut future, &waker).is_ready());
}

fn waker_that_panics_is_harmless(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let mut future = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    assert!(poll(&mut future, &waker(|| panic!("a waker that panics on purpose"))).is_pending());
    gate.open();
    future.get().unwrap();
    assert_eq!(stage::block_on(pool.apply_async((20u8,), |x| x + 1)).unwrap(), 21);
}

fn waker_may_not_join(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 1));
    let mut gate = Gate::closed();
    let (told, telling) = mpsc::channel();
    let mut future = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    let inner = Arc::clone(&pool);
    let waker = waker(move || {
        inner.close();
        let joined = inner.join();
        drop(inner);
        told.send(joined).unwrap();
    });
    assert!(poll(&mut future, &waker).is_pending());
    gate.open();
    let joined = telling.recv_timeout(WAIT_MAX).unwrap();
    assert!(matches!(joined, Err(PoolError::WouldDeadlock)), "{joined:?}");
    pool.join().unwrap();
}

fn task_is_woken_without_a_waker_thread(method: StartMethod) {
    arm(&format!("parent waker_thread 1- errno {}", libc::EAGAIN));
    let pool = stage::pool(method, 2);
    for x in 0..20u32 {
        assert_eq!(stage::block_on(pool.apply_async((x,), |x| x + 1)).unwrap(), x + 1);
    }
    arm("");
    assert_eq!(stage::block_on(pool.apply_async((20u8,), |x| x + 1)).unwrap(), 21);
}

/// The waker's drop uses the pool, which would wait for ever under a lock of the pool.
fn dropped_future_drops_its_waker(method: StartMethod) {
    struct Uses(Arc<Pool>, mpsc::Sender<usize>);
    impl Wake for Uses {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Uses {
        fn drop(&mut self) {
            self.1.send(self.0.processes()).unwrap();
        }
    }
    let pool = Arc::new(stage::pool(method, 1));
    let mut gate = Gate::closed();
    let (told, telling) = mpsc::channel();
    let mut future = pool.apply_async((gate.path(),), |gate| stage::pass(&gate));
    let waker = Waker::from(Arc::new(Uses(Arc::clone(&pool), told)));
    assert!(poll(&mut future, &waker).is_pending());
    drop(waker);
    assert!(telling.try_recv().is_err(), "the future has it");
    drop(future);
    assert_eq!(telling.recv_timeout(WAIT_MAX).unwrap(), 1, "although the task still runs");
    gate.open();
}
