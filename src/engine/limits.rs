//! Items that are stopped: their time is up, or their call was cancelled.
//!
//! A process cannot be asked to stop what it is doing, so its worker is killed. That must cost no other item, and an
//! answer that was given must count. So the worker is dismissed first, which takes back everything that it has not begun
//! and lets it begin nothing more; then its answers are taken in once more; and only if the item still has no answer is
//! the worker killed. From then on it is a death like any other, except for what the caller of the item is told.
//!
//! Also called: deadline, cancellation, watchdog.

use std::time::Instant;

use log::Level;
use start_methods::StartError;

use crate::engine::slow::SlowWatch;
use crate::engine::state::Engine;
use crate::engine::worker_handle::Greeting;
use crate::engine::worker_handle::KillReason;
use crate::engine::worker_handle::WorkerHandle;
use crate::error::Origin;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::schedule::WorkerId;
use crate::schedule::load::ItemId;
use crate::schedule::time_limit::TimeVerdict;
use crate::sys::start_choice::HELLO_TIMEOUT;
use crate::work::batch::JobId;
use crate::work::jobs::Cancelled;
use crate::work::jobs::Job;

impl Engine {
    /// The caller wants no more of the job: what waits is not run, and what runs is stopped. Whether anything of it was
    /// left.
    pub(crate) fn revoke(&mut self, id: JobId) -> bool {
        if !self.cancel_queued(id) {
            return false;
        }
        self.carry_out();
        if self.jobs.get(id).is_none_or(Job::is_settled) {
            // It was all queued: there is no need to look for it among the workers.
            return true;
        }
        for worker in self.schedule.holders(id) {
            match self.schedule.running(worker) {
                Some(item) if item.job == id => self.stop_item(worker, item, TaskError::Cancelled),
                _ => self.recall(worker),
            }
            self.carry_out();
        }
        true
    }

    /// The caller wants nothing of the job that has not begun; what runs ends by itself. Returns whether nothing of it
    /// has begun, so that nothing of it ever runs.
    ///
    /// Exact, because a worker and the parent agree in one step on what has begun: what is recalled here was not begun
    /// and will not be, and what is not recalled counts as begun.
    pub(crate) fn cancel_pending(&mut self, id: JobId) -> bool {
        if !self.cancel_queued(id) {
            return false;
        }
        self.carry_out();
        for worker in self.schedule.holders(id) {
            self.recall(worker);
            self.carry_out();
        }
        self.jobs.get(id).is_some_and(Job::is_cancelled_whole)
    }

    /// The caller cancels the job, so nothing of it that is queued runs. Returns whether the job was unfinished.
    fn cancel_queued(&mut self, id: JobId) -> bool {
        let Some(job) = self.jobs.get_mut(id).filter(|job| !job.is_finished()) else { return false };
        job.cancelled = Some(Cancelled::ByCaller);
        self.schedule.cancel(id, Instant::now());
        true
    }

    /// As [`cancel_pending`](Self::cancel_pending), for all jobs.
    pub(crate) fn cancel_all_pending(&mut self) {
        for id in self.jobs.unfinished_ids() {
            self.cancel_queued(id);
        }
        self.carry_out();
        for worker in self.schedule.loaded() {
            self.recall(worker);
            self.carry_out();
        }
    }

