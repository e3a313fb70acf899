//! The queue of one job, and how long its items take. Pure.
//!
//! Also called: batching, adaptive chunk size, fair share.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::schedule::steps;
use crate::work::batch::ChunkSize;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;
use crate::work::unbegun::Grain;

/// The time that one frame should take if the caller has set no chunk size: half of the work that a worker may hold
/// ahead, so that two frames are in flight.
const FRAME_NS: u64 = 100_000;
/// The least estimated work that is worth waking a worker for: about what the wake-up costs both sides.
const WAKE_NS: u64 = 20_000;
/// Items that take no longer than this are quick: several of them take less time than a wake-up, and none of them can have
/// waited for anything.
const QUICK_NS: u64 = 2_000;
/// Maximum items in one frame if the caller has set no chunk size, however short they are.
const FRAME_ITEMS_MAX: u32 = 4096;

/// How many workers may end with the same item in front of all that they hold, whether they report that it had begun or
/// not, until it is lost for good. Far more than chance needs; a task can make its worker report anything.
pub(super) const DEATHS_MAX: u32 = 100;

/// Spans in order. The first needs no memory of its own: most queues never have two.
#[derive(Debug, Default)]
struct SpanQueue {
    first: Option<Span>,
    /// Those behind the first; empty if there is no first.
    #[expect(clippy::box_collection, reason = "eight bytes instead of 32 in every queue, and few queues use it")]
    more: Option<Box<VecDeque<Span>>>,
}

impl SpanQueue {
    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn push_back(&mut self, span: Span) {
        match &self.first {
            None => self.first = Some(span),
            Some(_) => self.more.get_or_insert_default().push_back(span),
        }
    }

    fn push_front(&mut self, span: Span) {
        if let Some(second) = self.first.replace(span) {
            self.more.get_or_insert_default().push_front(second);
        }
    }

    fn front_mut(&mut self) -> Option<&mut Span> {
        self.first.as_mut()
    }

    fn pop_front(&mut self) {
        self.first = self.more.as_mut().and_then(|more| more.pop_front());
    }
}

impl IntoIterator for SpanQueue {
    type Item = Span;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Span>, std::collections::vec_deque::IntoIter<Span>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.more.map(|more| *more).unwrap_or_default())
    }
}

/// What has happened to the items of a job that had a part in the end of a worker.
#[derive(Debug, Default)]
struct Misfortunes {
    /// How often each item was lost with its worker, for the items that were.
    losses: BTreeMap<u64, u32>,
    /// How many workers have ended with an item in front, for the items of which that is true.
    deaths: BTreeMap<u64, u32>,
}

/// The queue of one job.
#[derive(Debug)]
pub(crate) struct JobQueue {
    spans: SpanQueue,
    policy: JobPolicy,
    /// Which items were lost, if any was.
    misfortunes: Option<Box<Misfortunes>>,
    /// Smoothed time per item, `None` before the first measurement.
    pub(crate) item_ns: Option<u64>,
    /// Maximum items in one frame. It doubles with each measured frame, so that a wrong first measurement does little harm.
    frame_items_max: u32,
    queued_items: u64,
    /// Work that comes back to this queue is dropped: its results are no longer wanted.
    cancelled: bool,
}

