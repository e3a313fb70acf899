//! What one worker holds, in the order it was sent. Pure.
//!
//! The worker answers item by item, so the first item of the first frame is the only one that may be running; all
//! others have not begun. Service times are measured here, from one finished frame to the next.

use std::collections::VecDeque;
use std::time::Instant;

use crate::batch::JobId;
use crate::batch::Span;

/// One frame to one worker: how it is known again when it is taken back unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameNumber(pub(crate) u32);

/// One item of one job, by its position in the job's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ItemOf {
    pub(crate) job: JobId,
    pub(crate) index: u64,
}

/// A frame whose every item has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FinishedFrame {
    pub(crate) job: JobId,
    pub(crate) items: u32,
    pub(crate) elapsed_ns: u64,
}

#[derive(Debug)]
struct Flight {
    /// What is not answered yet.
    span: Span,
    /// How many items it had when it was sent.
    items: u32,
    /// Its part of the backlog.
    estimate_ns: u64,
    sent_at: Instant,
    number: FrameNumber,
}

/// The frames in flight to one worker.
#[derive(Debug)]
pub(crate) struct Load {
    flights: VecDeque<Flight>,
    backlog_ns: u64,
    /// Frames sent so far.
    sent: u32,
    /// Items the worker may still be given.
    allowance: Option<u64>,
    /// When it last finished a frame, or was last asked for what it has not read.
    settled_at: Option<Instant>,
}

impl Load {
    /// Nothing, for a worker that may be given `allowance` items in its life.
    pub(crate) fn new(allowance: Option<u64>) -> Self {
        Self { flights: VecDeque::new(), backlog_ns: 0, sent: 0, allowance, settled_at: None }
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

    /// Since when the worker has not finished anything, if it holds anything.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        let sent_at = self.flights.front()?.sent_at;
        Some(self.settled_at.map_or(sent_at, |settled_at| settled_at.max(sent_at)))
    }

    /// Counts the worker as silent from now on only.
    pub(crate) fn restart_clock(&mut self, now: Instant) {
        self.settled_at = Some(now);
    }

    /// One more frame goes out, whose items take `item_ns` each, as far as is known.
    pub(crate) fn push(&mut self, span: Span, item_ns: u64, now: Instant) -> FrameNumber {
        let number = FrameNumber(self.sent);
        self.sent = self.sent.wrapping_add(1);
        // Bounded, so that the sum over all flights cannot overflow.
        let estimate_ns = item_ns.saturating_mul(u64::from(span.len())).min(u64::MAX >> 8);
        self.backlog_ns += estimate_ns;
        if let Some(allowance) = &mut self.allowance {
            *allowance -= u64::from(span.len());
        }
        self.flights.push_back(Flight { items: span.len(), span, estimate_ns, sent_at: now, number });
        number
    }

    /// The next item has been answered; tells of the frame if that was its last.
    pub(crate) fn settle(&mut self, now: Instant) -> Option<FinishedFrame> {
        let flight = self.flights.front_mut().expect("an answer is for an item in flight");
        flight.span.start += 1;
        if !flight.span.is_empty() {
            return None;
        }
        let since = self.silent_since().expect("a flight is in front");
        self.settled_at = Some(now);
        let flight = self.flights.pop_front().expect("it was there a moment ago");
        self.backlog_ns -= flight.estimate_ns;
        let elapsed_ns = u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX);
        Some(FinishedFrame { job: flight.span.batch.job, items: flight.items, elapsed_ns })
    }

    /// Takes away the last `count` frames, oldest first.
    pub(crate) fn take_last(&mut self, count: usize) -> Vec<Span> {
        let kept = self.flights.len().checked_sub(count).expect("only what was sent comes back");
        let taken = self.flights.split_off(kept);
        self.give_back(taken)
    }

    /// Takes away the frames with these numbers, oldest first. Numbers that are not in flight are of no account.
    pub(crate) fn take_unread(&mut self, unread: &[FrameNumber]) -> Vec<Span> {
        let flights = std::mem::take(&mut self.flights);
        let (taken, kept) = flights.into_iter().partition(|flight| unread.contains(&flight.number));
        self.flights = kept;
        self.give_back(taken)
    }

    fn give_back(&mut self, taken: VecDeque<Flight>) -> Vec<Span> {
        self.backlog_ns -= taken.iter().map(|flight| flight.estimate_ns).sum::<u64>();
        if let Some(allowance) = &mut self.allowance {
            *allowance += taken.iter().map(|flight| u64::from(flight.span.len())).sum::<u64>();
        }
        taken.into_iter().map(|flight| flight.span).collect()
    }

    /// The worker is gone: the item that it was running, and what it had read and not begun, oldest first.
    pub(crate) fn into_lost(mut self) -> (Option<ItemOf>, Vec<Span>) {
        let lost = self.running();
        if let Some(flight) = self.flights.front_mut() {
            flight.span.start += 1;
        }
        let spans = self.flights.into_iter().map(|flight| flight.span);
        (lost, spans.filter(|span| !span.is_empty()).collect())
    }
}
