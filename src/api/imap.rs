//! `imap` and `imap_unordered`: results as they arrive, pulled by the caller.
//!
//! There is no feeder thread. `next()` draws from the input while the window has room, and then waits. So the input
//! may borrow, need not be `Send`, and may be infinite, and memory is bounded by the window: the items in flight, and
//! in ordered mode those that are done but wait for an earlier one.
//!
//! Also called: backpressure, bounded prefetch, lazy map.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::api::encoder::Encoder;
use crate::api::input::Input;
use crate::api::prepare::Prepared;
use crate::api::results::read_outcomes;
use crate::driver::Backend;
use crate::driver::Exchange;
use crate::driver::IfClosed;
use crate::driver::Leftover;
use crate::driver::More;
use crate::error::Label;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::error::TimedOut;
use crate::sys::clock;
use crate::work::batch::JobId;
use crate::work::jobs::Log;
use crate::work::task::Data;

/// How many windows of items may be drawn and not yielded: in ordered mode, results wait for a slow earlier item.
const WINDOWS_BEHIND: u64 = 4;
/// A batch is submitted when drawing it has taken this long.
const BATCH_TIME: Duration = Duration::from_micros(50);
/// Items between two reads of the clock, once all have been quick to draw: reading it takes longer than drawing one of
/// those. In between a coarser clock is read, so an input that becomes slow is noticed after a few milliseconds.
const CLOCK_EVERY: u64 = 32;

type Item<T> = Result<T, TaskError>;
/// An item that waits to be yielded. The error is boxed, since it is larger than most values, and rare, and thousands
/// of items may wait.
type Kept<T> = Result<T, Box<TaskError>>;

/// Results in the order of the input: a window onto the positions from `next_index` on.
#[derive(Debug)]
struct Reorder<T> {
    next_index: u64,
    slots: VecDeque<Option<Kept<T>>>,
}

#[derive(Debug)]
enum Arrived<T> {
    Ordered(Reorder<T>),
    Unordered(VecDeque<Kept<T>>),
}

impl<T> Arrived<T> {
    fn put(&mut self, index: u64, item: Item<T>) {
        let item = item.map_err(Box::new);
        match self {
            Arrived::Unordered(items) => items.push_back(item),
            Arrived::Ordered(Reorder { next_index, slots }) => {
                let slot = usize::try_from(index - *next_index).expect("a window fits memory");
                if slots.len() <= slot {
                    slots.resize_with(slot + 1, || None);
                }
                slots[slot] = Some(item);
            }
        }
    }

    /// Gives this error to all items below `drawn` that have not arrived; `missing` is how many those are.
    fn fill(&mut self, drawn: u64, missing: u64, error: &TaskError) {
        match self {
            Arrived::Unordered(items) => items.extend((0..missing).map(|_| Err(Box::new(error.clone())))),
            Arrived::Ordered(Reorder { next_index, slots }) => {
                let len = usize::try_from(drawn - *next_index).expect("a window fits memory");
                slots.resize_with(len, || None);
                for slot in slots {
                    slot.get_or_insert_with(|| Err(Box::new(error.clone())));
                }
            }
        }
    }

    fn pop(&mut self) -> Option<Item<T>> {
        let item = match self {
            Arrived::Unordered(items) => items.pop_front(),
            Arrived::Ordered(Reorder { next_index, slots }) => {
                slots.front()?.as_ref()?;
                *next_index += 1;
                slots.pop_front().flatten()
            }
        };
        item.map(|item| item.map_err(|error| *error))
    }

    fn has_next(&self) -> bool {
        match self {
            Arrived::Unordered(items) => !items.is_empty(),
            Arrived::Ordered(Reorder { slots, .. }) => slots.front().is_some_and(Option::is_some),
        }
    }
}

/// A job that is fed as its results are consumed.
struct Pull<I: Iterator, T> {
    backend: Arc<dyn Backend>,
    label: Label,
    /// `None` if the job was refused or has been abandoned.
    job: Option<JobId>,
    encoder: Option<Encoder>,
    input: Input<I>,
    arrived: Arrived<T>,
    /// Items submitted whose outcome has not been taken.
    in_flight: u64,
    /// Items that are or will be yielded, as far as is known.
    drawn: u64,
    /// Results returned to the consumer.
    yielded: u64,
    /// Maximum items in flight at once.
    window: u64,
    /// The last draw took long: a result that has arrived is yielded before more is drawn.
    input_is_slow: bool,
    /// The last items took less than a microsecond each to draw.
    items_are_quick: bool,
}

