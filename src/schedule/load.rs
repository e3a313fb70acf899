//! The work that one worker holds, in the order in which it was sent. Pure.
//!
//! The worker answers item by item, so the first item of the first frame is the only one that may be running; all
//! others have not begun. Service times are measured here, from one finished frame to the next.
//!
//! Also called: in-flight window, prefetch.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::schedule::time_limit::ItemTimer;
use crate::schedule::time_limit::TimeVerdict;
use crate::values::parcel::Parcel;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::progress::Progress;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::UnbegunWork;

/// The estimated time of the work that a worker may hold: enough to hide a transfer between two sleeping processes.
pub(super) const BACKLOG_NS: u64 = 200_000;
/// Maximum frames in flight to one worker, however short they are.
pub(super) const FRAMES_MAX: usize = 64;

/// One item: its job, and its position in the job's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ItemId {
    pub(crate) job: JobId,
    pub(crate) index: u64,
}

/// A frame of which every item has been answered.
#[derive(Clone, Debug)]
pub(crate) struct FinishedFrame {
    pub(crate) job: JobId,
    pub(crate) items: u32,
    pub(crate) elapsed_ns: u64,
    /// Its item, if that travelled by itself, so that the caller can drop it where no other thread waits.
    pub(crate) parcel: Option<Parcel>,
}

/// A frame that was sent and is not fully answered.
#[derive(Debug)]
struct FrameInFlight {
    /// The items that are not answered yet.
    span: Span,
    /// How many items the frame had when it was sent.
    items: u32,
    /// Its share of the load's `backlog_ns`.
    estimate_ns: u64,
    sent_at: Instant,
    number: FrameNumber,
}

impl FrameInFlight {
    /// Splits off all items behind the first `kept` that are not answered.
    fn split_off(&mut self, kept: u32) -> FrameInFlight {
        let len = self.span.len();
        let front = self.span.split_front(kept);
        let span = std::mem::replace(&mut self.span, front);
        let estimate_ns = self.estimate_ns / u64::from(len) * u64::from(span.len());
        let items = span.len();
        self.estimate_ns -= estimate_ns;
        self.items -= items;
        FrameInFlight { span, items, estimate_ns, sent_at: self.sent_at, number: self.number }
    }
}

/// The frames in flight to one worker.
#[derive(Debug)]
pub(crate) struct Load {
    frames: VecDeque<FrameInFlight>,
    items: u64,
    backlog_ns: u64,
    /// Frames sent so far.
    sent: u32,
    /// How many items the worker may still be sent.
    allowance: Option<u64>,
    /// When the worker last finished a frame.
    settled_at: Option<Instant>,
    /// The timer of the item that must be answered next, if its time is limited.
    timer: Option<ItemTimer>,
}

impl Load {
    /// The load of a new worker, which may be sent `allowance` items in its life.
    pub(crate) fn new(allowance: Option<u64>) -> Self {
        Self { frames: VecDeque::new(), items: 0, backlog_ns: 0, sent: 0, allowance, settled_at: None, timer: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many frames are in flight.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The estimated time of all frames in flight.
    pub(crate) fn backlog_ns(&self) -> u64 {
        self.backlog_ns
    }

    /// How many items the worker may still be sent; `None` for no limit.
    pub(crate) fn allowance(&self) -> Option<u64> {
        self.allowance
    }

    /// The oldest frame in flight: the one that the worker runs, if it has read it.
    pub(crate) fn front(&self) -> Option<FrameNumber> {
        self.frames.front().map(|frame| frame.number)
    }

    /// The item that must be answered next.
    pub(crate) fn running(&self) -> Option<ItemId> {
        let span = &self.frames.front()?.span;
        Some(ItemId { job: span.batch.job, index: span.index_of_first() })
    }

    /// The item that must be answered next cannot have begun before its frame was sent and the frame before that was
    /// finished.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        let sent_at = self.frames.front()?.sent_at;
        Some(self.settled_at.map_or(sent_at, |settled_at| settled_at.max(sent_at)))
    }

    /// Whether anything of the job is in flight.
    pub(crate) fn holds(&self, job: JobId) -> bool {
        self.frames.iter().any(|frame| frame.span.batch.job == job)
    }

    /// How many items are in flight.
    pub(crate) fn items(&self) -> u64 {
        self.items
    }

    /// When the last frame was sent, if any is in flight.
    pub(crate) fn last_sent_at(&self) -> Option<Instant> {
        Some(self.frames.back()?.sent_at)
    }

    /// Adds a frame that is sent now, whose items take an estimated `item_ns` each.
    pub(crate) fn push(&mut self, span: Span, item_ns: u64, now: Instant) -> FrameNumber {
        let number = FrameNumber(self.sent);
        self.sent = self.sent.wrapping_add(1);
        // Bounded, so that the sum over all frames cannot overflow.
        let estimate_ns = item_ns.saturating_mul(u64::from(span.len())).min(u64::MAX >> 8);
        self.backlog_ns += estimate_ns;
        self.items += u64::from(span.len());
        if let Some(allowance) = &mut self.allowance {
            *allowance -= u64::from(span.len());
        }
        self.frames.push_back(FrameInFlight { items: span.len(), span, estimate_ns, sent_at: now, number });
        if self.frames.len() == 1 {
            self.start_timer(now);
        }
        number
    }

    /// The next `items` have been answered, all of the first frame. Returns the frame if it has no more items.
    pub(crate) fn settle(&mut self, items: u32, now: Instant) -> Option<FinishedFrame> {
        let frame = self.frames.front_mut().expect("an answer is for an item in flight");
        assert!(items <= frame.span.len(), "an answer is for an item in flight");
        frame.span.start += items;
        self.items -= u64::from(items);
        if !frame.span.is_empty() {
            self.start_timer(now);
            return None;
        }
        let frame = self.frames.pop_front().expect("it was there a moment ago");
        self.start_timer(now);
        self.backlog_ns -= frame.estimate_ns;
        let since = self.settled_at.map_or(frame.sent_at, |settled_at| settled_at.max(frame.sent_at));
        self.settled_at = Some(now);
        let elapsed_ns = u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX);
        let parcel = frame.span.parcel().cloned();
        Some(FinishedFrame { job: frame.span.batch.job, items: frame.items, elapsed_ns, parcel })
    }

