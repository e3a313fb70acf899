//! The decisions: which worker is sent what, which worker leaves, and when one is started. Pure.

use std::time::Instant;

use crate::schedule::load::BACKLOG_NS;
use crate::schedule::queue::JobQueue;
use crate::schedule::restarts::Ending;
use crate::schedule::roster::RosterEntry;
use crate::schedule::roster::Stage;
use crate::schedule::state::Lifecycle;
use crate::schedule::state::Schedule;
use crate::schedule::worker_id::WorkerId;

impl Schedule {
    /// Decides all that follows when there may be new work, or a worker for it.
    pub(super) fn dispatch(&mut self, now: Instant) {
        self.assign(now);
        if self.size.can_grow() && !self.backlog.is_empty() {
            self.size.grow_to(self.roster.busy().saturating_add(self.queued_items()));
        }
        self.balance(now);
    }

    /// Sends queued work to workers.
    fn assign(&mut self, now: Instant) {
        if self.lifecycle == Lifecycle::Ended {
            return;
        }
        while let Some(worker) = self.next_worker()
            && self.hand_over(worker, now)
        {}
    }

    /// The worker for the next frame: one that has none, and then one that may be sent work ahead. Quick items go ahead to
    /// workers that are awake, once those can keep every processor busy: waking one more would take longer than the items.
    fn next_worker(&self) -> Option<WorkerId> {
        let queue = self.backlog.front()?;
        let to_employ = || self.roster.to_employ().filter(|_| self.roster.busy() < self.size.max());
        // If the worker with the least work ahead wants none of the next frame, no other does.
        let ahead = || self.roster.lightest().filter(|&worker| self.wants_ahead(worker));
        match queue.is_quick() && self.roster.busy() >= self.processors {
            true => ahead().or_else(to_employ),
            false => to_employ().or_else(ahead),
        }
    }

    /// Whether a busy worker that may be sent more should be sent the next frame now, before it has finished what it holds
    /// (prefetch).
    fn wants_ahead(&self, worker: WorkerId) -> bool {
        let Some(entry) = self.roster.get(worker) else { return false };
        let Some(queue) = self.backlog.front() else { return false };
        let Some(item_ns) = queue.item_ns else { return false };
        let frame_ns = item_ns.saturating_mul(u64::from(queue.frame_items(self.grain)));
        entry.load().backlog_ns().saturating_add(frame_ns) <= BACKLOG_NS
    }

    /// Sends the next frame to the worker. Returns false if there is none.
    fn hand_over(&mut self, worker: WorkerId, now: Instant) -> bool {
        let allowance = self.roster.get(worker).and_then(|entry| entry.load().allowance()).unwrap_or(u64::MAX);
        let (max, processors, grain) = (self.size.max(), self.processors, self.grain);
        let items_max = |queue: &JobQueue| queue.items_max(queue.sharers(max, processors), grain).min(allowance);
        let Some((span, item_ns)) = self.backlog.cut(items_max) else { return false };
        let delay = self.roster.lone_delay();
        let (number, spent) = self.roster.change_live(worker, |entry| {
            let number = entry.load.push(span.clone(), item_ns.unwrap_or(BACKLOG_NS), now);
            entry.set_lone_due(delay, now);
            (number, entry.load.allowance() == Some(0))
        });
        self.agenda.send(worker, span, number);
        if spent {
            self.retire(worker);
        }
        true
    }

    /// Makes the worker leave for good, so that another takes its place.
    pub(super) fn recycle(&mut self, worker: WorkerId) {
        self.roster.change(worker, |entry| entry.is_recycled = true);
        self.make_leave(worker);
    }

    /// Makes the worker leave for good. What it has not begun is recalled.
    pub(super) fn make_leave(&mut self, worker: WorkerId) {
        let before = self.roster.change(worker, |entry| std::mem::replace(&mut entry.stage, Stage::Leaving));
        let Some(before) = before.filter(|&before| before != Stage::Leaving) else { return };
        self.agenda.recall(worker);
        if before != Stage::Retiring {
            self.tell_to_stop(worker);
        }
    }

