//! Streams: the results of an `imap` for async code, and a stream as input.
//!
//! `poll_next` does what `next` does, except that it does not wait: under one lock it takes what has arrived or, if that
//! is nothing, registers its waker. Two steps would lose an answer that arrives in between: its waker would not be
//! there yet, and no other answer may follow. The background thread drives while a waker is registered.
//!
//! Runtime-free: the trait `Stream` of `futures-core` and nothing else.
//!
//! Also called: async iterator, backpressure.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;

use futures_core::FusedStream;
use futures_core::Stream;

use crate::api::arrived::Arrived;
use crate::api::arrived::Item;
use crate::api::arrived::position;
use crate::api::input::Input;
use crate::api::input::StreamInput;
use crate::api::prepare::Prepared;
use crate::api::pull::BATCH_TIME;
use crate::api::pull::IfDropped;
use crate::api::pull::Pull;
use crate::api::pull::Step;
use crate::driver::Backend;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::work::task::Data;

/// Results in a row after which a stream lets the other tasks of its thread run. Results of short items are always there
/// already, so that a task that consumes them would not return to its runtime before the end.
const YIELD_EVERY: u32 = 128;

/// Whether the task has consumed enough without a pause.
#[derive(Debug, Default)]
struct Fairness {
    in_a_row: u32,
}

impl Fairness {
    /// Returns to the runtime from time to time, and has the task polled again.
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.in_a_row < YIELD_EVERY {
            return Poll::Ready(());
        }
        self.in_a_row = 0;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn count<T>(&mut self, polled: &Poll<T>) {
        self.in_a_row = if polled.is_ready() { self.in_a_row + 1 } else { 0 };
    }
}

impl<I: Iterator<Item: Data>, T: Data> Pull<Input<I>, T> {
    fn poll_by(&mut self, context: &Context<'_>) -> Poll<Option<(u64, Item<T>)>> {
        loop {
            match self.step() {
                Step::Yield(index, item) => return Poll::Ready(Some((index, item))),
                Step::End => return Poll::Ready(None),
                Step::Wait if self.poll_arrived(context.waker()).is_pending() => return Poll::Pending,
                Step::Wait => {}
            }
        }
    }
}

/// Why no more was drawn from an input stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fed {
    /// It has no item now, and wakes the task when it has.
    InputPending,
    /// Enough for now: the window is full, a batch is, the input is over, or it has taken long enough.
    Enough,
}

