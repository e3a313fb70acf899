//! The verbs of [`Backend`], on the engine behind the lock.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use start_methods::StartMethod;

use crate::driver::backend::Backend;
use crate::driver::backend::Exchange;
use crate::driver::backend::IfClosed;
use crate::driver::backend::More;
use crate::driver::backend::Opening;
use crate::driver::callbacks::UserThread;
use crate::driver::seat::WaitsFor;
use crate::driver::shared::Seat;
use crate::driver::shared::Shared;
use crate::engine::Engine;
use crate::engine::effects::Due;
use crate::error::Label;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::observe::record::Records;
use crate::observe::stats::Stats;
use crate::sys::failpoint::fault;
use crate::values::output::Output;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Target;
use crate::work::batch::Work;
use crate::work::group::DrivenBy;
use crate::work::group::Group;
use crate::work::jobs::Callback;
use crate::work::jobs::Job;
use crate::work::jobs::Leftover;
use crate::work::jobs::Log;

/// Submits the work up to the first refusal, and seals the job after that or if nothing follows.
fn submit_run(engine: &mut Engine, job: JobId, work: Vec<Work>, more: More) -> Result<(), PoolError> {
    let submitted = work.into_iter().try_for_each(|work| engine.submit(job, work));
    if more == More::Never || submitted.is_err() {
        engine.seal(job);
    }
    submitted
}

/// How many jobs join or leave a group under one lock acquisition.
const GROUP_PORTION: usize = 256;

impl Shared {
    /// Starts the thread that wakes tasks, unless it was started before. Without it, wakers run on the thread that has
    /// the news, so a refusal of the system is not an error.
    fn start_waker_thread(&self) -> Result<(), PoolError> {
        // Before any lock.
        self.check_owner()?;
        if !self.wakers.is_started()
            && let Err(error) = start_unless_failed(&self.wakers)
        {
            log::warn!("the thread that wakes tasks could not be started, and will be tried again: {error}");
        }
        Ok(())
    }
}

fn parts_of(opening: Opening) -> (JobPolicy, Job, Label) {
    let Opening { policy, fail_fast, context, if_closed, label } = opening;
    let context = context.map(Box::new);
    (policy, Job { feeding: if_closed == IfClosed::Serve, fail_fast, context, ..Job::default() }, label)
}

fn start_unless_failed(thread: &Arc<UserThread>) -> std::io::Result<()> {
    fault!("waker_thread");
    thread.start()
}

impl Backend for Shared {
    fn open(&self, opening: Opening) -> Result<JobId, PoolError> {
        let (policy, job, label) = parts_of(opening);
        self.with(|engine| engine.open(policy, job, label.text()))?
    }

    fn call(&self, opening: Opening, target: Target, item: Result<Items, TaskError>) -> Result<Arc<Log>, PoolError> {
        let (policy, job, label) = parts_of(opening);
        self.check_owner()?;
        let mut driven = self.driven.lock();
        let id = driven.engine.call((policy, job, label.text()), target, item)?;
        // A driver that sleeps must ask the worker to ring. Without one, this thread is the driver in a moment, and needs
        // nobody; but for starts, which the background thread makes.
        if driven.seat == Seat::Foreground || driven.engine.effects.starts > 0 {
            self.alert(&mut driven);
        }
        driven = self.settle_effects(driven);
        let log = self.wait_in(driven, WaitsFor::Job(id), None, |engine| engine.take_finished(id));
        Ok(log.expect("without a deadline there is a result"))
    }

    fn submit(&self, job: JobId, work: Vec<Work>, more: More) -> Result<(), PoolError> {
        self.with(|engine| submit_run(engine, job, work, more))?
    }

    fn exchange(&self, job: JobId, work: Vec<Work>, more: More) -> Result<Exchange, PoolError> {
        self.feed(|engine| {
            let refusal = submit_run(engine, job, work, more).err();
            Exchange { refusal, arrived: engine.take_arrived(job), window: engine.window(job) }
        })
    }

    fn seal(&self, job: JobId) -> Option<Log> {
        let arrived = self.with(|engine| {
            engine.seal(job);
            engine.take_arrived(job)
        });
        // A forked copy has nothing to seal.
        arrived.ok().flatten()
    }

    fn take(&self, job: JobId, deadline: Option<Instant>) -> Result<Option<Log>, PoolError> {
        self.wait_for(WaitsFor::Job(job), deadline, |engine| engine.take_arrived(job))
    }

    fn wait(&self, job: JobId, deadline: Option<Instant>) -> Result<Option<Arc<Log>>, PoolError> {
        self.wait_for(WaitsFor::Job(job), deadline, |engine| engine.finished(job))
    }

    fn poll(&self, job: JobId, waker: Waker) -> Result<Option<Arc<Log>>, PoolError> {
        self.start_waker_thread()?;
        // The waker that is not needed is dropped here, outside the lock: its drop is the user's code.
        let (log, _unused) = self.with(|engine| engine.set_waker(job, waker))?;
        Ok(log)
    }

    fn poll_take(&self, job: JobId, waker: Waker) -> Result<Option<Log>, PoolError> {
        self.start_waker_thread()?;
        // See `poll`.
        let (log, _unused) = self.with(|engine| engine.take_or_wake(job, waker))?;
        Ok(log)
    }