    /// Makes workers leave that exceed the wanted number.
    pub(super) fn trim(&mut self) {
        let max = match self.lifecycle {
            Lifecycle::Running => self.wanted(),
            // The remaining work decides which workers leave; see `balance`.
            Lifecycle::Closing => self.size.max(),
            Lifecycle::Ended => return,
        };
        while self.alive() > max && self.take_back_start() {}
        for worker in self.roster.most_dispensable(self.alive().saturating_sub(max)) {
            self.make_leave(worker);
        }
    }

    /// The worker that should leave because it is idle, and when.
    pub(super) fn idle_too_long(&self) -> Option<(WorkerId, Instant)> {
        if self.lifecycle != Lifecycle::Running || !self.size.can_shrink() || !self.backlog.is_empty() {
            return None;
        }
        let (worker, since) = self.roster.idlest()?;
        Some((worker, self.size.idle_until(since)?))
    }

    /// The worker that should leave because of its age, and when.
    pub(super) fn too_old(&self) -> Option<(WorkerId, Instant)> {
        let age_max = self.age_max.filter(|_| self.lifecycle != Lifecycle::Ended)?;
        let (worker, since) = self.roster.oldest()?;
        Some((worker, since.checked_add(age_max)?))
    }

    /// When one more worker is needed to share what the others hold; `None` if the pool may not grow or a worker is idle
    /// or starting.
    pub(super) fn shortage_at(&self) -> Option<Instant> {
        if self.lifecycle != Lifecycle::Running || !self.size.can_grow() {
            return None;
        }
        let has_spare = self.starts_pending > 0 || self.roster.starting() > 0 || self.roster.idlest().is_some();
        if has_spare { None } else { self.roster.backed_up() }
    }

    fn retire(&mut self, worker: WorkerId) {
        self.roster.change_live(worker, |entry| entry.stage = Stage::Retiring);
        self.tell_to_stop(worker);
    }

    fn tell_to_stop(&mut self, worker: WorkerId) {
        let stop = self.roster.change_live(worker, RosterEntry::next_stop);
        self.agenda.stop(worker, stop);
    }

    /// Brings the number of workers to the one that the work and the lifecycle require.
    pub(super) fn balance(&mut self, now: Instant) {
        if self.lifecycle == Lifecycle::Closing && self.backlog.is_empty() && self.feeding == 0 {
            self.roster.ready().into_iter().for_each(|worker| self.retire(worker));
        }
        if self.restarts.again_at(now).is_some() {
            return;
        }
        self.restarts.clear_timer();
        for _ in self.alive()..self.wanted() {
            self.starts_pending += 1;
            self.agenda.start();
        }
    }

    /// Withdraws a `Start` that was not carried out yet, if there are enough workers without it. Returns whether it did.
    pub(super) fn take_back_start(&mut self) -> bool {
        let is_taken_back = self.alive() > self.wanted() && self.agenda.take_back_start();
        self.starts_pending -= usize::from(is_taken_back);
        is_taken_back
    }

    /// How many workers stay, counting those whose start is pending.
    fn alive(&self) -> usize {
        self.roster.staying() + self.starts_pending
    }

    fn wanted(&self) -> usize {
        match self.lifecycle {
            Lifecycle::Running => self.size.wanted(),
            Lifecycle::Closing if self.feeding > 0 => self.size.wanted(),
            Lifecycle::Closing => self.queued_items().min(self.size.max()),
            Lifecycle::Ended => 0,
        }
    }

    /// How many items are queued, capped at `usize::MAX`.
    fn queued_items(&self) -> usize {
        usize::try_from(self.backlog.queued_items()).unwrap_or(usize::MAX)
    }

    pub(super) fn count_start_failure(&mut self, ending: Ending, now: Instant) {
        self.restarts.failed(ending, now);
        // A worker that lives and has served keeps the pool alive, however often replacements fail: what it holds must not
        // be lost with the pool.
        let serving = self.roster.has_served();
        if self.restarts.are_too_many(self.size.max(), now) && !serving && !self.broken && self.wanted() > 0 {
            self.broken = true;
            self.agenda.break_pool();
        }
    }

    /// The worker from which work should be recalled, and when. `None` unless another worker may take the work at once: a
    /// replacement that waits until its predecessor has ended may not.
    pub(super) fn recall(&self) -> Option<(WorkerId, Instant)> {
        match self.backlog.is_empty() && self.roster.busy() < self.size.max() {
            true => self.roster.recall(),
            false => None,
        }
    }
}
