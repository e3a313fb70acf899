//! `imap` and `imap_unordered`: results as they come, pulled by the caller.
//!
//! There is no feeder thread. `next()` draws from the input while the window has room, and then waits. So the input
//! may borrow, need not be `Send`, and may be infinite, and memory is bounded by the window: the items under way, and
//! in ordered mode those that are done but wait for an earlier one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::api::encoder::Encoder;
use crate::api::encoder::Input;
use crate::api::encoder::Prepared;
use crate::api::results::read_outcomes;
use crate::driver::Shared;
use crate::engine::Engine;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::error::TimedOut;
use crate::sys::clock;
use crate::work::batch::JobId;
use crate::work::jobs::Log;
use crate::work::task::Data;

/// How far the consumer may be behind in ordered mode, in windows.
const WINDOWS_BEHIND: u64 = 4;
/// A batch is sent on its way when drawing it has taken this long.
const BATCH_TIME: Duration = Duration::from_micros(50);
/// Items between two looks at the clock, once all have been quick: a look takes longer than to draw one of those. In
/// between a coarser clock is looked at, so an input that becomes slow is noticed after a few milliseconds.
const CLOCK_EVERY: u64 = 8;

type Item<T> = Result<T, TaskError>;
/// An item that waits here, among thousands: an error is much larger than most values, and rare.
type Kept<T> = Result<T, Box<TaskError>>;

/// Takes what has arrived for a job; `None` while that is nothing.
pub(crate) fn take_arrived(engine: &mut Engine, job: JobId) -> Option<Log> {
    let job = engine.job(job);
    if let Some(log) = &mut job.finished {
        // Nobody else holds the log of a job without callbacks.
        return Some(Arc::get_mut(log).map(std::mem::take).unwrap_or_default());
    }
    (!job.log.is_empty()).then(|| std::mem::take(&mut job.log))
}

/// Results by order of the input: a window onto the positions from `next_index` on.
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

    /// All items below `drawn` that have not come get this error.
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
    shared: Arc<Shared>,
    /// `None` when there is nothing in the pool any more.
    job: Option<JobId>,
    encoder: Option<Encoder>,
    input: Input<I>,
    arrived: Arrived<T>,
    /// Items submitted whose outcome has not been taken.
    under_way: u64,
    /// Items that will be yielded, as far as is known.
    drawn: u64,
    /// Results given to the consumer.
    yielded: u64,
    /// Items that may be under way at once.
    window: u64,
    /// Drawing took long the last time: a result that is there goes first.
    input_is_slow: bool,
    /// To draw the last ones took less than a microsecond each.
    items_are_quick: bool,
}

impl<I: Iterator, T> Pull<I, T> {
    fn new(shared: Arc<Shared>, prepared: Result<Prepared, TaskError>, items: I, arrived: Arrived<T>) -> Self {
        let mut pull = Self {
            shared,
            job: None,
            encoder: None,
            input: Input::new(items),
            arrived,
            under_way: 0,
            drawn: 0,
            yielded: 0,
            window: 1,
            input_is_slow: false,
            items_are_quick: false,
        };
        match prepared.and_then(|prepared| prepared.open(false)) {
            Ok((job, encoder)) => {
                pull.job = Some(job);
                pull.encoder = Some(encoder);
                pull.window = pull.shared.with(|engine| engine.window(job)).unwrap_or(1);
            }
            Err(error) => {
                // One error in the place of everything.
                pull.arrived.put(0, Err(error));
                pull.drawn = 1;
                pull.input.give_up();
            }
        }
        pull
    }

    fn has_room(&self) -> bool {
        self.under_way < self.window && self.drawn - self.yielded < WINDOWS_BEHIND * self.window
    }
}

impl<I: Iterator<Item: Data>, T: Data> Pull<I, T> {
    fn next_by(&mut self, deadline: Option<Instant>) -> Result<Option<Item<T>>, TimedOut> {
        loop {
            let enough = 2 * self.under_way > self.window || (self.input_is_slow && self.arrived.has_next());
            if !enough && !self.input.is_over() && self.has_room() {
                self.feed();
            }
            if let Some(item) = self.arrived.pop() {
                self.yielded += 1;
                return Ok(Some(item));
            }
            if self.under_way == 0 && self.input.is_over() {
                self.leave();
                return Ok(None);
            }
            if self.under_way == 0 || (self.has_room() && !self.input.is_over()) {
                // Nothing has come: draw what the window takes before waiting.
                self.feed();
                if self.arrived.has_next() || self.has_room() && !self.input.is_over() {
                    continue;
                }
            }
            if self.under_way > 0 {
                self.wait(deadline)?;
            }
        }
    }

