//! What one worker holds, in the order it was sent. Pure.
//!
//! The worker answers item by item, so the first item of the first frame is the only one that may be running; all
//! others have not begun. Service times are measured here, from one finished frame to the next.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::schedule::time_limit::Clock;
use crate::schedule::time_limit::TimeVerdict;
use crate::values::blob::Blob;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::progress::Progress;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::Unbegun;

/// One item of one job, by its position in the job's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ItemOf {
    pub(crate) job: JobId,
    pub(crate) index: u64,
}

/// A frame whose every item has been answered.
#[derive(Clone, Debug)]
pub(crate) struct FinishedFrame {
    pub(crate) job: JobId,
    pub(crate) items: u32,
    pub(crate) elapsed_ns: u64,
    /// What it was, if that was large: for whoever can let go of it without keeping others waiting.
    pub(crate) blob: Option<Blob>,
}

#[derive(Debug)]
struct InFlight {
    /// What is not answered yet.
    span: Span,
    /// How many items it had when it was sent.
    items: u32,
    /// Its part of the backlog.
    estimate_ns: u64,
    sent_at: Instant,
    number: FrameNumber,
}

impl InFlight {
    /// Cuts off what is behind the first `kept` items that are not answered.
    fn split_off(&mut self, kept: u32) -> InFlight {
        let len = self.span.len();
        let front = self.span.split_front(kept);
        let span = std::mem::replace(&mut self.span, front);
        let estimate_ns = self.estimate_ns / u64::from(len) * u64::from(span.len());
        let items = span.len();
        self.estimate_ns -= estimate_ns;
        self.items -= items;
        InFlight { span, items, estimate_ns, sent_at: self.sent_at, number: self.number }
    }
}

/// The frames in flight to one worker.
#[derive(Debug)]
pub(crate) struct Load {
    flights: VecDeque<InFlight>,
    items: u64,
    backlog_ns: u64,
    /// Frames sent so far.
    sent: u32,
    /// Items the worker may still be given.
    allowance: Option<u64>,
    /// When it last finished a frame.
    settled_at: Option<Instant>,
    /// Of the item that must be answered next, if its time is limited.
    clock: Option<Clock>,
}

