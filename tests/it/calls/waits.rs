//! Waiting threads: which one drives the pool, which are woken, and wakers and loggers that use the pool themselves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use procpool::AsyncResult;
use procpool::Pool;
use procpool::StartMethod;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

/// Longer than a wake-up takes.
const WAIT_MAX: Duration = Duration::from_secs(30);
const ROUNDS: u64 = 40;

cases![
    two_waiters_leave_at_once_and_the_rest_is_driven,
    two_deadlines_pass_and_the_rest_is_driven,
    waiter_served_during_a_slow_waker_leaves_no_gap,
    waker_may_wait_for_the_pool,
    waker_may_wait_for_the_pool_while_others_wait,
    waker_may_drop_the_last_pool,
    waker_is_dropped_under_no_lock,
    logger_may_use_the_pool,
];

/// A waker that calls a function.
struct Call<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for Call<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

fn waker(call: impl Fn() + Send + Sync + 'static) -> Waker {
    Arc::new(Call(call)).into()
}

fn pass_and_give(gate: String, value: u64) -> u64 {
    stage::pass(&gate);
    value
}

fn poll(future: &mut AsyncResult<u64>, waker: &Waker) -> Option<u64> {
    match Pin::new(future).poll(&mut Context::from_waker(waker)) {
        Poll::Ready(result) => Some(result.unwrap()),
        Poll::Pending => None,
    }
}

/// Jobs behind one gate that no thread waits for: one has a callback, one a waker.
struct Unattended {
    gate: Gate,
    with_callback: AsyncResult<u64>,
    future: AsyncResult<u64>,
    called: Receiver<u64>,
    woken: Receiver<()>,
}

impl Unattended {
    fn submit(pool: &Pool, value: u64) -> Unattended {
        let gate = Gate::closed();
        let (sender, called) = mpsc::channel();
        let with_callback =
            pool.apply_async((gate.path(), value), pass_and_give).on_success(move |value| sender.send(value).unwrap());
        let mut future = pool.apply_async((gate.path(), value), pass_and_give);
        let (sender, woken) = mpsc::channel();
        let waker = waker(move || sender.send(()).unwrap());
        assert_eq!(poll(&mut future, &waker), None);
        Unattended { gate, with_callback, future, called, woken }
    }

    fn finish(mut self, value: u64) {
        self.gate.open();
        assert_eq!(self.called.recv_timeout(WAIT_MAX).expect("the callback"), value);
        self.woken.recv_timeout(WAIT_MAX).expect("the waker");
        assert_eq!(poll(&mut self.future, Waker::noop()), Some(value));
        assert_eq!(self.with_callback.get().unwrap(), value);
    }
}

/// Both are answered at the same moment, so neither is left to drive the pool, whichever of them did.
fn two_waiters_leave_at_once_and_the_rest_is_driven(method: StartMethod) {
    let pool = stage::pool(method, 4);
    stage::until_all_work(&pool);
    for round in 0..ROUNDS {
        let mut gate = Gate::closed();
        let book = Notebook::new();
        let waited = [(); 2].map(|()| {
            pool.apply_async((book.path(), gate.path()), |book, gate| {
                stage::note(&book, "here");
                stage::pass(&gate);
            })
        });
        let unattended = Unattended::submit(&pool, round);
        thread::scope(|scope| {
            waited.iter().for_each(|handle| drop(scope.spawn(|| handle.get().unwrap())));
            book.wait_for(2);
            gate.open();
        });
        unattended.finish(round);
    }
}

fn two_deadlines_pass_and_the_rest_is_driven(method: StartMethod) {
    let pool = stage::pool(method, 4);
    stage::until_all_work(&pool);
    let mut gate = Gate::closed();
    let long = pool.apply_async((gate.path(), 7), pass_and_give);
    for round in 0..ROUNDS {
        let unattended = Unattended::submit(&pool, round);
        thread::scope(|scope| {
            for thread_index in 0..2 {
                let timeout = Duration::from_micros(2000 + thread_index * (round % 10) * 100);
                let long = &long;
                scope.spawn(move || assert!(!long.wait_timeout(timeout)));
            }
        });
        unattended.finish(round);
    }
    gate.open();
    assert_eq!(long.get().unwrap(), 7);
}