impl<I: Iterator, T> Pull<I, T> {
    fn new(backend: Arc<dyn Backend>, prepared: Result<Prepared, TaskError>, items: I, arrived: Arrived<T>) -> Self {
        let mut pull = Self {
            backend,
            label: Label::default(),
            job: None,
            encoder: None,
            input: Input::new(items),
            arrived,
            in_flight: 0,
            drawn: 0,
            yielded: 0,
            window: 1,
            input_is_slow: false,
            items_are_quick: false,
        };
        let opened = prepared.and_then(|prepared| {
            pull.label = prepared.label.clone();
            prepared.open(IfClosed::Refuse)
        });
        match opened {
            Ok((job, encoder)) => {
                pull.job = Some(job);
                pull.encoder = Some(encoder);
                pull.window = pull.backend.window(job);
            }
            Err(error) => {
                // One error in the place of all results.
                pull.arrived.put(0, Err(error));
                pull.drawn = 1;
                pull.input.give_up();
            }
        }
        pull
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.window && self.drawn - self.yielded < WINDOWS_BEHIND * self.window
    }
}

impl<I: Iterator<Item: Data>, T: Data> Pull<I, T> {
    fn next_by(&mut self, deadline: Option<Instant>) -> Result<Option<Item<T>>, TimedOut> {
        loop {
            let enough = 2 * self.in_flight > self.window || (self.input_is_slow && self.arrived.has_next());
            if !enough && !self.input.is_over() && self.has_room() {
                self.feed();
            }
            if let Some(item) = self.arrived.pop() {
                self.yielded += 1;
                return Ok(Some(item));
            }
            if self.in_flight == 0 && self.input.is_over() {
                self.leave();
                return Ok(None);
            }
            if self.in_flight == 0 || (self.has_room() && !self.input.is_over()) {
                // Nothing has arrived: draw what the window takes before waiting.
                self.feed();
                if self.arrived.has_next() || self.has_room() && !self.input.is_over() {
                    continue;
                }
            }
            if self.in_flight > 0 {
                self.wait(deadline)?;
            }
        }
    }

    /// Draws and submits until the window is full, a batch is, or it has taken long enough.
    fn feed(&mut self) {
        let (Some(job), Some(encoder)) = (self.job, &mut self.encoder) else { return };
        // Before drawing, so that a closed pool does not consume items in vain. Also in a forked copy, which must not
        // encode: that takes locks that are held for ever if another thread held them at the fork.
        if let Some(error) = self.backend.refusal() {
            return self.refused(&error);
        }
        let (began, tick) = (Instant::now(), clock::tick());
        let room = (self.window - self.in_flight).min(WINDOWS_BEHIND * self.window - (self.drawn - self.yielded));
        let (drawn, were_quick) = (self.drawn, self.items_are_quick);
        encoder.draw(&mut self.input, |encoder| {
            let pushed = encoder.pushed() - drawn;
            let is_quick = were_quick && pushed % CLOCK_EVERY != 0 && clock::tick() == tick;
            pushed == 0 || (pushed < room && (is_quick || began.elapsed() < BATCH_TIME))
        });
        let (took, pushed) = (began.elapsed(), encoder.pushed() - drawn);
        self.input_is_slow = took >= BATCH_TIME;
        self.items_are_quick = took.as_micros() < u128::from(pushed);
        let more = if self.input.is_over() { More::Never } else { More::Follows };
        match self.backend.exchange(job, encoder.take(), more) {
            Ok(Exchange { refusal: None, arrived, window }) => {
                self.in_flight += pushed;
                self.drawn += pushed;
                self.window = window;
                self.take(arrived);
            }
            // The pool was closed or ended since it was asked above.
            Ok(Exchange { refusal: Some(error), arrived, .. }) => self.refused_after(pushed, &error, arrived),
            Err(error) => self.refused_after(pushed, &error, None),
        }
    }

    /// The pool takes no more items. If the input has another one, that one gets the error, and nothing more is drawn.
    fn refused(&mut self, error: &PoolError) {
        let more = self.input.has_another();
        let arrived = self.job.and_then(|job| self.backend.seal(job));
        self.refused_after(u64::from(more), error, arrived);
    }

    /// The pool takes no more items: of those that were drawn just now, the first gets the error, and the others are
    /// dropped. What is in flight still arrives.
    fn refused_after(&mut self, pushed: u64, error: &PoolError, arrived: Option<Log>) {
        self.input.give_up();
        if pushed > 0 {
            self.arrived.put(self.drawn, Err(TaskError::Refused(error.clone())));
            self.drawn += 1;
        }
        self.take(arrived);
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Result<(), TimedOut> {
        let Some(job) = self.job else { return Ok(()) };
        match self.backend.take(job, deadline) {
            Ok(Some(log)) => {
                self.take(Some(log));
                Ok(())
            }
            Ok(None) => Err(TimedOut),
            Err(error) => {
                let (drawn, missing) = (self.drawn, self.in_flight);
                self.in_flight = 0;
                self.arrived.fill(drawn, missing, &error.into());
                self.input.give_up();
                Ok(())
            }
        }
    }

    fn take(&mut self, log: Option<Log>) {
        let Some(log) = log else { return };
        let label = self.label.clone();
        for (first, outcomes) in log.outcomes() {
            let mut index = first;
            let Ok(()) = read_outcomes(
                outcomes,
                |before| label.item(first + before),
                |item| {
                    self.settle(index, item);
                    index += 1;
                    Ok::<(), Infallible>(())
                },
            );
        }
        if let Some(error) = &log.rest {
            let (drawn, missing) = (self.drawn, self.in_flight);
            self.in_flight = 0;
            self.arrived.fill(drawn, missing, error);
            // Without this, an input that has more items would look as if it had ended: the next item gets the error
            // too.
            if missing == 0 && self.input.has_another() {
                self.arrived.put(self.drawn, Err(TaskError::clone(error)));
                self.drawn += 1;
            }
            self.input.give_up();
        }
    }

    fn settle(&mut self, index: u64, item: Item<T>) {
        self.in_flight -= 1;
        self.arrived.put(index, item);
    }

    /// What is left of the input, what is in flight, and what has arrived and was not yielded.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let (low, high) = self.input.size_hint();
        let here = usize::try_from(self.drawn - self.yielded).unwrap_or(usize::MAX);
        // The lower bound of an infinite input is `usize::MAX`. A pool that ends does not keep that promise, and a
        // caller that reserves memory for it would panic before it sees the error.
        let low = if high.is_some() { low } else { 0 };
        (low.saturating_add(here), high.and_then(|high| high.checked_add(here)))
    }
}