    /// Draws and submits until the window is full, a batch is, or it has taken long enough.
    fn feed(&mut self) {
        let (Some(job), Some(encoder)) = (self.job, &mut self.encoder) else { return };
        match self.shared.with(|engine| engine.refusal()) {
            Ok(None) => {}
            // A forked copy must not draw: encoding takes locks that the original may hold.
            Ok(Some(error)) | Err(error) => return self.refused(&error),
        }
        let (began, tick) = (Instant::now(), clock::tick());
        let room = (self.window - self.under_way).min(WINDOWS_BEHIND * self.window - (self.drawn - self.yielded));
        let (drawn, were_quick) = (self.drawn, self.items_are_quick);
        encoder.draw(&mut self.input, |encoder| {
            let pushed = encoder.pushed() - drawn;
            let is_quick = were_quick && pushed % CLOCK_EVERY != 0 && clock::tick() == tick;
            pushed == 0 || (pushed < room && (is_quick || began.elapsed() < BATCH_TIME))
        });
        let (took, pushed) = (began.elapsed(), encoder.pushed() - drawn);
        self.input_is_slow = took >= BATCH_TIME;
        self.items_are_quick = took.as_micros() < u128::from(pushed);
        let work = encoder.take();
        let sealed = self.input.is_over();
        let result = self.shared.feed(|engine| {
            for work in work {
                engine.submit(job, work)?;
            }
            if sealed {
                engine.seal(job);
            }
            Ok((take_arrived(engine, job), engine.window(job)))
        });
        match result {
            Ok(Ok((log, window))) => {
                self.under_way += pushed;
                self.drawn += pushed;
                self.window = window;
                self.take(log);
            }
            Ok(Err(error)) | Err(error) => self.refused_after(pushed, &error),
        }
    }

    /// The pool takes no more. If the input has another item, that one gets the error, and nothing more is drawn.
    fn refused(&mut self, error: &PoolError) {
        let more = self.input.has_another();
        self.refused_after(u64::from(more), error);
    }

    /// The pool takes no more: of the items that were drawn just now, the first gets the error, and the rest is not
    /// heard of again. What is under way still comes.
    fn refused_after(&mut self, pushed: u64, error: &PoolError) {
        self.input.give_up();
        if pushed > 0 {
            self.arrived.put(self.drawn, Err(TaskError::Refused(error.clone())));
            self.drawn += 1;
        }
        if let Some(job) = self.job {
            let log = self.shared.with(|engine| {
                engine.seal(job);
                take_arrived(engine, job)
            });
            self.take(log.ok().flatten());
        }
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Result<(), TimedOut> {
        let Some(job) = self.job else { return Ok(()) };
        match self.shared.wait(Some(job), deadline, |engine| take_arrived(engine, job)) {
            Ok(Some(log)) => {
                self.take(Some(log));
                Ok(())
            }
            Ok(None) => Err(TimedOut),
            Err(error) => {
                let (drawn, missing) = (self.drawn, self.under_way);
                self.under_way = 0;
                self.arrived.fill(drawn, missing, &error.into());
                self.input.give_up();
                Ok(())
            }
        }
    }

    fn take(&mut self, log: Option<Log>) {
        let Some(log) = log else { return };
        for (first, outcomes) in log.outcomes() {
            let mut index = first;
            let Ok(()) = read_outcomes(outcomes, |item| {
                self.settle(index, item);
                index += 1;
                Ok::<(), Infallible>(())
            });
        }
        if let Some(error) = &log.rest {
            let (drawn, missing) = (self.drawn, self.under_way);
            self.under_way = 0;
            self.arrived.fill(drawn, missing, error);
            // An input that is not over must not look as if it were: its next item gets the error too.
            if missing == 0 && self.input.has_another() {
                self.arrived.put(self.drawn, Err(error.clone()));
                self.drawn += 1;
            }
            self.input.give_up();
        }
    }

    fn settle(&mut self, index: u64, item: Item<T>) {
        self.under_way -= 1;
        self.arrived.put(index, item);
    }

    /// What is left of the input, and what is under way or waits here.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let (low, high) = self.input.size_hint();
        let here = usize::try_from(self.drawn - self.yielded).unwrap_or(usize::MAX);
        // An infinite input promises more items than there can be, and a pool that ends breaks the promise: a caller
        // that reserves room for them would panic instead of seeing the error.
        let low = if high.is_some() { low } else { 0 };
        (low.saturating_add(here), high.and_then(|high| high.checked_add(here)))
    }
}

impl<I: Iterator, T> Pull<I, T> {
    /// Gives the job back. What has not been handed out is not run.
    fn leave(&mut self) {
        if let Some(job) = self.job.take() {
            // In a forked copy there is nothing to give back.
            drop(self.shared.with(|engine| engine.abandon(job, true)));
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
        #[must_use = "an iterator does nothing until it is asked"]
        pub struct $name<I: Iterator, T>(Pull<I, T>);

        impl<I: Iterator, T> $name<I, T> {
            pub(crate) fn new(shared: Arc<Shared>, prepared: Result<Prepared, TaskError>, items: I) -> Self {
                Self(Pull::new(shared, prepared, items, $arrived))
            }
        }

        impl<I: Iterator<Item: Data>, T: Data> $name<I, T> {
            /// The next result, waited for at most for `timeout`; `Ok(None)` at the end.
            ///
            /// Drawing from the input is not interrupted: the time is that of waiting for results.
            ///
            /// # Errors
            ///
            /// [`TimedOut`]: it is not there yet. Nothing is lost by that; a later call returns it.
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
    /// Each item is a `Result`: an error takes the place of one result, and iteration goes on. Dropping the iterator
    /// half-way drops what has not been handed out, and leaves the pool as good as new.
    ///
    /// Named `IMapIterator` in CPython.
    #[doc(alias = "IMapIterator")]
    Imap, Arrived::Ordered(Reorder { next_index: 0, slots: VecDeque::new() })
}

pulled! {
    /// The results of [`Pool::imap_unordered`](crate::Pool::imap_unordered), each as soon as it is there.
    ///
    /// All else is as for [`Imap`]. Named `IMapUnorderedIterator` in CPython.
    #[doc(alias = "IMapUnorderedIterator")]
    ImapUnordered, Arrived::Unordered(VecDeque::new())
}
