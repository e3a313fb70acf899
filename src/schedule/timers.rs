//! Events of time: time limits of items, recalls, idle and old workers, and failed starts that are tried again.

use std::time::Duration;
use std::time::Instant;

use crate::schedule::state::Schedule;
use crate::schedule::time_limit::TimeVerdict;
use crate::schedule::worker_id::WorkerId;
use crate::work::progress::Progress;

impl Schedule {
    /// The workers whose item may have run for too long by now.
    pub(crate) fn checks_due(&self, now: Instant) -> Vec<WorkerId> {
        self.roster.checks_due(now)
    }

    /// How long the item that the worker must answer next may run, if its time is limited.
    pub(crate) fn timeout(&self, worker: WorkerId) -> Option<Duration> {
        self.roster.get(worker)?.load.timeout()
    }

    /// What to do about the worker's item, now that the worker has made this progress.
    pub(crate) fn check_deadline(&mut self, worker: WorkerId, progress: Progress, now: Instant) -> TimeVerdict {
        let verdict = self.roster.change(worker, |entry| entry.load.check_deadline(progress, now));
        verdict.unwrap_or(TimeVerdict::Wait)
    }

    /// The worker has carried out the orders that precede its next item.
    pub(crate) fn is_prepared(&mut self, worker: WorkerId, now: Instant) {
        if self.timeout(worker).is_some() {
            self.roster.change(worker, |entry| entry.load.restart_timer(now));
        }
    }

    /// When [`tick`](Self::tick) must be called at the latest, if no other event occurs.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let recall_at = self.recall().map(|(_, due)| due);
        let check_at = self.roster.next_check().map(|(_, due)| due);
        let idle_until = self.idle_too_long().map(|(_, due)| due);
        let old_at = self.too_old().map(|(_, due)| due);
        let timers = [recall_at, self.restarts.timer(), check_at, idle_until, old_at, self.shortage_at()];
        timers.into_iter().flatten().min()
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        if let Some((worker, due)) = self.recall()
            && now >= due
        {
            self.agenda.recall(worker);
            self.roster.change_live(worker, |entry| entry.recalled(now));
        }
        while let Some((worker, _)) = self.idle_too_long().filter(|&(_, due)| due <= now) {
            self.size.shrink();
            self.make_leave(worker);
        }
        while let Some((worker, _)) = self.too_old().filter(|&(_, due)| due <= now) {
            self.recycle(worker);
        }
        if self.shortage_at().is_some_and(|due| due <= now) {
            self.size.grow_to(self.size.wanted() + 1);
        }
        self.balance(now);
    }
}