impl<I: Iterator, T> Pull<I, T> {
    /// Abandons the job. Items that no worker has been given are not run.
    fn leave(&mut self) {
        if let Some(job) = self.job.take() {
            self.backend.abandon(job, Leftover::Skip);
        }
    }
}

impl<I: Iterator, T> Drop for Pull<I, T> {
    fn drop(&mut self) {
        self.leave();
    }
}

macro_rules! pulled {
    ($(#[$doc:meta])* $name:ident, $arrived:expr) => {
        $(#[$doc])*
        #[must_use = "an iterator does nothing until it is consumed"]
        pub struct $name<I: Iterator, T>(Pull<I, T>);

        impl<I: Iterator, T> $name<I, T> {
            pub(super) fn new(backend: Arc<dyn Backend>, prepared: Result<Prepared, TaskError>, items: I) -> Self {
                Self(Pull::new(backend, prepared, items, $arrived))
            }
        }

        impl<I: Iterator<Item: Data>, T: Data> $name<I, T> {
            /// Waits for the next result for at most `timeout`; `Ok(None)` at the end.
            ///
            /// The time counts waiting for results only: drawing from the input is not interrupted. Named
            /// `next(timeout)` in CPython.
            ///
            /// # Errors
            ///
            /// [`TimedOut`]: there is no result yet. Nothing is lost; a later call returns it.
            ///
            /// # Examples
            ///
            /// ```
            /// # fn main() {
            /// # procpool::init();
            /// # let pool = procpool::Pool::new(2).unwrap();
            /// use std::time::Duration;
            ///
            /// let mut squares = pool.imap(0..10u64, |x| x * x);
            /// loop {
            ///     match squares.next_timeout(Duration::from_millis(100)) {
            ///         Ok(Some(square)) => println!("{square:?}"),
            ///         Ok(None) => break,
            ///         Err(procpool::TimedOut) => println!("still waiting"),
            ///     }
            /// }
            /// # }
            /// ```
            pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Result<T, TaskError>>, TimedOut> {
                self.0.next_by(Instant::now().checked_add(timeout))
            }
        }

        impl<I: Iterator<Item: Data>, T: Data> Iterator for $name<I, T> {
            type Item = Result<T, TaskError>;

            fn next(&mut self) -> Option<Self::Item> {
                self.0.next_by(None).unwrap_or_else(|TimedOut| unreachable!("there is no deadline"))
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }
        }

        impl<I: Iterator<Item: Data>, T: Data> std::iter::FusedIterator for $name<I, T> {}

        impl<I: Iterator, T> fmt::Debug for $name<I, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

pulled! {
    /// The results of [`Pool::imap`](crate::Pool::imap), in the order of the input.
    ///
    /// Each item is a `Result`: an error takes the place of one result, and iteration goes on. If the iterator is
    /// dropped before its end, items that no worker has been given yet are not run, and the pool is unaffected.
    ///
    /// Named `IMapIterator` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let mut squares = pool.imap(0u64.., |x| x * x);
    /// assert!(matches!(squares.next(), Some(Ok(0))));
    /// assert!(matches!(squares.next(), Some(Ok(1))));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "IMapIterator")]
    Imap, Arrived::Ordered(Reorder { next_index: 0, slots: VecDeque::new() })
}

pulled! {
    /// The results of [`Pool::imap_unordered`](crate::Pool::imap_unordered), each as soon as it has arrived.
    ///
    /// Everything else is as for [`Imap`]. Named `IMapUnorderedIterator` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let sum: u64 = pool.imap_unordered(0..10u64, |x| x * x).sum::<Result<_, _>>()?;
    /// assert_eq!(sum, 285);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "IMapUnorderedIterator")]
    ImapUnordered, Arrived::Unordered(VecDeque::new())
}