/// One of two waiters drives and is blocked in a waker, while the jobs of both are answered.
fn waiter_served_during_a_slow_waker_leaves_no_gap(method: StartMethod) {
    let pool = stage::pool(method, 5);
    stage::until_all_work(&pool);
    let (mut first_gate, mut second_gate) = (Gate::closed(), Gate::closed());
    let book = Notebook::new();
    let waited = [(); 2].map(|()| {
        pool.apply_async((second_gate.path(), book.path()), |gate, book| {
            stage::pass(&gate);
            stage::note(&book, "done");
        })
    });
    let (enter, entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let slow = waker(move || {
        enter.send(()).unwrap();
        released.lock().unwrap().recv_timeout(WAIT_MAX).unwrap();
    });
    let mut first = pool.apply_async((first_gate.path(), 1), pass_and_give);
    assert_eq!(poll(&mut first, &slow), None);
    let unattended = Unattended::submit(&pool, 2);
    thread::scope(|scope| {
        waited.iter().for_each(|handle| drop(scope.spawn(|| handle.get().unwrap())));
        first_gate.open();
        entered.recv_timeout(WAIT_MAX).expect("the slow waker");
        second_gate.open();
        book.wait_for(2);
        release.send(()).unwrap();
    });
    unattended.finish(2);
    assert_eq!(first.get().unwrap(), 1);
}

/// Runs a task from the waker, and sends the result.
fn waiting_waker(pool: &Arc<Pool>) -> (Waker, Receiver<u64>) {
    let (sender, answers) = mpsc::channel();
    let pool = Arc::downgrade(pool);
    let waker = waker(move || {
        let pool = pool.upgrade().expect("the case holds the pool");
        let answer = pool.apply((5u64,), |x| x + 1).unwrap();
        drop(pool);
        sender.send(answer).unwrap();
    });
    (waker, answers)
}

fn waker_may_wait_for_the_pool(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 2));
    let mut gate = Gate::closed();
    let (waker, answers) = waiting_waker(&pool);
    let mut future = pool.apply_async((gate.path(), 1), pass_and_give);
    assert_eq!(poll(&mut future, &waker), None);
    gate.open();
    assert_eq!(answers.recv_timeout(WAIT_MAX).expect("the waker"), 6);
    assert_eq!(poll(&mut future, Waker::noop()), Some(1));
    stage::assert_works(&pool);
}

fn waker_may_wait_for_the_pool_while_others_wait(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 3));
    let (mut gate, mut long_gate) = (Gate::closed(), Gate::closed());
    let (waker, answers) = waiting_waker(&pool);
    let mut future = pool.apply_async((gate.path(), 1), pass_and_give);
    let long = pool.apply_async((long_gate.path(), 2), pass_and_give);
    assert_eq!(poll(&mut future, &waker), None);
    thread::scope(|scope| {
        let waiting = [(); 2].map(|()| scope.spawn(|| long.get().unwrap()));
        gate.open();
        assert_eq!(answers.recv_timeout(WAIT_MAX).expect("the waker"), 6);
        long_gate.open();
        waiting.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), 2));
    });
    assert_eq!(future.get().unwrap(), 1);
}

fn waker_may_drop_the_last_pool(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut gate = Gate::closed();
    let never = Gate::closed();
    let mut future = pool.apply_async((gate.path(), 1), pass_and_give);
    let long = pool.apply_async((never.path(), 2), pass_and_give);
    let slot = Mutex::new(Some(pool));
    let (sender, dropped) = mpsc::channel();
    let waker = waker(move || {
        drop(slot.lock().unwrap().take());
        sender.send(()).unwrap();
    });
    assert_eq!(poll(&mut future, &waker), None);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| long.get());
        gate.open();
        dropped.recv_timeout(WAIT_MAX).expect("the waker");
        assert!(waiting.join().unwrap().is_err());
    });
    assert_eq!(future.get().unwrap(), 1);
}