impl<S: Stream<Item: Data>, T: Data> Pull<StreamInput<S>, T> {
    fn poll_by(&mut self, context: &mut Context<'_>) -> Poll<Option<(u64, Item<T>)>> {
        loop {
            let rests = (self.is_well_fed() && self.arrived.has_next()) || !self.has_room();
            let fed = if rests { Fed::Enough } else { self.poll_feed(context) };
            if let Some((index, item)) = self.pop() {
                return Poll::Ready(Some((index, item)));
            }
            if self.is_over() {
                return Poll::Ready(None);
            }
            if fed == Fed::Enough && self.has_room() {
                continue;
            }
            // Whichever comes first wakes the task: an item of the input, or an answer.
            if self.in_flight == 0 || self.poll_arrived(context.waker()).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Draws what the input has now and the window has room for, and submits it.
    fn poll_feed(&mut self, context: &mut Context<'_>) -> Fed {
        if let Some(error) = self.backend.refusal() {
            return self.poll_refuse(&error, context);
        }
        let (room, began) = (self.room(), Instant::now());
        let (mut fed, mut pushed) = (Fed::Enough, 0);
        while pushed < room && (pushed == 0 || began.elapsed() < BATCH_TIME) {
            let Some(encoder) = self.encoder.as_mut().filter(|encoder| !encoder.is_due()) else { break };
            match self.input.poll_draw(context) {
                Poll::Pending => {
                    fed = Fed::InputPending;
                    break;
                }
                Poll::Ready(None) => break,
                Poll::Ready(Some(Ok(item))) => encoder.push(&item),
                Poll::Ready(Some(Err(error))) => encoder.push_error(error),
            }
            pushed += 1;
        }
        if pushed > 0 || fed == Fed::Enough {
            self.submit(pushed);
        }
        fed
    }

    /// The pool takes no more items: the next one gets the error.
    fn poll_refuse(&mut self, error: &PoolError, context: &mut Context<'_>) -> Fed {
        match self.input.poll_draw(context) {
            Poll::Pending => Fed::InputPending,
            Poll::Ready(item) => {
                self.refuse(u64::from(item.is_some()), error);
                Fed::Enough
            }
        }
    }
}

macro_rules! stream {
    (
        $(#[$doc:meta])*
        $name:ident<$P:ident: $Bound:ident> over $Source:ident -> $Next:ty, |$index:ident, $result:ident| $next:expr
    ) => {
        $(#[$doc])*
        #[must_use = "a stream does nothing until it is polled"]
        pub struct $name<$P: $Bound, T> {
            pull: Pull<$Source<$P>, T>,
            fairness: Fairness,
            is_over: bool,
        }

        impl<$P: $Bound, T> $name<$P, T> {
            pub(super) fn new(pull: Pull<$Source<$P>, T>) -> Self {
                Self { pull, fairness: Fairness::default(), is_over: false }
            }

            /// Stops what runs if the stream is dropped before its end: those workers are killed and replaced.
            ///
            /// Without it, items that run go on to their end and keep their workers busy; items that have not begun do
            /// not run in either case. Async code that gives up (a timeout, `select!`, a client that hangs up) drops
            /// the stream, and with this the work stops.
            ///
            /// # Examples
            ///
            /// ```
            /// # use std::pin::Pin;
            /// # use std::task::{Context, Waker};
            /// # use std::time::Duration;
            /// # use futures_core::Stream;
            /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// # procpool::init();
            /// # let pool = procpool::Pool::new(1)?;
            /// fn wait(seconds: u64) {
            ///     std::thread::sleep(Duration::from_secs(seconds));
            /// }
            ///
            /// let mut stream = pool.imap([3600], wait).into_stream().cancel_on_drop();
            /// # let _ = Pin::new(&mut stream).poll_next(&mut Context::from_waker(Waker::noop()));
            /// drop(stream); // As if a timeout had dropped it.
            /// pool.apply((0,), wait)?; // The worker is free.
            /// # Ok(())
            /// # }
            /// ```
            pub fn cancel_on_drop(mut self) -> Self {
                self.pull.if_dropped = IfDropped::Cancel;
                self
            }
        }

        // Nothing is pinned: an iterator is called by reference, and a stream is in a box of its own.
        impl<$P: $Bound, T> Unpin for $name<$P, T> {}

        impl<$P: $Bound<Item: Data>, T: Data> Stream for $name<$P, T> {
            type Item = $Next;

            fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
                let this = &mut *self;
                if this.is_over {
                    return Poll::Ready(None);
                }
                if this.fairness.poll(context).is_pending() {
                    return Poll::Pending;
                }
                let polled = this.pull.poll_by(context);
                this.fairness.count(&polled);
                this.is_over = matches!(polled, Poll::Ready(None));
                polled.map(|next| next.map(|($index, $result)| $next))
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.pull.size_hint()
            }
        }

        impl<$P: $Bound<Item: Data>, T: Data> FusedStream for $name<$P, T> {
            fn is_terminated(&self) -> bool {
                self.is_over
            }
        }

        impl<$P: $Bound, T> fmt::Debug for $name<$P, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

stream! {
    /// The results of an [`Imap`](crate::Imap) or [`ImapUnordered`](crate::ImapUnordered), as a stream for async code.
    ///
    /// Made by `into_stream`. It is a [`Stream`] of `futures-core`, `Unpin`, and `Send` if the input is, and needs no
    /// particular runtime. It blocks no thread, and lets other tasks run from time to time even if results are always
    /// there. The input is drawn in `poll_next` and should not block.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::pin::Pin;
    /// # use std::task::{Context, Poll, Waker};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use futures_core::Stream;
    ///
    /// let mut squares = pool.imap(0u64.., |x| x * x).into_stream();
    /// // With a runtime: `squares.next().await`. By hand:
    /// let mut context = Context::from_waker(Waker::noop());
    /// let first = loop {
    ///     if let Poll::Ready(next) = Pin::new(&mut squares).poll_next(&mut context) {
    ///         break next;
    ///     }
    ///     std::thread::yield_now();
    /// };
    /// assert!(matches!(first, Some(Ok(0))));
    /// # Ok(())
    /// # }
    /// ```
    ImapStream<I: Iterator> over Input -> Result<T, TaskError>, |_index, result| result
}

stream! {
    /// The results of an [`Indexed`](crate::Indexed), as a stream: each with the position of its item in the input.
    ///
    /// Everything else is as for [`ImapStream`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::pin::Pin;
    /// # use std::task::{Context, Poll, Waker};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use futures_core::Stream;
    ///
    /// let mut squares = pool.imap_unordered(0..10u64, |x| x * x).indexed().into_stream();
    /// let mut context = Context::from_waker(Waker::noop());
    /// let mut left = 10;
    /// while left > 0 {
    ///     if let Poll::Ready(Some((index, square))) = Pin::new(&mut squares).poll_next(&mut context) {
    ///         assert_eq!(square?, (index * index) as u64);
    ///         left -= 1;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    IndexedStream<I: Iterator> over Input -> (usize, Result<T, TaskError>), |index, result| (position(index), result)
}

stream! {
    /// The results of [`Pool::stream`](crate::Pool::stream) or [`Pool::stream_unordered`](crate::Pool::stream_unordered).
    ///
    /// Everything else is as for [`ImapStream`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::pin::Pin;
    /// # use std::task::{Context, Poll, Waker};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use futures_core::Stream;
    ///
    /// // One stream's results are the next one's input.
    /// let squares = pool.imap(0..3u64, |x| x * x).into_stream();
    /// let mut lengths = pool.stream(Values(squares), |x: u64| x.to_string().len());
    /// # struct Values<S>(S);
    /// # impl<S: Stream<Item = Result<u64, procpool::TaskError>> + Unpin> Stream for Values<S> {
    /// #     type Item = u64;
    /// #     fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<u64>> {
    /// #         Pin::new(&mut self.0).poll_next(context).map(|next| next.and_then(Result::ok))
    /// #     }
    /// # }
    /// let mut context = Context::from_waker(Waker::noop());
    /// let mut left = 3;
    /// while left > 0 {
    ///     if let Poll::Ready(Some(length)) = Pin::new(&mut lengths).poll_next(&mut context) {
    ///         assert_eq!(length?, 1);
    ///         left -= 1;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    PoolStream<S: Stream> over StreamInput -> Result<T, TaskError>, |_index, result| result
}

impl<S: Stream, T> PoolStream<S, T> {
    pub(super) fn ordered(backend: Arc<dyn Backend>, prepared: Result<Prepared, TaskError>, items: S) -> Self {
        Self::new(Pull::new(backend, prepared, StreamInput::new(items), Arrived::ordered()))
    }

    pub(super) fn unordered(backend: Arc<dyn Backend>, prepared: Result<Prepared, TaskError>, items: S) -> Self {
        Self::new(Pull::new(backend, prepared, StreamInput::new(items), Arrived::unordered()))
    }
}