impl Load {
    /// Nothing, for a worker that may be given `allowance` items in its life.
    pub(crate) fn new(allowance: Option<u64>) -> Self {
        Self { flights: VecDeque::new(), items: 0, backlog_ns: 0, sent: 0, allowance, settled_at: None, clock: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// How many frames are in flight.
    pub(crate) fn frames(&self) -> usize {
        self.flights.len()
    }

    /// The estimated time of all of them.
    pub(crate) fn backlog_ns(&self) -> u64 {
        self.backlog_ns
    }

    /// Items the worker may still be given.
    pub(crate) fn allowance(&self) -> Option<u64> {
        self.allowance
    }

    /// The frame in front: the one that the worker runs, if it has read it.
    pub(crate) fn front(&self) -> Option<FrameNumber> {
        self.flights.front().map(|flight| flight.number)
    }

    /// The item that must be answered next.
    pub(crate) fn running(&self) -> Option<ItemOf> {
        let span = &self.flights.front()?.span;
        Some(ItemOf { job: span.batch.job, index: span.index_of_first() })
    }

    /// Whether anything of the job is in flight.
    pub(crate) fn holds(&self, job: JobId) -> bool {
        self.flights.iter().any(|flight| flight.span.batch.job == job)
    }

    /// How many items are in flight.
    pub(crate) fn items(&self) -> u64 {
        self.items
    }

    /// When the worker was last given something, if it holds anything.
    pub(crate) fn last_sent_at(&self) -> Option<Instant> {
        Some(self.flights.back()?.sent_at)
    }

    /// One more frame goes out, whose items take `item_ns` each, as far as is known.
    pub(crate) fn push(&mut self, span: Span, item_ns: u64, now: Instant) -> FrameNumber {
        let number = FrameNumber(self.sent);
        self.sent = self.sent.wrapping_add(1);
        // Bounded, so that the sum over all flights cannot overflow.
        let estimate_ns = item_ns.saturating_mul(u64::from(span.len())).min(u64::MAX >> 8);
        self.backlog_ns += estimate_ns;
        self.items += u64::from(span.len());
        if let Some(allowance) = &mut self.allowance {
            *allowance -= u64::from(span.len());
        }
        self.flights.push_back(InFlight { items: span.len(), span, estimate_ns, sent_at: now, number });
        if self.flights.len() == 1 {
            self.start_clock(now);
        }
        number
    }

    /// The next items have been answered, all of the first frame; tells of the frame if they were its last.
    pub(crate) fn settle(&mut self, items: u32, now: Instant) -> Option<FinishedFrame> {
        let flight = self.flights.front_mut().expect("an answer is for an item in flight");
        assert!(items <= flight.span.len(), "an answer is for an item in flight");
        flight.span.start += items;
        self.items -= u64::from(items);
        if !flight.span.is_empty() {
            self.start_clock(now);
            return None;
        }
        let flight = self.flights.pop_front().expect("it was there a moment ago");
        self.start_clock(now);
        self.backlog_ns -= flight.estimate_ns;
        let since = self.settled_at.map_or(flight.sent_at, |settled_at| settled_at.max(flight.sent_at));
        self.settled_at = Some(now);
        let elapsed_ns = u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX);
        let blob = flight.span.blob().cloned();
        Some(FinishedFrame { job: flight.span.batch.job, items: flight.items, elapsed_ns, blob })
    }

    /// Takes away the last `count` frames, oldest first, but for the first `kept` items of the oldest.
    pub(crate) fn take_last(&mut self, count: usize, kept: u32) -> Vec<Span> {
        let first = self.flights.len().checked_sub(count).expect("only what was sent comes back");
        let mut taken = self.flights.split_off(first);
        if kept > 0
            && let Some(flight) = taken.front_mut()
        {
            let rest = flight.split_off(kept);
            let kept = std::mem::replace(flight, rest);
            self.flights.push_back(kept);
        }
        self.give_back(taken)
    }

    /// Takes away what the worker has not begun, oldest first.
    pub(crate) fn take_unbegun(&mut self, unbegun: &Unbegun) -> Vec<Span> {
        match unbegun {
            Unbegun::Frames(numbers) => self.take_frames(numbers),
            Unbegun::Last(items) => self.take_items(*items),
        }
    }

    /// Numbers that are not in flight are of no account.
    fn take_frames(&mut self, numbers: &[FrameNumber]) -> Vec<Span> {
        let flights = std::mem::take(&mut self.flights);
        let (taken, kept) = flights.into_iter().partition(|flight| numbers.contains(&flight.number));
        self.flights = kept;
        self.give_back(taken)
    }

    fn take_items(&mut self, items: u64) -> Vec<Span> {
        let mut left = items;
        let mut taken = VecDeque::new();
        while left > 0 {
            let mut flight = self.flights.pop_back().expect("only what was sent comes back");
            let len = u64::from(flight.span.len());
            if len > left {
                let kept = u32::try_from(len - left).expect("part of a span");
                taken.push_front(flight.split_off(kept));
                self.flights.push_back(flight);
                break;
            }
            left -= len;
            taken.push_front(flight);
        }
        self.give_back(taken)
    }

    /// Another item has become the one to be answered next.
    fn start_clock(&mut self, now: Instant) {
        let timeout = self.flights.front().and_then(|flight| flight.span.batch.target.timeout);
        self.clock = timeout.map(|timeout| Clock::new(timeout, now));
    }

    /// What had to be done before the item in front has been done.
    pub(crate) fn restart_clock(&mut self, now: Instant) {
        if let Some(clock) = &mut self.clock {
            clock.restart(now);
        }
    }

    /// How long the item in front may run, if its time is limited.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.flights.front()?.span.batch.target.timeout
    }

    /// When the item in front must be looked at, if its time is limited.
    pub(crate) fn check_due(&self) -> Option<Instant> {
        self.clock.as_ref().and_then(Clock::due)
    }

    /// What is to be done about the item in front.
    pub(crate) fn look(&mut self, progress: Progress, now: Instant) -> TimeVerdict {
        self.clock.as_mut().map_or(TimeVerdict::Wait, |clock| clock.look(progress, now))
    }

    fn give_back(&mut self, taken: VecDeque<InFlight>) -> Vec<Span> {
        if self.flights.is_empty() {
            self.clock = None;
        }
        let items = taken.iter().map(|flight| u64::from(flight.span.len())).sum::<u64>();
        self.backlog_ns -= taken.iter().map(|flight| flight.estimate_ns).sum::<u64>();
        self.items -= items;
        if let Some(allowance) = &mut self.allowance {
            *allowance += items;
        }
        taken.into_iter().map(|flight| flight.span).collect()
    }

    /// Nothing counts any more.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(None);
    }

    /// The worker is gone, and what it is known not to have begun was taken away: what it may have begun, and what else
    /// it cannot have, oldest first.
    ///
    /// It ran in order, and answered in order: of frames that it had read only the very first item can have begun. Where
    /// exactly what had not begun was taken away, or its answers cannot be trusted, all that is left may have.
    pub(crate) fn into_lost(mut self, only_the_first: bool) -> (Vec<Span>, Vec<Span>) {
        let mut lost = Vec::new();
        if let (true, Some(flight)) = (only_the_first, self.flights.front_mut()) {
            lost.push(flight.span.split_front(1));
        }
        let left = self.flights.into_iter().map(|flight| flight.span).filter(|span| !span.is_empty()).collect();
        match only_the_first {
            true => (lost, left),
            false => (left, Vec::new()),
        }
    }
}
