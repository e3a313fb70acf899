//! What the API asks of the engine: jobs that begin, are fed, awaited and abandoned; the size and the close of the pool.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use crate::engine::state::Engine;
use crate::engine::state::Phase;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::work::batch::Batch;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;
use crate::work::batch::Target;
use crate::work::group::Completion;
use crate::work::group::DrivenBy;
use crate::work::group::Group;
use crate::work::group::Membership;
use crate::work::jobs::Callback;
use crate::work::jobs::Job;
use crate::work::jobs::Leftover;
use crate::work::jobs::Log;

impl Engine {
    /// A number that no other context of this pool has.
    pub(crate) fn new_context_id(&mut self) -> u64 {
        self.new_id()
    }

    /// Why the pool takes no more tasks, if it does not.
    pub(crate) fn refusal(&self) -> Option<PoolError> {
        match &self.phase {
            Phase::Running => None,
            Phase::Closed => Some(PoolError::Closed),
            Phase::Ended(error) => Some(error.clone()),
        }
    }

    /// Begins a job.
    ///
    /// # Errors
    ///
    /// The pool takes no more.
    pub(crate) fn open(&mut self, policy: JobPolicy, job: Job, label: Option<&str>) -> Result<JobId, PoolError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let id = JobId(self.new_id());
        match job.feeding {
            true => self.schedule.open_feeding(id, policy),
            false => self.schedule.open(id, policy),
        }
        self.jobs.insert(id, job);
        self.observer.call_began(id, label, &mut self.effects);
        Ok(id)
    }

    /// Begins a job that has this one item.
    ///
    /// # Errors
    ///
    /// The pool takes no more.
    pub(crate) fn call(
        &mut self,
        (policy, job, label): (JobPolicy, Job, Option<&str>),
        target: Target,
        item: Result<Items, TaskError>,
    ) -> Result<JobId, PoolError> {
        // Sealed from the beginning: nobody asks whether it is complete before it has its item.
        let id = self.open(policy, Job { sealed: true, ..job }, label)?;
        let work = match item {
            Ok(items) => Ok(Span::whole(Batch { job: id, target, first_index: 0, items })),
            Err(error) => Err((0, error)),
        };
        self.submit(id, work).expect("the pool has taken the job under the same lock");
        Ok(id)
    }

    /// Takes a job that is finished, and which only its holder knows, out of the pool. Its log; `None` if it is unfinished.
    pub(crate) fn take_finished(&mut self, id: JobId) -> Option<Arc<Log>> {
        self.job(id).finished.as_ref()?;
        self.jobs.remove(id)?.finished
    }

    /// Adds items to a job: encoded ones as a span, or one that could not be encoded as its error.
    ///
    /// # Errors
    ///
    /// The pool takes no more.
    pub(crate) fn submit(&mut self, id: JobId, work: Result<Span, (u64, TaskError)>) -> Result<(), PoolError> {
        let refusal = self.refusal();
        let job = self.jobs.held(id);
        match refusal {
            // A call that was accepted before the close is served to its end.
            Some(PoolError::Closed) if job.feeding => {}
            Some(error) => return Err(error),
            None => {}
        }
        match work {
            Ok(span) if job.cancelled.is_some() => {
                job.submitted += u64::from(span.len());
                self.observer.totals.items_submitted += u64::from(span.len());
                self.skip(&span);
            }
            Ok(span) => {
                job.submitted += u64::from(span.len());
                self.observer.totals.items_submitted += u64::from(span.len());
                let now = Instant::now();
                if span.parcel().is_some() {
                    self.keep_memory(now);
                }
                self.schedule.submit(span, now);
                self.record_depth();
            }
            Err((index, error)) => {
                job.submitted += 1;
                self.observer.totals.items_submitted += 1;
                self.settle_error(id, index, error);
            }
        }
        self.carry_out();
        Ok(())
    }

    /// The job gets no more items.
    pub(crate) fn seal(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.sealed = true;
        if std::mem::take(&mut job.feeding) {
            self.schedule.fed(Instant::now());
            self.carry_out();
        }
        self.progress(id);
        self.notify_if_at_rest();
    }

    /// The job's results are not wanted any more. What is left of the job, if anything, may be large, and the drop of its
    /// waker is the user's code: both are to be dropped outside the lock.
    pub(crate) fn abandon(&mut self, id: JobId, leftover: Leftover) -> (Option<Job>, Option<Waker>) {
        let Some(job) = self.jobs.get_mut(id) else { return (None, None) };
        job.abandoned = true;
        if job.is_finished() {
            return (self.jobs.remove(id), None);
        }
        // The task that it would wake has dropped its future.
        let waker = match job.audience {
            Some(_) => self.jobs.change_audience(id, |audience| audience.waker.take()),
            None => None,
        };
        self.seal(id);
        if leftover == Leftover::Skip {
            self.cancel(id);
        }
        (None, waker)
    }

    /// Takes what has arrived for a job; `None` if there is nothing.
    pub(crate) fn take_arrived(&mut self, id: JobId) -> Option<Log> {
        self.job(id).take_arrived()
    }

    /// The whole log of a job, if it is finished.
    pub(crate) fn finished(&mut self, id: JobId) -> Option<Arc<Log>> {
        self.job(id).finished.clone()
    }

    /// Attaches a callback to a job that is unfinished; hands it back, with the log, if the job is finished.
    pub(crate) fn attach(&mut self, id: JobId, callback: Callback) -> Option<(Callback, Arc<Log>)> {
        if let Some(log) = &self.job(id).finished {
            return Some((callback, Arc::clone(log)));
        }
        self.jobs.change_audience(id, |audience| audience.callbacks.push(callback));
        None
    }

    /// Replaces the waker of a job that is unfinished. Returns the log of a finished one, and the waker that is not needed
    /// (the old one, or this one): its drop is the user's code, so the caller drops it outside the lock.
    pub(crate) fn set_waker(&mut self, id: JobId, waker: Waker) -> (Option<Arc<Log>>, Option<Waker>) {
        self.jobs.finished_or_wake(id, waker)
    }

    /// Takes what has arrived for a job; if that is nothing, replaces its waker, which is woken when something has.
    /// Returns the waker that is not needed, as [`set_waker`](Self::set_waker) does.
    pub(crate) fn take_or_wake(&mut self, id: JobId, waker: Waker) -> (Option<Log>, Option<Waker>) {
        self.jobs.take_or_wake(id, waker)
    }

    /// Adds jobs to a group, which notes those that are finished at once, and the others when they are.
    pub(crate) fn join_group(&mut self, jobs: &[(JobId, usize)], group: &Arc<Group>, driven_by: DrivenBy) {
        for &(id, index) in jobs {
            if let Some(log) = &self.job(id).finished {
                group.push(Completion { index, has_failed: log.has_failed() });
                continue;
            }
            let membership = Membership { group: Arc::clone(group), index, driven_by };
            self.jobs.change_audience(id, |audience| audience.memberships.push(membership));
        }
    }

    /// Takes jobs out of a group. Those that are finished have left it already.
    pub(crate) fn leave_group(&mut self, jobs: &[JobId], group: &Arc<Group>) {
        for &id in jobs {
            if !self.job(id).is_finished() {
                let is_other = |membership: &Membership| !Arc::ptr_eq(&membership.group, group);
                self.jobs.change_audience(id, |audience| audience.memberships.retain(is_other));
            }
        }
    }

    /// Whether an item of the job is the first that a worker holds, so that it is running, as far as is known.
    pub(crate) fn is_running(&self, id: JobId) -> bool {
        let is_of_job = |worker| self.schedule.running(worker).is_some_and(|item| item.job == id);
        self.schedule.holders(id).into_iter().any(is_of_job)
    }

    /// How many items of the job may be submitted and not settled at once, if its input is drawn as it goes.
    pub(crate) fn window(&self, id: JobId) -> u64 {
        self.schedule.window(id)
    }

    /// Keeps so many workers from now on.
    ///
    /// # Errors
    ///
    /// The pool takes no more tasks.
    pub(crate) fn resize(&mut self, processes: usize) -> Result<(), PoolError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        self.schedule.resize(processes, Instant::now());
        self.carry_out();
        Ok(())
    }

    /// Takes no more jobs; what was accepted runs.
    pub(crate) fn close(&mut self) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Closed;
            self.schedule.close(Instant::now());
            self.carry_out();
        }
    }
}