impl JobQueue {
    pub(crate) fn new(policy: JobPolicy) -> Self {
        Self {
            spans: SpanQueue::default(),
            policy,
            misfortunes: None,
            item_ns: None,
            frame_items_max: 1,
            queued_items: 0,
            cancelled: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        steps::count();
        self.spans.is_empty()
    }

    pub(crate) fn queued_items(&self) -> u64 {
        steps::count();
        self.queued_items
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    pub(crate) fn push_front(&mut self, span: Span) {
        self.queued_items += u64::from(span.len());
        self.spans.push_front(span);
    }

    pub(crate) fn push_back(&mut self, span: Span) {
        self.queued_items += u64::from(span.len());
        self.spans.push_back(span);
    }

    /// Moves all that is queued to `dropped`.
    pub(crate) fn cancel(&mut self, dropped: &mut Vec<Span>) {
        self.cancelled = true;
        self.queued_items = 0;
        dropped.extend(std::mem::take(&mut self.spans));
    }

    /// Counts that the item was lost with its worker. Returns how often that has happened to it.
    pub(crate) fn lose(&mut self, index: u64) -> u32 {
        if self.is_deadly(index) {
            return self.deaths(index);
        }
        if self.policy.retries == 0 {
            return 1;
        }
        let losses = self.misfortunes.get_or_insert_default().losses.entry(index).or_default();
        *losses += 1;
        *losses
    }

    /// Counts that a worker has ended with this item in front. Returns how many have.
    pub(crate) fn count_death(&mut self, index: u64) -> u32 {
        let deaths = self.misfortunes.get_or_insert_default().deaths.entry(index).or_default();
        *deaths += 1;
        *deaths
    }

    fn deaths(&self, index: u64) -> u32 {
        self.misfortunes.as_ref().and_then(|misfortunes| misfortunes.deaths.get(&index).copied()).unwrap_or(0)
    }

    fn is_deadly(&self, index: u64) -> bool {
        self.deaths(index) >= DEATHS_MAX
    }

    /// Whether the item, which was lost this often, is run again.
    pub(crate) fn tries_again(&self, index: u64, losses: u32) -> bool {
        losses <= self.policy.retries && !self.cancelled && !self.is_deadly(index)
    }

    /// Whether the items are known to be quick.
    pub(crate) fn is_quick(&self) -> bool {
        self.item_ns.is_some_and(|item_ns| item_ns <= QUICK_NS)
    }

    /// How many workers share the queue, in a pool of `processes`.
    pub(crate) fn sharers(&self, processes: usize, processors: usize) -> usize {
        if self.is_quick() { processes.min(processors) } else { processes }
    }

    /// Maximum items of the next frame, if `processes` workers share the queue.
    pub(crate) fn items_max(&self, processes: usize, grain: Grain) -> u64 {
        let items = u64::from(self.frame_items(grain));
        match (self.policy.chunk, grain) {
            (ChunkSize::Fixed(_), Grain::Frame) => items,
            (ChunkSize::Fixed(chunk), Grain::Item) => items.min(self.fair_share(processes)).max(u64::from(chunk)),
            (ChunkSize::Adaptive, _) => items.min(self.fair_share(processes)),
        }
    }

    /// The share of each worker in the queue, but no less than is worth waking a worker for.
    fn fair_share(&self, processes: usize) -> u64 {
        let worth_waking = self.item_ns.map_or(1, |item_ns| WAKE_NS / item_ns.max(1));
        self.queued_items.div_ceil(processes as u64).max(worth_waking)
    }

    /// How many items a frame should have, whatever is queued.
    pub(crate) fn frame_items(&self, grain: Grain) -> u32 {
        let fitting = match self.item_ns {
            None => 1,
            Some(item_ns) => {
                u32::try_from(FRAME_NS / item_ns.max(1)).unwrap_or(u32::MAX).clamp(1, self.frame_items_max)
            }
        };
        match (self.policy.chunk, grain) {
            // The parent cannot stop one item of a frame that the worker has read without stopping the next.
            (_, Grain::Frame) if self.policy.is_timed => 1,
            (ChunkSize::Adaptive, _) => fitting,
            (ChunkSize::Fixed(chunk), Grain::Frame) => chunk,
            // As many whole chunks as fit: every item that has not begun can be taken back.
            (ChunkSize::Fixed(chunk), Grain::Item) => (fitting / chunk).max(1).saturating_mul(chunk),
        }
    }

    /// Removes up to `items_max` items of one batch from the front.
    pub(crate) fn cut(&mut self, items_max: u64) -> Span {
        let front = self.spans.front_mut().expect("a job in the rotation has queued work");
        let items = u32::try_from(items_max).unwrap_or(u32::MAX).min(front.len());
        let span = front.split_front(items);
        if front.is_empty() {
            self.spans.pop_front();
        }
        self.queued_items -= u64::from(items);
        span
    }

    /// Updates the time per item, and the maximum frame, after `items` took `elapsed_ns`.
    pub(crate) fn measure(&mut self, elapsed_ns: u64, items: u32) {
        let sample = elapsed_ns / u64::from(items.max(1));
        self.item_ns = Some(match self.item_ns {
            Some(item_ns) => (item_ns.saturating_mul(3).saturating_add(sample)) / 4,
            None => sample,
        });
        self.frame_items_max = self.frame_items_max.max(items.saturating_mul(2)).min(FRAME_ITEMS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program may queue a million calls.
    #[test]
    fn a_queue_of_one_span_takes_little_memory() {
        let size = size_of::<JobQueue>();
        assert!(size <= 88, "{size} bytes");
    }
}
