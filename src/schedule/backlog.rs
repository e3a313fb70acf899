//! Work that nobody has been given: the queue of each job, and whose turn it is. Pure.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::schedule::Lost;
use crate::schedule::load::ItemOf;
use crate::schedule::queue::Queue;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;

#[derive(Clone, Copy, Debug)]
enum End {
    Front,
    Back,
}

/// All queued work.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    jobs: BTreeMap<JobId, Queue>,
    /// Jobs that have queued spans, each once, the next to be served first.
    rotation: VecDeque<JobId>,
    /// Work of cancelled jobs.
    dropped: Vec<Span>,
}

impl Backlog {
    pub(super) fn open(&mut self, job: JobId, policy: JobPolicy) {
        let before = self.jobs.insert(job, Queue::new(policy));
        assert!(before.is_none(), "a job is opened once");
    }

    pub(super) fn remove(&mut self, job: JobId) {
        if let Some(queue) = self.jobs.remove(&job) {
            assert!(queue.spans.is_empty(), "a job ends when its queue is empty");
        }
    }

    /// Nothing more of the job is handed out.
    pub(super) fn cancel(&mut self, job: JobId) {
        self.rotation.retain(|&queued| queued != job);
        if let Some(queue) = self.jobs.get_mut(&job) {
            queue.cancelled = true;
            queue.queued_items = 0;
            self.dropped.extend(queue.spans.drain(..));
        }
    }

    pub(super) fn take_dropped(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.dropped)
    }

    pub(super) fn clear(&mut self) {
        self.jobs.clear();
        self.rotation.clear();
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.rotation.is_empty()
    }

    pub(super) fn queued_items(&self) -> u64 {
        self.jobs.values().map(|queue| queue.queued_items).sum()
    }

    pub(super) fn queue(&self, job: JobId) -> Option<&Queue> {
        self.jobs.get(&job)
    }

    pub(super) fn queue_mut(&mut self, job: JobId) -> Option<&mut Queue> {
        self.jobs.get_mut(&job)
    }

    /// The queue whose turn it is.
    pub(super) fn front(&self) -> Option<&Queue> {
        self.rotation.front().map(|job| &self.jobs[job])
    }

    /// Takes a span from the queue whose turn it is, as long as `items_max` says, and gives the next queue its turn;
    /// with the time that each of its items takes, if it is known.
    pub(super) fn cut(&mut self, items_max: impl FnOnce(&Queue) -> u64) -> Option<(Span, Option<u64>)> {
        let job = self.rotation.pop_front()?;
        let queue = self.jobs.get_mut(&job).expect("the rotation names open jobs");
        let span = queue.cut(items_max(queue).max(1));
        if !queue.spans.is_empty() {
            self.rotation.push_back(job);
        }
        Some((span, queue.item_ns))
    }

    /// Work arrives at the back of its job's queue.
    pub(super) fn push(&mut self, span: Span) {
        self.enqueue(span, End::Back);
    }

    /// What a worker no longer holds returns to the front of its queues, in order.
    pub(super) fn put_back(&mut self, spans: Vec<Span>) {
        for span in spans.into_iter().rev() {
            self.enqueue(span, End::Front);
        }
    }

    /// These items may have begun, and their worker is gone. What is run again returns to the front of its queue; the
    /// rest is returned.
    pub(super) fn lose(&mut self, lost: Vec<Span>, may_retry: bool) -> Vec<Lost> {
        let (mut again, mut gone) = (Vec::new(), Vec::new());
        for mut span in lost {
            while !span.is_empty() {
                let one = span.split_front(1);
                let item = ItemOf { job: one.batch.job, index: one.index_of_first() };
                let queue = self.jobs.get_mut(&item.job).expect("work belongs to an open job");
                let workers = queue.lose(item.index);
                match may_retry && queue.tries_again(workers) {
                    true => again.push(one),
                    false => gone.push(Lost { item, workers }),
                }
            }
        }
        self.put_back(again);
        gone
    }

    fn enqueue(&mut self, span: Span, end: End) {
        let job = span.batch.job;
        let queue = self.jobs.get_mut(&job).expect("work belongs to an open job");
        if queue.cancelled {
            self.dropped.push(span);
            return;
        }
        if queue.spans.is_empty() {
            match end {
                End::Front => self.rotation.push_front(job),
                End::Back => self.rotation.push_back(job),
            }
        }
        queue.queued_items += u64::from(span.len());
        match end {
            End::Front => queue.spans.push_front(span),
            End::Back => queue.spans.push_back(span),
        }
    }
}
