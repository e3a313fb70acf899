//! What is queued of one job, and how long its items take. Pure.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::work::batch::ChunkSize;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;
use crate::work::unbegun::Grain;

/// The length of one frame when the caller did not fix it: half of what a worker may have ahead, so that two are in
/// flight.
const FRAME_NS: u64 = 100_000;
/// The least work, by estimate, for which it is worth waking a worker: about what that costs both sides.
const WAKE_NS: u64 = 20_000;
/// Items in one frame when the caller did not fix it, however short they are.
const FRAME_ITEMS_MAX: u32 = 4096;

/// The queue of one job.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) spans: VecDeque<Span>,
    policy: JobPolicy,
    /// How often items were lost with their workers, for those that were.
    losses: BTreeMap<u64, u32>,
    /// Smoothed time per item, `None` before the first measurement.
    pub(crate) item_ns: Option<u64>,
    /// The most items that may travel together: doubles with each measured frame, so that the first guess is safe.
    frame_items_max: u32,
    pub(crate) queued_items: u64,
    /// What comes back to this queue is dropped: nobody wants its results any more.
    pub(crate) cancelled: bool,
}

impl Queue {
    pub(crate) fn new(policy: JobPolicy) -> Self {
        Self {
            spans: VecDeque::new(),
            policy,
            losses: BTreeMap::new(),
            item_ns: None,
            frame_items_max: 1,
            queued_items: 0,
            cancelled: false,
        }
    }

    /// The item was lost with its worker: how often that has happened to it, this time included.
    pub(crate) fn lose(&mut self, index: u64) -> u32 {
        if self.policy.retries == 0 {
            return 1;
        }
        let losses = self.losses.entry(index).or_default();
        *losses += 1;
        *losses
    }

    /// Whether an item that was lost so often is run again.
    pub(crate) fn tries_again(&self, losses: u32) -> bool {
        losses <= self.policy.retries && !self.cancelled
    }

    /// The most items that the next frame may have, when `processes` workers share what is queued.
    pub(crate) fn items_max(&self, processes: usize, grain: Grain) -> u64 {
        let items = u64::from(self.frame_items(grain));
        match (self.policy.chunk, grain) {
            (ChunkSize::Fixed(_), Grain::Frame) => items,
            (ChunkSize::Fixed(chunk), Grain::Item) => items.min(self.fair_share(processes)).max(u64::from(chunk)),
            (ChunkSize::Adaptive, _) => items.min(self.fair_share(processes)),
        }
    }

    /// What each worker gets if all share what is queued; but never so little that it is not worth waking one.
    fn fair_share(&self, processes: usize) -> u64 {
        let worth_waking = self.item_ns.map_or(1, |item_ns| WAKE_NS / item_ns.max(1));
        self.queued_items.div_ceil(processes as u64).max(worth_waking)
    }

    pub(crate) fn frame_items(&self, grain: Grain) -> u32 {
        let fitting = match self.item_ns {
            None => 1,
            Some(item_ns) => {
                u32::try_from(FRAME_NS / item_ns.max(1)).unwrap_or(u32::MAX).clamp(1, self.frame_items_max)
            }
        };
        match (self.policy.chunk, grain) {
            // Of a frame that the worker has read, the parent cannot stop one item without the next.
            (_, Grain::Frame) if self.policy.is_timed => 1,
            (ChunkSize::Adaptive, _) => fitting,
            (ChunkSize::Fixed(chunk), Grain::Frame) => chunk,
            // As many chunks as fit, for whatever is not begun can be taken back.
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

    pub(crate) fn measure(&mut self, elapsed_ns: u64, items: u32) {
        let sample = elapsed_ns / u64::from(items.max(1));
        self.item_ns = Some(match self.item_ns {
            Some(item_ns) => (item_ns.saturating_mul(3).saturating_add(sample)) / 4,
            None => sample,
        });
        self.frame_items_max = self.frame_items_max.max(items.saturating_mul(2)).min(FRAME_ITEMS_MAX);
    }
}
