//! The core of every `imap` and stream: a job that is fed as its results are consumed.
//!
//! There is no feeder thread. Each request for a result draws from the input while the window has room, and then waits,
//! or returns to the runtime. So memory is bounded by the window: the items in flight, and in ordered mode those that
//! are done but wait for an earlier one.
//!
//! Also called: backpressure, bounded prefetch, lazy map.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use crate::api::arrived::Arrived;
use crate::api::arrived::Item;
use crate::api::encoder::Encoder;
use crate::api::input::Input;
use crate::api::input::Source;
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
pub(super) const BATCH_TIME: Duration = Duration::from_micros(50);
/// Items between two reads of the clock, once all have been quick to draw: reading it takes longer than drawing one of
/// those. In between a coarser clock is read, so an input that becomes slow is noticed after a few milliseconds.
const CLOCK_EVERY: u64 = 32;

/// What becomes of running items when the consumer drops the iterator or stream before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfDropped {
    /// They end by themselves.
    RunOn,
    /// They are stopped, with their workers.
    Cancel,
}

/// The next thing to do for the consumer.
pub(super) enum Step<T> {
    /// This is the next result, and its position in the input.
    Yield(u64, Item<T>),
    End,
    /// Nothing is there, items are in flight, and the window is full or the input is over.
    Wait,
}

/// A job that is fed from `input` as its results are consumed.
pub(super) struct Pull<S, T> {
    pub(super) backend: Arc<dyn Backend>,
    label: Label,
    /// `None` if the job was refused or has been abandoned.
    pub(super) job: Option<JobId>,
    pub(super) encoder: Option<Encoder>,
    pub(super) input: S,
    pub(super) arrived: Arrived<T>,
    /// Items submitted whose outcome has not been taken.
    pub(super) in_flight: u64,
    /// Items that are or will be yielded, as far as is known.
    drawn: u64,
    /// Results returned to the consumer.
    yielded: u64,
    /// Maximum items in flight at once.
    window: u64,
    /// Maximum items drawn and not yielded, if the caller has set one. Then it is the window as well.
    window_set: Option<u64>,
    pub(super) if_dropped: IfDropped,
    /// The last draw took long: a result that has arrived is yielded before more is drawn.
    input_is_slow: bool,
    /// The last items took less than a microsecond each to draw.
    items_are_quick: bool,
}

