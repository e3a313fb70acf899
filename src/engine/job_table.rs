//! One half of the engine: the jobs, and what has come back for each.
//!
//! Knows nothing of workers, and decides nothing: the other half keeps the workers, the schedule decides, and
//! [`Engine`](crate::engine::state::Engine) puts events in order.

use std::sync::Arc;
use std::task::Waker;

use crate::engine::effects::Due;
use crate::engine::effects::Effects;
use crate::error::TaskError;
use crate::sys::waiters::Waiters;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::group::Completion;
use crate::work::group::Membership;
use crate::work::jobs::Audience;
use crate::work::jobs::Cancelled;
use crate::work::jobs::Job;
use crate::work::jobs::JobContext;
use crate::work::jobs::Jobs;
use crate::work::jobs::Log;
use crate::work::jobs::Settled;
use crate::work::jobs::Wakes;

/// All jobs that are unfinished, or whose results are still held.
#[derive(Default)]
pub(crate) struct JobTable {
    jobs: Jobs,
    /// Jobs that wait for something.
    unfinished: usize,
    /// Unfinished jobs that have a callback or a waker, or are in a group that does not drive.
    attended: usize,
}

/// What follows from the end of a job.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The workers need it no longer.
    pub(crate) context: Option<Box<JobContext>>,
    /// The job was still being fed, and will not be.
    pub(crate) was_feeding: bool,
    /// How many items it had.
    pub(crate) items: u64,
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

    pub(crate) fn unfinished_ids(&self) -> Vec<JobId> {
        self.jobs.iter().filter(|(_, job)| !job.is_finished()).map(|(&id, _)| id).collect()
    }

    pub(crate) fn remove(&mut self, id: JobId) -> Option<Job> {
        self.jobs.remove(&id)
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

    /// The log of a job, if it is finished; otherwise `waker` replaces its waker, which is woken when it is. Returns the
    /// waker that is not needed, too.
    pub(crate) fn finished_or_wake(&mut self, id: JobId, waker: Waker) -> (Option<Arc<Log>>, Option<Waker>) {
        if let Some(log) = &self.held(id).finished {
            return (Some(Arc::clone(log)), Some(waker));
        }
        (None, self.change_audience(id, |audience| audience.waker.replace(waker)))
    }

    /// Takes what has arrived for a job; if that is nothing, `waker` replaces its waker, which is woken once when
    /// something has. Returns the waker that is not needed, too.
    ///
    /// One step under the lock. Between a look and a registration in two steps, an answer could arrive that wakes
    /// nothing, and it may be the last.
    pub(crate) fn take_or_wake(&mut self, id: JobId, waker: Waker) -> (Option<Log>, Option<Waker>) {
        if let Some(log) = self.held(id).take_arrived() {
            return (Some(log), Some(waker));
        }
        let replace = |audience: &mut Audience| {
            audience.wakes = Wakes::AtProgress;
            audience.waker.replace(waker)
        };
        (None, self.change_audience(id, replace))
    }

    /// Wakes the task that takes the outcomes of this unfinished job as they arrive, if one has. The waker is used up:
    /// the task registers another when it has taken what there is, under the same lock.
    fn wake_for_progress(&mut self, id: JobId, effects: &mut Effects) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.has_arrived()) else { return };
        let Some(audience) = job.present().filter(|audience| audience.wakes == Wakes::AtProgress) else { return };
        let Some(waker) = audience.waker.take() else { return };
        effects.wakers.push(waker);
        if !job.is_attended() {
            self.attended -= 1;
        }
    }

    /// Changes what waits for an unfinished job, and counts whether it needs a driver.
    pub(crate) fn change_audience<R>(&mut self, id: JobId, change: impl FnOnce(&mut Audience) -> R) -> R {
        let job = self.held(id);
        assert!(!job.is_finished(), "nothing waits for a finished job");
        let was_attended = job.is_attended();
        let result = change(job.audience());
        let is_attended = job.is_attended();
        self.attended += usize::from(is_attended);
        self.attended -= usize::from(was_attended);
        result
    }

    /// Something of the job was settled, or it was sealed: wakes the threads that wait for it, and finishes it if nothing
    /// is missing.
    pub(crate) fn progress(&mut self, id: JobId, effects: &mut Effects) -> Option<Finished> {
        let job = self.jobs.get_mut(&id)?;
        if let Some(audience) = job.present() {
            audience.watchers.notify_all();
        }
        if job.is_finished() {
            return None;
        }
        if !job.is_complete() {
            self.wake_for_progress(id, effects);
            return None;
        }
        self.unfinished -= 1;
        self.attended -= usize::from(job.is_attended());
        let log = Arc::new(std::mem::take(&mut job.log));
        if let Some(audience) = job.present() {
            for Membership { group, index, .. } in std::mem::take(&mut audience.memberships) {
                group.push(Completion { index, has_failed: log.has_failed() });
            }
            effects.wakers.extend(audience.waker.take());
            let callbacks = std::mem::take(&mut audience.callbacks);
            effects.calls.extend(callbacks.into_iter().map(|callback| Due::Call(callback, Arc::clone(&log))));
        }
        job.finished = Some(log);
        let (context, items) = (job.context.take(), job.submitted);
        let finished = Finished { context, was_feeding: std::mem::take(&mut job.feeding), items };
        if job.abandoned {
            self.jobs.remove(&id);
        }
        Some(finished)
    }
}