    /// Where the frame is among those in flight.
    fn place_of(&self, number: FrameNumber) -> Option<usize> {
        let FrameNumber(first) = self.front()?;
        // Numbers wrap, and those of the frames in flight are close to each other.
        let distance = |FrameNumber(number)| number.wrapping_sub(first);
        self.frames.binary_search_by_key(&distance(number), |frame| distance(frame.number)).ok()
    }

    /// Whether the frame is in flight, or some of its items are.
    pub(crate) fn is_in_flight(&self, number: FrameNumber) -> bool {
        self.place_of(number).is_some()
    }

    /// Removes this frame and those behind it, except the first `kept` items of this one. Returns them oldest first.
    pub(crate) fn take_from(&mut self, number: FrameNumber, kept: u32) -> Vec<Span> {
        let first = self.place_of(number).expect("only what was sent comes back");
        let mut taken = self.frames.split_off(first);
        if kept > 0
            && let Some(frame) = taken.front_mut()
        {
            let rest = frame.split_off(kept);
            let kept = std::mem::replace(frame, rest);
            self.frames.push_back(kept);
        }
        self.give_back(taken)
    }

    /// Removes what the worker has not begun, and returns it oldest first.
    pub(crate) fn take_unbegun(&mut self, unbegun: &UnbegunWork) -> Vec<Span> {
        match unbegun {
            UnbegunWork::Frames(numbers) => self.take_frames(numbers),
            UnbegunWork::Last(items) => self.take_items(*items),
        }
    }

    /// Numbers that are not in flight are ignored.
    fn take_frames(&mut self, numbers: &[FrameNumber]) -> Vec<Span> {
        let frames = std::mem::take(&mut self.frames);
        let (taken, kept) = frames.into_iter().partition(|frame| numbers.contains(&frame.number));
        self.frames = kept;
        self.give_back(taken)
    }

    fn take_items(&mut self, items: u64) -> Vec<Span> {
        let mut left = items;
        let mut taken = VecDeque::new();
        while left > 0 {
            let mut frame = self.frames.pop_back().expect("only what was sent comes back");
            let len = u64::from(frame.span.len());
            if len > left {
                let kept = u32::try_from(len - left).expect("part of a span");
                taken.push_front(frame.split_off(kept));
                self.frames.push_back(frame);
                break;
            }
            left -= len;
            taken.push_front(frame);
        }
        self.give_back(taken)
    }

    /// Another item has become the one that must be answered next.
    fn start_timer(&mut self, now: Instant) {
        let timeout = self.frames.front().and_then(|frame| frame.span.batch.target.timeout);
        self.timer = timeout.map(|timeout| ItemTimer::new(timeout, now));
    }

    /// The orders before the item in front have been carried out.
    pub(crate) fn restart_timer(&mut self, now: Instant) {
        if let Some(timer) = &mut self.timer {
            timer.restart(now);
        }
    }

    /// How long the item in front may run, if its time is limited.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.frames.front()?.span.batch.target.timeout
    }

    /// When the item in front must be checked, if its time is limited.
    pub(crate) fn check_due(&self) -> Option<Instant> {
        self.timer.as_ref().and_then(ItemTimer::due)
    }

    /// What to do about the item in front.
    pub(crate) fn check_deadline(&mut self, progress: Progress, now: Instant) -> TimeVerdict {
        self.timer.as_mut().map_or(TimeVerdict::Wait, |timer| timer.check(progress, now))
    }

    /// Subtracts what was removed from the totals, and returns its spans.
    fn give_back(&mut self, taken: VecDeque<FrameInFlight>) -> Vec<Span> {
        if self.frames.is_empty() {
            self.timer = None;
        }
        let items = taken.iter().map(|frame| u64::from(frame.span.len())).sum::<u64>();
        self.backlog_ns -= taken.iter().map(|frame| frame.estimate_ns).sum::<u64>();
        self.items -= items;
        if let Some(allowance) = &mut self.allowance {
            *allowance += items;
        }
        taken.into_iter().map(|frame| frame.span).collect()
    }

    /// Drops everything: the pool has ended.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(None);
    }

    /// Called when the worker has ended and what it is known not to have begun was removed. Returns the items that may have
    /// begun, and the others, each oldest first.
    pub(crate) fn into_lost(mut self, may_have_begun: MayHaveBegun) -> (Vec<Span>, Vec<Span>) {
        let first = match may_have_begun {
            MayHaveBegun::First => self.frames.front_mut().map(|frame| frame.span.split_front(1)),
            MayHaveBegun::All => None,
        };
        let rest = self.frames.into_iter().map(|frame| frame.span).filter(|span| !span.is_empty()).collect();
        match may_have_begun {
            MayHaveBegun::First => (Vec::from_iter(first), rest),
            MayHaveBegun::All => (rest, Vec::new()),
        }
    }
}

/// Which of the items that are left may have begun when their worker died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MayHaveBegun {
    /// The first only: the worker ran and answered in order, and whole frames that it had not read were removed.
    First,
    /// All of them: exactly the items that had not begun were removed, or the worker's answers cannot be trusted.
    All,
}