impl<S: Source, T> Pull<S, T> {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        prepared: Result<Prepared, TaskError>,
        input: S,
        arrived: Arrived<T>,
    ) -> Self {
        let mut pull = Self {
            backend,
            label: Label::default(),
            job: None,
            encoder: None,
            input,
            arrived,
            in_flight: 0,
            drawn: 0,
            yielded: 0,
            window: 1,
            window_set: None,
            if_dropped: IfDropped::RunOn,
            input_is_slow: false,
            items_are_quick: false,
        };
        let opened = prepared.and_then(|prepared| {
            pull.label = prepared.label.clone();
            pull.window_set = prepared.window;
            prepared.open(IfClosed::Refuse)
        });
        match opened {
            Ok((job, encoder)) => {
                pull.job = Some(job);
                pull.encoder = Some(encoder);
                pull.set_window(pull.backend.window(job));
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

    fn set_window(&mut self, window: u64) {
        let by_descriptors = self.encoder.as_ref().map_or(u64::MAX, Encoder::ahead_max);
        self.window = self.window_set.unwrap_or(window).min(by_descriptors);
    }

    /// How many more items may be drawn now.
    #[inline]
    pub(super) fn room(&self) -> u64 {
        let behind_max = self.window_set.unwrap_or(WINDOWS_BEHIND * self.window);
        let in_flight = self.window.saturating_sub(self.in_flight);
        in_flight.min(behind_max.saturating_sub(self.drawn - self.yielded))
    }

    /// Whether more may be drawn now, and there may be more.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.room() > 0 && !self.input.is_over()
    }

    /// Whether workers have enough to do for the moment.
    #[inline]
    pub(super) fn is_well_fed(&self) -> bool {
        2 * self.in_flight > self.window || (self.input_is_slow && self.arrived.has_next())
    }

    /// What is left of the input, what is in flight, and what has arrived and was not yielded.
    pub(super) fn size_hint(&self) -> (usize, Option<usize>) {
        let (low, high) = self.input.size_hint();
        let here = usize::try_from(self.drawn - self.yielded).unwrap_or(usize::MAX);
        // The lower bound of an infinite input is `usize::MAX`. A pool that ends does not keep that promise, and a
        // caller that reserves memory for it would panic before it sees the error.
        let low = if high.is_some() { low } else { 0 };
        (low.saturating_add(here), high.and_then(|high| high.checked_add(here)))
    }
}

impl<S: Source, T: Data> Pull<S, T> {
    /// Takes out the next result, if it has arrived.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<(u64, Item<T>)> {
        let next = self.arrived.pop();
        self.yielded += u64::from(next.is_some());
        next
    }

    /// Whether nothing more will come. Then the job is abandoned.
    pub(super) fn is_over(&mut self) -> bool {
        let over = self.in_flight == 0 && self.input.is_over() && !self.arrived.has_next();
        if over {
            self.leave();
        }
        over
    }

    /// Submits the items that were pushed since the last call.
    pub(super) fn submit(&mut self, pushed: u64) {
        let (Some(job), Some(encoder)) = (self.job, &mut self.encoder) else { return };
        let more = if self.input.is_over() { More::Never } else { More::Follows };
        match self.backend.exchange(job, encoder.take(), more) {
            Ok(Exchange { refusal: None, arrived, window }) => {
                self.arrived.expect(self.drawn, pushed);
                self.in_flight += pushed;
                self.drawn += pushed;
                self.set_window(window);
                self.take(arrived);
            }
            // The pool was closed or ended since it was asked.
            Ok(Exchange { refusal: Some(error), arrived, .. }) => self.refused_after(pushed, &error, arrived),
            Err(error) => self.refused_after(pushed, &error, None),
        }
    }

    /// The pool takes no more items, and `drawn` were drawn in vain: the first of them gets the error, and nothing more
    /// is drawn. What is in flight still arrives.
    pub(super) fn refuse(&mut self, drawn: u64, error: &PoolError) {
        let arrived = self.job.and_then(|job| self.backend.seal(job));
        self.refused_after(drawn, error, arrived);
    }

    /// As [`refuse`](Self::refuse), for a job that is sealed.
    fn refused_after(&mut self, drawn: u64, error: &PoolError, arrived: Option<Log>) {
        self.input.give_up();
        if drawn > 0 {
            self.arrived.put(self.drawn, Err(TaskError::Refused(error.clone())));
            self.drawn += 1;
        }
        self.take(arrived);
    }

    /// Waits until something has arrived.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> Result<(), TimedOut> {
        let Some(job) = self.job else { return Ok(()) };
        match self.backend.take(job, deadline) {
            Ok(Some(log)) => self.take(Some(log)),
            Ok(None) => return Err(TimedOut),
            Err(error) => self.lost(&error),
        }
        Ok(())
    }

    /// Takes what has arrived; if that is nothing, the waker is woken when something has.
    pub(super) fn poll_arrived(&mut self, waker: &Waker) -> Poll<()> {
        let Some(job) = self.job else { return Poll::Ready(()) };
        // Cloned before any lock is taken: a waker's `clone` is the user's code.
        match self.backend.poll_take(job, waker.clone()) {
            Ok(Some(log)) => self.take(Some(log)),
            Ok(None) => return Poll::Pending,
            Err(error) => self.lost(&error),
        }
        Poll::Ready(())
    }

    /// This is a forked copy, in which nothing arrives.
    fn lost(&mut self, error: &PoolError) {
        self.in_flight = 0;
        self.arrived.fill(self.drawn, &TaskError::from(error.clone()));
        self.input.give_up();
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
            self.in_flight -= index - first;
            self.arrived.complete(first, index - first);
        }
        if let Some(error) = &log.rest {
            let missing = self.in_flight;
            self.in_flight = 0;
            self.arrived.fill(self.drawn, error);
            // Without this, an input that has more items would look as if it had ended: the next item gets the error
            // too.
            if missing == 0 && self.input.has_another() {
                self.arrived.put(self.drawn, Err(TaskError::clone(error)));
                self.drawn += 1;
            }
            self.input.give_up();
        }
    }

    #[inline]
    fn settle(&mut self, index: u64, item: Item<T>) {
        if matches!(item, Err(TaskError::Cancelled)) {
            // The rest of the input would be cancelled too, item by item.
            self.input.give_up();
        }
        self.arrived.put(index, item);
    }
}