/// A waker that uses the pool when it is dropped.
struct Asks {
    pool: Arc<Pool>,
    dropped: mpsc::Sender<usize>,
}

impl Wake for Asks {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Asks {
    fn drop(&mut self) {
        self.dropped.send(self.pool.pids().len()).unwrap();
    }
}

fn waker_is_dropped_under_no_lock(method: StartMethod) {
    let pool = Arc::new(stage::pool(method, 1));
    stage::assert_works(&pool);
    let (sender, dropped) = mpsc::channel();
    let asks = || Waker::from(Arc::new(Asks { pool: Arc::clone(&pool), dropped: sender.clone() }));
    let mut gate = Gate::closed();
    let mut future = pool.apply_async((gate.path(), 1), pass_and_give);
    // Replaced by another waker.
    assert_eq!(poll(&mut future, &asks()), None);
    assert_eq!(poll(&mut future, &asks()), None);
    assert_eq!(dropped.recv_timeout(WAIT_MAX).expect("the first waker"), 1);
    // Woken.
    gate.open();
    assert_eq!(dropped.recv_timeout(WAIT_MAX).expect("the second waker"), 1);
    // No longer needed.
    assert_eq!(poll(&mut future, &asks()), Some(1));
    assert_eq!(dropped.recv_timeout(WAIT_MAX).expect("the third waker"), 1);
    // Dropped with its handle.
    let mut gate = Gate::closed();
    let mut future = pool.apply_async((gate.path(), 1), pass_and_give);
    assert_eq!(poll(&mut future, &asks()), None);
    drop(future);
    gate.open();
    assert_eq!(dropped.recv_timeout(WAIT_MAX).expect("the fourth waker"), 1);
    // A waker that says so has not let go of the pool yet, and the last to do that ends it.
    stage::until("the wakers to let go", || Arc::strong_count(&pool) == 1);
}

static LOGGED_POOL: Mutex<Weak<Pool>> = Mutex::new(Weak::new());
static LINES_LOGGED: AtomicUsize = AtomicUsize::new(0);

/// Asks the pool for its process ids at every line.
struct NosyLogger;

impl log::Log for NosyLogger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        let pool = LOGGED_POOL.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(pool) = pool {
            let _ = pool.pids();
            LINES_LOGGED.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn flush(&self) {}
}

/// A worker that breaks the protocol is replaced, and that is logged.
fn logger_may_use_the_pool(method: StartMethod) {
    log::set_logger(&NosyLogger).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let pool = Arc::new(stage::pool(method, 1));
    stage::assert_works(&pool);
    *LOGGED_POOL.lock().unwrap() = Arc::downgrade(&pool);
    let mut gate = Gate::closed();
    let before = pool.pids();
    let handle = pool.apply_async((gate.path(),), |gate| {
        for (fd, _) in processes::descriptors(std::process::id()).into_iter().filter(|(fd, _)| *fd > 2) {
            sys::write_anyway(fd, &[99]);
        }
        stage::pass(&gate);
    });
    stage::until("a line in the log", || LINES_LOGGED.load(Ordering::SeqCst) > 0);
    // The worker may finish its item, unless the descriptor that it broke was the link for the answer.
    gate.open();
    let answer = handle.get_timeout(WAIT_MAX);
    assert!(matches!(answer, Ok(Some(())) | Err(_)), "{answer:?}");
    stage::assert_works(&pool);
    stage::until("its end", || pool.pids().iter().all(|pid| !before.contains(pid)));
    log::set_max_level(log::LevelFilter::Off);
    stage::until("the end of the last line", || Arc::strong_count(&pool) == 1);
}
