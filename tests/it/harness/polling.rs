//! Polling futures and streams by hand: wakers that count or call, and a stream that is fed from outside.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;

use futures_core::Stream;

use crate::harness::stage;

/// The next result of a stream, for `block_on`.
struct Next<'s, S>(&'s mut S);

impl<S: Stream + Unpin> Future for Next<'_, S> {
    type Output = Option<S::Item>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut *self.0).poll_next(context)
    }
}

/// Waits for the next item of a stream.
pub(crate) fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    stage::block_on(Next(stream))
}

/// Waits for all items of a stream.
pub(crate) fn collect<S: Stream + Unpin>(stream: &mut S) -> Vec<S::Item> {
    std::iter::from_fn(|| next(stream)).collect()
}

/// Polls a stream once.
pub(crate) fn poll_next<S: Stream + Unpin>(stream: &mut S, waker: &Waker) -> Poll<Option<S::Item>> {
    Pin::new(stream).poll_next(&mut Context::from_waker(waker))
}

/// Counts how often it is woken.
#[derive(Default)]
pub(crate) struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        // Relaxed: only the number counts.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counting {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream that is fed from outside.
pub(crate) struct Queue<T>(Arc<Mutex<QueueState<T>>>);

struct QueueState<T> {
    items: VecDeque<T>,
    is_closed: bool,
    waker: Option<Waker>,
    /// How many items were drawn.
    drawn: usize,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Queue<T> {
    pub(crate) fn open(items: impl IntoIterator<Item = T>) -> Self {
        let items = items.into_iter().collect();
        Self(Arc::new(Mutex::new(QueueState { items, is_closed: false, waker: None, drawn: 0 })))
    }

    /// A stream of these items.
    pub(crate) fn of(items: impl IntoIterator<Item = T>) -> Self {
        let queue = Self::open(items);
        queue.close();
        queue
    }

    fn change(&self, change: impl FnOnce(&mut QueueState<T>)) {
        let mut state = self.0.lock().unwrap();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn push(&self, item: T) {
        self.change(|state| state.items.push_back(item));
    }

    pub(crate) fn close(&self) {
        self.change(|state| state.is_closed = true);
    }

    /// Whether this is the only handle of it.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    pub(crate) fn drawn(&self) -> usize {
        self.0.lock().unwrap().drawn
    }
}

impl<T> Stream for Queue<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock().unwrap();
        match state.items.pop_front() {
            Some(item) => {
                state.drawn += 1;
                Poll::Ready(Some(item))
            }
            None if state.is_closed => Poll::Ready(None),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Polls a future once.
pub(crate) fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Calls a function once, when it is woken.
struct Calls(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().unwrap().take();
        if let Some(call) = call {
            call();
        }
    }
}

/// A waker that calls this function, once.
pub(crate) fn waker(call: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(Calls(Mutex::new(Some(Box::new(call))))))
}
