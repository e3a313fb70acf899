//! Items that are stopped while they run: their time is up, or nobody wants them any more.
//!
//! A process cannot be asked to stop what it is doing, so its worker is killed. That must cost nobody else's item, and
//! an answer that has been given must count. So first the worker is dismissed, which takes back all that it has not
//! begun and lets it begin nothing more; then its answers are heard once more; and only if it still has not answered
//! the item is it killed. From then on it is a death like any other, except for what the item's caller is told.

use std::time::Instant;

use log::Level;

use super::Engine;
use crate::engine::worker_handle::KillReason;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::schedule::WorkerId;
use crate::schedule::load::ItemOf;
use crate::schedule::time_limit::TimeVerdict;
use crate::work::batch::JobId;
use crate::work::jobs::Cancelled;

impl Engine {
    /// The caller wants no more of the job: what waits is not run, and what runs is stopped. Whether anything of it
    /// was left.
    pub(crate) fn revoke(&mut self, id: JobId) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        if job.is_finished() {
            return false;
        }
        job.cancelled = Some(Cancelled::ByCaller);
        self.schedule.cancel(id, Instant::now());
        self.carry_out();
        for worker in self.schedule.holders(id) {
            match self.schedule.running(worker) {
                Some(item) if item.job == id => self.stop_item(worker, item, TaskError::Cancelled),
                _ => self.recall(worker),
            }
            self.carry_out();
        }
        true
    }

    /// The worker's item may have run for long enough by now.
    pub(super) fn check_deadline(&mut self, worker: WorkerId, now: Instant) {
        self.receive_all(worker);
        self.schedule.after_settled(now);
        let Some(item) = self.schedule.running(worker) else { return };
        let Some(member) = self.members.get(&worker) else { return };
        let pid = member.child.pid();
        let progress = member.progress();
        let Some(timeout) = self.schedule.timeout(worker) else { return };
        let time_is_up = TaskError::TimedOut { pid, timeout };
        match self.schedule.look(worker, progress, now) {
            TimeVerdict::Wait => {}
            TimeVerdict::TimeIsUp => self.stop_item(worker, item, time_is_up),
            TimeVerdict::NeverBegins => {
                self.effects.log(Level::Warn, format!("worker {pid} is replaced, for it begins nothing"));
                self.schedule.dismiss(worker, now);
                self.carry_out();
                self.kill(worker);
            }
            TimeVerdict::NeverReady => self.kill_for(worker, KillReason { item, error: time_is_up, has_begun: false }),
        }
    }

    /// Stops the item that the worker runs, unless it is answered at the last moment.
    fn stop_item(&mut self, worker: WorkerId, item: ItemOf, error: TaskError) {
        self.schedule.dismiss(worker, Instant::now());
        self.carry_out();
        self.receive_all(worker);
        if self.schedule.running(worker) == Some(item) {
            self.kill_for(worker, KillReason { item, error, has_begun: true });
        }
    }

    fn kill_for(&mut self, worker: WorkerId, kill_reason: KillReason) {
        if let Some(member) = self.members.get_mut(&worker) {
            member.kill_reason = Some(kill_reason);
        }
        self.kill(worker);
    }

    /// The pool keeps so many workers from now on.
    pub(crate) fn resize(&mut self, processes: usize) -> Result<(), PoolError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        self.schedule.resize(processes, Instant::now());
        self.carry_out();
        Ok(())
    }
}
