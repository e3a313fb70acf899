//! One half of the engine: the jobs, and what has come back for each.
//!
//! Knows nothing of workers, and decides nothing: the other half keeps the workers, the schedule decides, and
//! [`Engine`](crate::engine::state::Engine) puts events in order.

use std::sync::Arc;

use crate::engine::effects::Due;
use crate::engine::effects::Effects;
use crate::error::TaskError;
use crate::sys::waiters::Waiters;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::jobs::Cancelled;
use crate::work::jobs::Job;
use crate::work::jobs::JobContext;
use crate::work::jobs::Jobs;
use crate::work::jobs::Settled;

/// All jobs that are unfinished, or whose results are still held.
#[derive(Default)]
pub(crate) struct JobTable {
    jobs: Jobs,
    /// Jobs that wait for something.
    unfinished: usize,
    /// Unfinished jobs that have a callback or a waker.
    attended: usize,
}

/// What follows from the end of a job.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The workers need it no longer.
    pub(crate) context: Option<Box<JobContext>>,
    /// The job was still being fed, and will not be.
    pub(crate) was_feeding: bool,
}

impl JobTable {
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished
    }

    pub(crate) fn attended(&self) -> usize {
        self.attended
    }

    pub(crate) fn insert(&mut self, id: JobId, job: Job) {
        self.unfinished += 1;
        self.jobs.insert(id, job);
    }

    pub(crate) fn get(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.jobs.get_mut(&id)
    }

    /// A job that is held by a handle, an iterator or a call.
    pub(crate) fn held(&mut self, id: JobId) -> &mut Job {
        self.jobs.get_mut(&id).expect("a held job is in the table")
    }

    pub(crate) fn remove(&mut self, id: JobId) -> Option<Job> {
        self.jobs.remove(&id)
    }

    /// A callback or a waker has been attached to an unfinished job that had none.
    pub(crate) fn attend(&mut self) {
        self.attended += 1;
    }

    /// Threads that wait for the job without driving.
    pub(crate) fn watchers(&mut self, id: JobId) -> &mut Waiters {
        &mut self.held(id).audience().watchers
    }

    /// Cancels the job, unless it is cancelled already. Whether this call did it.
    pub(crate) fn cancel(&mut self, id: JobId, cancelled: Cancelled) -> bool {
        match self.jobs.get_mut(&id) {
            Some(job) if job.cancelled.is_none() => {
                job.cancelled = Some(cancelled);
                true
            }
            _ => false,
        }
    }

    /// An item has failed. Whether that ends the whole job.
    pub(crate) fn settle_error(&mut self, id: JobId, index: u64, error: TaskError) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        job.settle(index, Settled::Error(Box::new(error)));
        job.fail_fast && job.cancelled.is_none()
    }

    /// Settles items that no worker will run, because their job was cancelled.
    pub(crate) fn skip(&mut self, span: &Span) {
        let Some(job) = self.jobs.get_mut(&span.batch.job) else { return };
        let error = match job.cancelled {
            Some(Cancelled::ByCaller) => TaskError::Cancelled,
            _ => TaskError::Skipped,
        };
        span.indices().for_each(|index| job.settle(index, Settled::Error(Box::new(error.clone()))));
    }

    /// The pool has ended: every item without an outcome gets this error. The jobs that this finishes.
    pub(crate) fn end(&mut self, error: &TaskError) -> Vec<JobId> {
        let unfinished = self.jobs.iter_mut().filter(|(_, job)| !job.is_finished());
        let ended = unfinished.map(|(&id, job)| {
            job.log.rest = Some(Box::new(error.clone()));
            id
        });
        ended.collect()
    }

    /// Something of the job was settled, or it was sealed: wakes the threads that wait for it, and finishes it if nothing
    /// is missing.
    pub(crate) fn progress(&mut self, id: JobId, effects: &mut Effects) -> Option<Finished> {
        let job = self.jobs.get_mut(&id)?;
        if let Some(audience) = job.present() {
            audience.watchers.notify_all();
        }
        if !job.is_complete() || job.is_finished() {
            return None;
        }
        self.unfinished -= 1;
        self.attended -= usize::from(job.is_attended());
        let log = Arc::new(std::mem::take(&mut job.log));
        if let Some(audience) = job.present() {
            effects.calls.extend(audience.waker.take().map(Due::Wake));
            let callbacks = std::mem::take(&mut audience.callbacks);
            effects.calls.extend(callbacks.into_iter().map(|callback| Due::Call(callback, Arc::clone(&log))));
        }
        job.finished = Some(log);
        let finished = Finished { context: job.context.take(), was_feeding: std::mem::take(&mut job.feeding) };
        if job.abandoned {
            self.jobs.remove(&id);
        }
        Some(finished)
    }
}