    /// Acts on every timer that is due.
    pub(super) fn on_timers(&mut self) {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if !is_due(self.next_timer()) {
            return;
        }
        let due = self.workers.timers_due(now);
        for &worker in &due {
            let Some(handle) = self.workers.get_mut(worker) else { continue };
            if is_due(handle.kill_at) {
                handle.kill_at = None;
                self.workers.kill(worker, &mut self.effects);
            }
            let Some(handle) = self.workers.get_mut(worker) else { continue };
            if is_due(handle.finalizer_due) {
                handle.finalizer_due = None;
                let (pid, limit) = (handle.pid(), self.finalizer_timeout);
                let text = format!("worker {pid} was killed: its finalizer ran for longer than {limit:?}");
                self.effects.log(Level::Warn, text);
                self.workers.kill(worker, &mut self.effects);
            }
            let Some(handle) = self.workers.get_mut(worker) else { continue };
            if is_due(handle.retry_at) {
                handle.retry_at = None;
                self.send_again(worker);
                self.schedule.after_settled(now);
            }
            let Some(handle) = self.workers.get(worker) else { continue };
            if is_due(handle.status_due) {
                self.on_status_timeout(worker);
            } else if is_due(handle.give_up_at()) {
                self.give_up(worker);
            } else if is_due(handle.start_due()) {
                let error = self.start_timeout(handle);
                self.workers.kill_for(worker, error, &mut self.effects);
            }
        }
        due.into_iter().for_each(|worker| self.workers.rearm(worker));
        if is_due(self.cache_rests_at) {
            self.cache_rests_at = None;
            self.effects.unused.push(self.cache.rest());
        }
        if is_due(self.slow.as_ref().and_then(SlowWatch::due)) {
            self.check_slow(now);
        }
        for worker in self.schedule.checks_due(now) {
            self.check_deadline(worker, now);
        }
        self.schedule.tick(now);
    }

    /// The error of a worker whose start takes too long.
    fn start_timeout(&self, handle: &WorkerHandle) -> PoolError {
        let pid = handle.pid();
        match (handle.greeting, self.initializer_timeout) {
            (Greeting::Hello { .. }, Some(timeout)) => PoolError::InitializerTimeout { pid, timeout },
            _ => StartError::HelloTimeout { pid, timeout: HELLO_TIMEOUT }.into(),
        }
    }

    /// When [`turn`](Self::turn) must be called at the latest, if nothing happens.
    pub(crate) fn next_timer(&mut self) -> Option<Instant> {
        let slow_due = self.slow.as_ref().and_then(SlowWatch::due);
        let timers = [self.workers.next_timer(), self.schedule.next_timer(), self.cache_rests_at, slow_due];
        timers.into_iter().flatten().min()
    }

    /// The item of the worker may have run for long enough by now.
    fn check_deadline(&mut self, worker: WorkerId, now: Instant) {
        // Its answer may be there already, and then it counts.
        self.receive_all(worker);
        self.schedule.after_settled(now);
        let Some(item) = self.schedule.running(worker) else { return };
        let Some(handle) = self.workers.get(worker) else { return };
        let pid = handle.pid();
        let progress = handle.link.progress();
        let Some(timeout) = self.schedule.timeout(worker) else { return };
        let time_is_up = TaskError::TimedOut { pid, timeout, origin: Origin::default() };
        match self.schedule.check_deadline(worker, progress, now) {
            TimeVerdict::Wait => {}
            TimeVerdict::TimeIsUp => self.stop_item(worker, item, time_is_up),
            TimeVerdict::NeverBegins => {
                self.effects.log(Level::Warn, format!("worker {pid} is replaced, for it begins nothing"));
                self.schedule.dismiss(worker, now);
                self.carry_out();
                self.workers.kill(worker, &mut self.effects);
            }
            TimeVerdict::NeverReady => {
                self.kill_for_item(worker, KillReason { item, error: time_is_up, has_begun: false });
            }
        }
    }

    /// Stops the item that the worker runs, unless it is answered at the last moment.
    fn stop_item(&mut self, worker: WorkerId, item: ItemId, error: TaskError) {
        // In this order: after the recall the worker can begin nothing more, so what it runs after its answers were taken
        // in is this item, or nothing.
        self.schedule.replace(worker, Instant::now());
        self.carry_out();
        self.receive_all(worker);
        if self.schedule.running(worker) == Some(item) {
            self.kill_for_item(worker, KillReason { item, error, has_begun: true });
        }
    }

    fn kill_for_item(&mut self, worker: WorkerId, reason: KillReason) {
        if let Some(handle) = self.workers.get_mut(worker) {
            handle.kill_reason = Some(reason);
        }
        self.workers.kill(worker, &mut self.effects);
    }
}