/// A walk: jobs whose outcomes arrive, and the task, callback or group that waits for each.
#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;
    use crate::work::group::DrivenBy;
    use crate::work::group::Group;
    use crate::work::jobs::SettledRef;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// Items are submitted to a job that is fed as its outcomes are consumed.
        Submit {
            job: u64,
            items: u64,
        },
        /// Outcomes arrive.
        Settle {
            job: u64,
            items: u64,
        },
        Seal {
            job: u64,
        },
        /// A stream is polled, until it has to wait.
        Poll {
            job: u64,
        },
        /// A future is polled.
        Await {
            job: u64,
        },
        Callback {
            job: u64,
        },
        Join {
            job: u64,
            driven_by: DrivenBy,
        },
        Leave {
            job: u64,
        },
    }

    const JOBS: u64 = 3;

    fn event() -> impl Strategy<Value = Event> {
        let job = 0..JOBS;
        prop_oneof![
            3 => (job.clone(), 1..5u64).prop_map(|(job, items)| Event::Submit { job, items }),
            4 => (job.clone(), 1..5u64).prop_map(|(job, items)| Event::Settle { job, items }),
            1 => job.clone().prop_map(|job| Event::Seal { job }),
            4 => job.clone().prop_map(|job| Event::Poll { job }),
            1 => job.clone().prop_map(|job| Event::Await { job }),
            1 => job.clone().prop_map(|job| Event::Callback { job }),
            1 => (job.clone(), prop_oneof![Just(DrivenBy::Waiter), Just(DrivenBy::Background)])
                .prop_map(|(job, driven_by)| Event::Join { job, driven_by }),
            1 => job.prop_map(|job| Event::Leave { job }),
        ]
    }

    /// How often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is known of a job from outside.
    #[derive(Default)]
    struct Model {
        submitted: u64,
        settled: u64,
        taken: u64,
        sealed: bool,
        finished: bool,
        /// The waker of the last poll that had to wait, and whether it waits for the end only.
        sleeping: Option<(Arc<Woken>, Wakes)>,
        callbacks: usize,
        /// Whether the job is in the group, and which thread drives.
        joined: Vec<DrivenBy>,
        completions: usize,
    }

    struct World {
        table: JobTable,
        effects: Effects,
        models: BTreeMap<u64, Model>,
        group: Arc<Group>,
    }

    impl World {
        fn new() -> Self {
            let mut table = JobTable::default();
            (0..JOBS).for_each(|job| table.insert(JobId(job), Job::default()));
            let models = (0..JOBS).map(|job| (job, Model::default())).collect();
            Self { table, effects: Effects::default(), models, group: Arc::default() }
        }

        fn apply(&mut self, event: Event) {
            match event {
                Event::Submit { job, items } => {
                    let model = self.models.get_mut(&job).unwrap();
                    if !model.sealed {
                        model.submitted += items;
                        self.table.held(JobId(job)).submitted += items;
                    }
                }
                Event::Settle { job, items } => {
                    let model = self.models.get_mut(&job).unwrap();
                    let items = items.min(model.submitted - model.settled);
                    for index in model.settled..model.settled + items {
                        self.table.held(JobId(job)).settle_value(index, &[0]);
                    }
                    model.settled += items;
                    self.progress(job);
                }
                Event::Seal { job } => {
                    self.models.get_mut(&job).unwrap().sealed = true;
                    self.table.held(JobId(job)).sealed = true;
                    self.progress(job);
                }
                Event::Poll { job } => self.poll(job),
                Event::Await { job } => self.poll_end(job),
                Event::Callback { job } => {
                    let model = self.models.get_mut(&job).unwrap();
                    if !model.finished {
                        model.callbacks += 1;
                        self.table.change_audience(JobId(job), |audience| audience.callbacks.push(Box::new(|_| {})));
                    }
                }
                Event::Join { job, driven_by } => {
                    let model = self.models.get_mut(&job).unwrap();
                    if !model.finished {
                        model.joined.push(driven_by);
                        let (group, index) = (Arc::clone(&self.group), usize::try_from(job).unwrap());
                        let membership = Membership { group, index, driven_by };
                        self.table.change_audience(JobId(job), |audience| audience.memberships.push(membership));
                    }
                }
                Event::Leave { job } => {
                    let model = self.models.get_mut(&job).unwrap();
                    if !model.finished {
                        model.joined.clear();
                        self.table.change_audience(JobId(job), |audience| audience.memberships.clear());
                    }
                }
            }
            self.check();
        }

        fn progress(&mut self, job: u64) {
            let model = self.models.get_mut(&job).unwrap();
            let ends = !model.finished && model.sealed && model.settled == model.submitted;
            let finished = self.table.progress(JobId(job), &mut self.effects);
            assert_eq!(finished.is_some(), ends, "a job finishes once, when it is complete");
            model.finished |= ends;
            if ends {
                assert_eq!(self.effects.calls.len(), model.callbacks, "each callback is due");
                self.effects.calls.clear();
                model.completions += model.joined.len();
                model.joined.clear();
            }
            // Woken outside the lock.
            self.effects.wakers.drain(..).for_each(Waker::wake);
        }

        fn poll(&mut self, job: u64) {
            let model = self.models.get_mut(&job).unwrap();
            // A job has one consumer, a future or a stream; and one with callbacks has no stream.
            if model.sleeping.as_ref().is_some_and(|(_, wakes)| *wakes == Wakes::AtEnd) || model.callbacks > 0 {
                return;
            }
            let woken = Arc::new(Woken::default());
            let (log, unused) = self.table.take_or_wake(JobId(job), Waker::from(Arc::clone(&woken)));
            assert_eq!(unused.is_some(), log.is_some() || model.sleeping.as_ref().is_some_and(|one| !was_woken(one)));
            model.sleeping = match log {
                None => Some((woken, Wakes::AtProgress)),
                Some(log) => {
                    let items = log.outcomes().map(|(_, outcome)| match outcome {
                        SettledRef::Values { items, .. } => u64::from(items),
                        _ => 1,
                    });
                    model.taken += items.sum::<u64>();
                    assert_eq!(model.taken, model.settled, "all that has arrived is taken");
                    None
                }
            };
        }

        fn poll_end(&mut self, job: u64) {
            let model = self.models.get_mut(&job).unwrap();
            if model.taken > 0 || model.sleeping.as_ref().is_some_and(|(_, wakes)| *wakes == Wakes::AtProgress) {
                return;
            }
            let woken = Arc::new(Woken::default());
            let (log, _unused) = self.table.finished_or_wake(JobId(job), Waker::from(Arc::clone(&woken)));
            assert_eq!(log.is_some(), model.finished);
            model.sleeping = log.is_none().then_some((woken, Wakes::AtEnd));
        }

        fn check(&self) {
            let mut attended = 0;
            for (id, model) in &self.models {
                let waits = model.sleeping.as_ref().is_some_and(|one| !was_woken(one));
                if let Some(one @ (woken, wakes)) = &model.sleeping {
                    let has_news = match wakes {
                        Wakes::AtEnd => model.finished,
                        Wakes::AtProgress => model.finished || model.taken < model.settled,
                    };
                    assert_eq!(was_woken(one), has_news, "job {id}: woken if there is news, and only then");
                    assert!(woken.0.load(Ordering::Relaxed) <= 1, "woken once");
                }
                let is_grouped = model.joined.contains(&DrivenBy::Background);
                attended += usize::from(!model.finished && (waits || model.callbacks > 0 || is_grouped));
            }
            assert_eq!(self.table.attended(), attended, "jobs that need a driver are counted");
            assert_eq!(self.table.unfinished(), self.models.values().filter(|model| !model.finished).count());
        }
    }

    fn was_woken((woken, _): &(Arc<Woken>, Wakes)) -> bool {
        woken.0.load(Ordering::Relaxed) > 0
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_task_sleeps_beside_news(events in proptest::collection::vec(event(), 1..120)) {
            let mut world = World::new();
            events.into_iter().for_each(|event| world.apply(event));
            let completions: usize = world.models.values().map(|model| model.completions).sum();
            prop_assert_eq!(world.group.take().len(), completions, "each job that finishes in a group is noted there");
        }
    }
}
