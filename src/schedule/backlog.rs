//! Work that no worker holds: the queue of each job, and which job is served next. Pure.
//!
//! Also called: run queue, round-robin scheduling.

use std::collections::VecDeque;

use crate::schedule::departure::Lost;
use crate::schedule::load::ItemId;
use crate::schedule::queue::JobQueue;
use crate::sys::id_hasher::IdMap;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;

/// The end of a queue at which work is inserted.
#[derive(Clone, Copy, Debug)]
enum QueueEnd {
    Front,
    Back,
}

/// All queued work.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    jobs: IdMap<JobId, JobQueue>,
    /// The jobs that have queued spans, each once, and among them jobs that were cancelled since they were queued. The
    /// next to be served is at the front, which is never a cancelled one.
    rotation: VecDeque<JobId>,
    /// How many of them were cancelled.
    stale: usize,
    /// The items in all queues.
    queued_items: u64,
    /// Work of cancelled jobs, until the engine takes it.
    dropped: Vec<Span>,
    /// Items that are run again, until the engine takes them.
    retried: Vec<ItemId>,
}

impl Backlog {
    pub(super) fn open(&mut self, job: JobId, policy: JobPolicy) {
        let before = self.jobs.insert(job, JobQueue::new(policy));
        assert!(before.is_none(), "a job is opened once");
    }

    pub(super) fn remove(&mut self, job: JobId) {
        if let Some(queue) = self.jobs.remove(&job) {
            assert!(queue.is_empty(), "a job ends when its queue is empty");
        }
    }

    /// No more items of the job are handed out; those in its queue are dropped.
    pub(super) fn cancel(&mut self, job: JobId) {
        let Some(queue) = self.jobs.get_mut(&job) else { return };
        // Its place in the rotation is skipped later: a search for it would take as many steps as there are jobs.
        self.stale += usize::from(!queue.is_empty());
        self.queued_items -= queue.queued_items();
        queue.cancel(&mut self.dropped);
        self.skip_stale();
    }

    /// Makes the front of the rotation a job that has queued spans, and keeps the places of others from prevailing.
    fn skip_stale(&mut self) {
        let Self { jobs, rotation, stale, .. } = self;
        let is_live = |job: &JobId| jobs.get(job).is_some_and(|queue| !queue.is_empty());
        while *stale > 0 && rotation.front().is_some_and(|job| !is_live(job)) {
            rotation.pop_front();
            *stale -= 1;
        }
        if *stale > rotation.len() / 2 {
            rotation.retain(is_live);
            *stale = 0;
        }
    }