    fn join_group(&self, jobs: &[(JobId, usize)], group: &Arc<Group>, driven_by: DrivenBy) -> Result<(), PoolError> {
        // In portions, so that other threads get the lock in between.
        jobs.chunks(GROUP_PORTION).try_for_each(|jobs| self.with(|engine| engine.join_group(jobs, group, driven_by)))
    }

    fn leave_group(&self, jobs: &[JobId], group: &Arc<Group>) {
        // A forked copy waits for nothing.
        let left = jobs.chunks(GROUP_PORTION).try_for_each(|jobs| self.with(|engine| engine.leave_group(jobs, group)));
        drop(left);
    }

    fn wait_group(&self, group: &Group, deadline: Option<Instant>) -> Result<(), PoolError> {
        self.wait_for(WaitsFor::Group(group), deadline, |_| group.has_news().then_some(()))?;
        Ok(())
    }

    fn is_running(&self, job: JobId) -> bool {
        // In a forked copy nothing runs.
        self.with(|engine| engine.is_running(job)).unwrap_or(false)
    }

    fn on_finished(&self, job: JobId, callback: Callback) {
        let mut callback = Some(callback);
        // Whether it is finished and the attaching are one step under the lock, so that the callback is called exactly
        // once.
        let due = self.with(|engine| callback.take().and_then(|callback| engine.attach(job, callback)));
        match (due, callback) {
            (Ok(Some((callback, log))), _) => self.call_back(callback, log),
            (Err(error), Some(callback)) => self.call_back(callback, Arc::new(Log::refused(error.into()))),
            _ => {}
        }
    }

    fn call_back(&self, callback: Callback, log: Arc<Log>) {
        let due = Due::Call(callback, log);
        match self.is_ours() {
            true => self.callbacks.push(due),
            // In a forked copy the queue's lock may be held for ever, and its thread does not exist.
            false => UserThread::run_apart(due),
        }
    }

    fn cancel(&self, job: JobId) -> bool {
        // A forked copy has nothing to cancel.
        self.with(|engine| engine.revoke(job)).unwrap_or(false)
    }

    fn cancel_pending(&self, job: JobId) -> bool {
        // See `cancel`.
        self.with(|engine| engine.cancel_pending(job)).unwrap_or(false)
    }

    fn cancel_all_pending(&self) {
        // See `cancel`.
        drop(self.with(|engine| engine.cancel_all_pending()));
    }

    fn abandon(&self, job: JobId, leftover: Leftover) {
        // What is left of the job may be large, so it is dropped here, outside the lock. A forked copy has nothing to
        // give back.
        drop(self.with(|engine| engine.abandon(job, leftover)));
    }

    fn window(&self, job: JobId) -> u64 {
        self.with(|engine| engine.window(job)).unwrap_or(1)
    }

    fn refusal(&self) -> Option<PoolError> {
        self.with(|engine| engine.refusal()).unwrap_or_else(Some)
    }

    fn output_with_own_files(&self) -> Output {
        Output::with_own_files(Arc::clone(&self.cache))
    }

    fn output(&self) -> Output {
        match self.config.max_tasks_per_child {
            // The memory of large values is not used again: a worker that runs one item must never see what another was
            // sent.
            Some(1) => self.output_with_own_files(),
            _ => Output::with_cache(Arc::clone(&self.cache)),
        }
    }

    fn new_context_id(&self) -> Result<u64, PoolError> {
        self.with(|engine| engine.new_context_id())
    }

    fn is_ours(&self) -> bool {
        self.check_owner().is_ok()
    }

    fn processes(&self) -> usize {
        self.with(|engine| engine.processes()).unwrap_or(self.config.size.max())
    }

    fn resize(&self, processes: usize) -> Result<(), PoolError> {
        self.with(|engine| engine.resize(processes))?
    }

    fn stats(&self) -> Stats {
        let mut stats = self.with(|engine| engine.stats()).unwrap_or_else(|_| Stats::nothing());
        stats.totals.events_dropped = self.config.events.as_ref().map_or(0, |line| line.dropped());
        stats
    }

    fn records(&self) -> Records {
        let mut records = self.with(|engine| engine.records()).unwrap_or_default();
        records.title = format!("{}: {} workers by {}", self.config.name, self.processes(), self.config.start_method);
        records
    }

    fn counts(&self, job: JobId) -> (u64, u64) {
        self.with(|engine| engine.counts(job)).unwrap_or_default()
    }

    fn start_method(&self) -> StartMethod {
        self.config.start_method
    }

    fn pids(&self) -> Vec<u32> {
        self.with(|engine| engine.pids()).unwrap_or_default()
    }

    fn close(&self) {
        // A forked copy has nothing to close.
        drop(self.with(|engine| engine.close()));
    }

    fn terminate(&self, grace: Duration) {
        self.end(grace);
    }

    fn join(&self, deadline: Option<Instant>) -> Result<bool, PoolError> {
        self.join_by(deadline)
    }

    fn shut_down(&self) {
        self.end_and_release();
    }
}