impl<I: Iterator<Item: Data>, T: Data> Pull<Input<I>, T> {
    /// Draws what there is room for, as far as that is sensible before the consumer gets what has arrived.
    #[inline]
    pub(super) fn step(&mut self) -> Step<T> {
        loop {
            if !self.is_well_fed() && self.has_room() {
                self.feed();
            }
            if let Some((index, item)) = self.pop() {
                return Step::Yield(index, item);
            }
            if self.is_over() {
                return Step::End;
            }
            if self.in_flight == 0 || self.has_room() {
                // Nothing has arrived: draw what the window takes before waiting.
                self.feed();
                if self.arrived.has_next() || self.has_room() {
                    continue;
                }
            }
            if self.in_flight > 0 {
                return Step::Wait;
            }
        }
    }

    /// The next result, with its position; `None` at the end.
    #[inline]
    pub(super) fn next_by(&mut self, deadline: Option<Instant>) -> Result<Option<(u64, Item<T>)>, TimedOut> {
        loop {
            match self.step() {
                Step::Yield(index, item) => return Ok(Some((index, item))),
                Step::End => return Ok(None),
                Step::Wait => self.wait(deadline)?,
            }
        }
    }

    /// Draws and submits until the window is full, a batch is, or it has taken long enough.
    fn feed(&mut self) {
        // Before drawing, so that a closed pool does not consume items in vain. Also in a forked copy, which must not
        // encode: that takes locks that are held for ever if another thread held them at the fork.
        if let Some(error) = self.job.and_then(|_| self.backend.refusal()) {
            let more = self.input.has_another();
            return self.refuse(u64::from(more), &error);
        }
        let room = self.room();
        let Some(encoder) = &mut self.encoder else { return };
        let (began, tick) = (Instant::now(), clock::tick());
        let (drawn, were_quick) = (self.drawn, self.items_are_quick);
        encoder.draw(&mut self.input, |encoder| {
            let pushed = encoder.pushed() - drawn;
            let is_quick = were_quick && pushed % CLOCK_EVERY != 0 && clock::tick() == tick;
            pushed == 0 || (pushed < room && (is_quick || began.elapsed() < BATCH_TIME))
        });
        let (took, pushed) = (began.elapsed(), encoder.pushed() - drawn);
        self.input_is_slow = took >= BATCH_TIME;
        self.items_are_quick = took.as_micros() < u128::from(pushed);
        self.submit(pushed);
    }
}

impl<S, T> Pull<S, T> {
    /// Abandons the job. Items that no worker has been given are not run.
    fn leave(&mut self) {
        let Some(job) = self.job.take() else { return };
        if self.if_dropped == IfDropped::Cancel {
            self.backend.cancel(job);
        }
        self.backend.abandon(job, Leftover::Skip);
    }
}

impl<S, T> Drop for Pull<S, T> {
    fn drop(&mut self) {
        self.leave();
    }
}