    pub(super) fn take_dropped(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.dropped)
    }

    pub(super) fn take_retried(&mut self) -> Vec<ItemId> {
        std::mem::take(&mut self.retried)
    }

    pub(super) fn clear(&mut self) {
        *self = Self { dropped: std::mem::take(&mut self.dropped), ..Self::default() };
    }

    /// Whether no work is queued.
    pub(super) fn is_empty(&self) -> bool {
        self.rotation.is_empty()
    }

    pub(super) fn queued_items(&self) -> u64 {
        self.queued_items
    }

    pub(super) fn queue(&self, job: JobId) -> Option<&JobQueue> {
        self.jobs.get(&job)
    }

    pub(super) fn queue_mut(&mut self, job: JobId) -> Option<&mut JobQueue> {
        self.jobs.get_mut(&job)
    }

    /// The queue that is served next.
    pub(super) fn front(&self) -> Option<&JobQueue> {
        self.rotation.front().map(|job| &self.jobs[job])
    }

    /// Takes a span of at most `items_max` items from the queue that is served next, and moves that queue to the back of
    /// the rotation. Returns the span, and the time that each of its items takes, if it is known.
    pub(super) fn cut(&mut self, items_max: impl FnOnce(&JobQueue) -> u64) -> Option<(Span, Option<u64>)> {
        let job = self.rotation.pop_front()?;
        let queue = self.jobs.get_mut(&job).expect("the rotation names open jobs");
        let span = queue.cut(items_max(queue).max(1));
        let item_ns = queue.item_ns;
        if !queue.is_empty() {
            self.rotation.push_back(job);
        }
        self.queued_items -= u64::from(span.len());
        self.skip_stale();
        Some((span, item_ns))
    }

    /// Work arrives at the back of its job's queue.
    pub(super) fn push(&mut self, span: Span) {
        self.enqueue(span, QueueEnd::Back);
    }

    /// Work that a worker no longer holds returns to the front of its queues, in order.
    pub(super) fn put_back(&mut self, spans: Vec<Span>) {
        for span in spans.into_iter().rev().filter(|span| !span.is_empty()) {
            self.enqueue(span, QueueEnd::Front);
        }
    }

    /// Moves the queue of a job to the front of the rotation, if it has one.
    pub(super) fn serve_next(&mut self, job: JobId) {
        self.rotate(job, QueueEnd::Front);
    }

    /// Moves the queue of a job to the back of the rotation, if it has one.
    pub(super) fn serve_last(&mut self, job: JobId) {
        self.rotate(job, QueueEnd::Back);
        self.skip_stale();
    }

    fn rotate(&mut self, job: JobId, to: QueueEnd) {
        if self.jobs.get(&job).is_none_or(JobQueue::is_empty) {
            return;
        }
        // It was served a moment ago, and is the first if it had nothing else, and the last otherwise.
        let place = match self.rotation.front() {
            Some(&first) if first == job => 0,
            _ => self.rotation.iter().rposition(|&queued| queued == job).expect("it has queued spans"),
        };
        self.rotation.remove(place);
        match to {
            QueueEnd::Front => self.rotation.push_front(job),
            QueueEnd::Back => self.rotation.push_back(job),
        }
    }

    /// A worker has ended with this item in front. Returns how many have by now.
    pub(super) fn count_death(&mut self, item: ItemId) -> u32 {
        self.jobs.get_mut(&item.job).map_or(0, |queue| queue.count_death(item.index))
    }

    /// Handles items that may have begun and whose worker has ended. Those that are run again go back to the front of
    /// their queues; the others are returned.
    pub(super) fn lose(&mut self, lost: Vec<Span>, may_retry: bool) -> Vec<Lost> {
        let (mut again, mut gone) = (Vec::new(), Vec::new());
        for mut span in lost {
            while !span.is_empty() {
                let one = span.split_front(1);
                let item = ItemId { job: one.batch.job, index: one.index_of_first() };
                let queue = self.jobs.get_mut(&item.job).expect("work belongs to an open job");
                let workers = queue.lose(item.index);
                match may_retry && queue.tries_again(item.index, workers) {
                    true => {
                        self.retried.push(item);
                        again.push(one);
                    }
                    false => gone.push(Lost { item, workers }),
                }
            }
        }
        self.put_back(again);
        gone
    }

    /// Removes the first item of these spans, and handles it as [`lose`](Self::lose) does.
    pub(super) fn lose_first(&mut self, spans: &mut [Span]) -> Vec<Lost> {
        let first = spans.first_mut().map(|span| span.split_front(1));
        self.lose(Vec::from_iter(first), true)
    }

    fn enqueue(&mut self, span: Span, end: QueueEnd) {
        let job = span.batch.job;
        let queue = self.jobs.get_mut(&job).expect("work belongs to an open job");
        if queue.is_cancelled() {
            self.dropped.push(span);
            return;
        }
        if queue.is_empty() {
            match end {
                QueueEnd::Front => self.rotation.push_front(job),
                QueueEnd::Back => self.rotation.push_back(job),
            }
        }
        self.queued_items += u64::from(span.len());
        match end {
            QueueEnd::Front => queue.push_front(span),
            QueueEnd::Back => queue.push_back(span),
        }
    }

    /// The total of the queues, counted anew.
    #[cfg(any(test, fuzzing))]
    pub(super) fn check(&self) {
        assert_eq!(self.queued_items, self.jobs.values().map(JobQueue::queued_items).sum::<u64>());
        let is_live = |job: &JobId| self.jobs.get(job).is_some_and(|queue| !queue.is_empty());
        let live = self.rotation.iter().filter(|job| is_live(job)).count();
        assert_eq!(live, self.jobs.values().filter(|queue| !queue.is_empty()).count(), "each is in the rotation, once");
        assert_eq!(live + self.stale, self.rotation.len());
        assert!(self.rotation.front().is_none_or(is_live), "the front can be served");
        assert!(self.stale <= live, "most places in the rotation are of jobs that have work");
    }
}
