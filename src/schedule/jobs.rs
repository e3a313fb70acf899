//! Events of jobs: opened, submitted, cancelled, removed.

use std::time::Instant;

use crate::schedule::load::BACKLOG_NS;
use crate::schedule::load::FRAMES_MAX;
use crate::schedule::state::Lifecycle;
use crate::schedule::state::Schedule;
use crate::schedule::worker_id::WorkerId;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;

impl Schedule {
    /// A job begins.
    pub(crate) fn open(&mut self, job: JobId, policy: JobPolicy) {
        self.backlog.open(job, policy);
    }

    /// A job begins that delays the end of a closed pool until [`fed`](Self::fed).
    pub(crate) fn open_feeding(&mut self, job: JobId, policy: JobPolicy) {
        self.open(job, policy);
        self.feeding += 1;
    }

    /// A feeding job has submitted its last item.
    pub(crate) fn fed(&mut self, now: Instant) {
        self.feeding = self.feeding.checked_sub(1).expect("only a feeding job ends feeding");
        self.balance(now);
    }

    /// Work arrives at the back of its job's queue.
    pub(crate) fn submit(&mut self, span: Span, now: Instant) {
        if self.lifecycle == Lifecycle::Ended {
            return;
        }
        self.backlog.push(span);
        self.dispatch(now);
    }

    /// No more items of `job` are handed out. Its queued items are [dropped](Self::take_dropped).
    pub(crate) fn cancel(&mut self, job: JobId, now: Instant) {
        self.backlog.cancel(job);
        self.balance(now);
    }

    /// Work of cancelled jobs that will never be handed out, since the last call.
    pub(crate) fn take_dropped(&mut self) -> Vec<Span> {
        self.backlog.take_dropped()
    }

    /// Forgets a job of which every item has a result.
    pub(crate) fn remove(&mut self, job: JobId) {
        self.backlog.remove(job);
    }

    /// How many items of the job may be in progress at once if its input is drawn on demand (backpressure): enough to
    /// keep every worker busy, and as many again behind those. Few while items are long or unmeasured, more when they
    /// take microseconds.
    pub(crate) fn window(&self, job: JobId) -> u64 {
        let Some(queue) = self.backlog.queue(job) else { return 1 };
        let chunk = u64::from(queue.frame_items(self.grain));
        let frame_ns = queue.item_ns.map_or(u64::MAX, |item_ns| item_ns.saturating_mul(chunk)).max(1);
        let frames = (BACKLOG_NS / frame_ns).clamp(1, FRAMES_MAX as u64);
        2 * queue.sharers(self.size.max(), self.processors) as u64 * frames * chunk
    }

    /// Updates the time that an item of the job takes: `items` of it, or of a very similar job, took `elapsed_ns`.
    pub(crate) fn measure(&mut self, job: JobId, elapsed_ns: u64, items: u32) {
        if let Some(queue) = self.backlog.queue_mut(job) {
            queue.measure(elapsed_ns, items);
        }
    }

    /// The workers that hold items of the job.
    pub(crate) fn holders(&self, job: JobId) -> Vec<WorkerId> {
        self.roster.holders(job)
    }

    /// The workers that hold items of any job.
    pub(crate) fn loaded(&self) -> Vec<WorkerId> {
        self.roster.loaded()
    }
}
