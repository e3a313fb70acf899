//! What follows from all that is known: who is given what, who leaves, who comes. Pure.

use std::time::Instant;

use super::Action;
use super::BACKLOG_NS;
use super::FRAMES_MAX;
use super::Lifecycle;
use super::Schedule;
use super::WorkerId;
use super::roster::Stage;
use crate::schedule::queue::Queue;
use crate::schedule::restarts::Ending;

impl Schedule {
    /// Work may have come, or a worker to do it.
    pub(super) fn go_on(&mut self, now: Instant) {
        self.assign(now);
        if self.size.can_grow() && !self.backlog.is_empty() {
            let queued = usize::try_from(self.backlog.queued_items()).unwrap_or(usize::MAX);
            self.size.grow_to(self.roster.busy().saturating_add(queued));
        }
        self.balance(now);
    }

    /// Hands queued work to workers: first one frame to everybody who has none, then ahead.
    fn assign(&mut self, now: Instant) {
        if self.phase == Lifecycle::Ended || self.backlog.is_empty() {
            return;
        }
        let ready = self.roster.ids(|worker| worker.stage == Stage::Ready && !worker.road_full);
        let mut busy = self.roster.busy();
        for &worker in &ready {
            if busy < self.size.most() && self.roster.member(worker).load.is_empty() && self.hand_over(worker, now) {
                busy += 1;
            }
        }
        for &worker in &ready {
            while self.wants_ahead(worker) && self.hand_over(worker, now) {}
        }
    }

    /// Whether a busy worker should be given the next frame before it asks for it.
    fn wants_ahead(&self, worker: WorkerId) -> bool {
        let Some(member) = self.roster.get(worker) else { return false };
        let Some(queue) = self.backlog.front() else { return false };
        let Some(item_ns) = queue.item_ns else { return false };
        let frame_ns = item_ns.saturating_mul(u64::from(queue.frame_items(self.grain)));
        member.stage == Stage::Ready
            && !member.road_full
            && !member.load.is_empty()
            && member.load.frames() < FRAMES_MAX
            && member.load.backlog_ns().saturating_add(frame_ns) <= BACKLOG_NS
    }

    /// Sends the next frame to the worker; false if there is none.
    fn hand_over(&mut self, worker: WorkerId, now: Instant) -> bool {
        let allowance = self.roster.member(worker).load.allowance().unwrap_or(u64::MAX);
        let items_max = |queue: &Queue| queue.items_max(self.size.most(), self.grain).min(allowance);
        let Some((span, item_ns)) = self.backlog.cut(items_max) else { return false };
        let member = self.roster.member(worker);
        let number = member.load.push(span.clone(), item_ns.unwrap_or(BACKLOG_NS), now);
        let spent = member.load.allowance() == Some(0);
        self.actions.push_back(Action::Send(worker, span, number));
        if spent {
            self.retire(worker);
        }
        true
    }

    /// The worker leaves, and there is no way back. What it has not begun comes back.
    pub(super) fn let_go(&mut self, worker: WorkerId) {
        let Some(member) = self.roster.get_mut(worker) else { return };
        let before = std::mem::replace(&mut member.stage, Stage::Leaving);
        if before == Stage::Leaving {
            return;
        }
        self.actions.push_back(Action::Recall(worker));
        if before != Stage::Retiring {
            self.actions.push_back(Action::Stop(worker));
        }
    }

    /// Lets go of workers beyond what is wanted.
    pub(super) fn trim(&mut self) {
        let most = match self.phase {
            Lifecycle::Running => self.wanted(),
            // What is left to be done decides who leaves.
            Lifecycle::Closing => self.size.most(),
            Lifecycle::Ended => return,
        };
        while self.alive() > most {
            if self.take_back_start() {
                continue;
            }
            let Some(worker) = self.roster.most_dispensable() else { break };
            self.let_go(worker);
        }
    }

    /// The worker that should leave because it has nothing to do, and when.
    pub(super) fn idle_too_long(&self) -> Option<(WorkerId, Instant)> {
        if self.phase != Lifecycle::Running || !self.size.can_shrink() || !self.backlog.is_empty() {
            return None;
        }
        let (worker, since) = self.roster.idlest()?;
        Some((worker, self.size.idle_until(since)?))
    }

    /// The worker that should leave because of its age, and when.
    pub(super) fn too_old(&self) -> Option<(WorkerId, Instant)> {
        let age_max = self.age_max.filter(|_| self.phase != Lifecycle::Ended)?;
        let (worker, since) = self.roster.oldest()?;
        Some((worker, since.checked_add(age_max)?))
    }

    /// When one more worker is needed to share what the others have, if there may be one more and none is coming.
    pub(super) fn shortage_at(&self) -> Option<Instant> {
        if self.phase != Lifecycle::Running || !self.size.can_grow() {
            return None;
        }
        let nobody_comes = self.starts_pending == 0 && self.roster.starting() == 0 && self.roster.idlest().is_none();
        if nobody_comes { self.roster.backed_up() } else { None }
    }

    fn retire(&mut self, worker: WorkerId) {
        self.roster.member(worker).stage = Stage::Retiring;
        self.actions.push_back(Action::Stop(worker));
    }

    /// Brings the number of workers to what the work and the phase ask for.
    pub(super) fn balance(&mut self, now: Instant) {
        if self.phase == Lifecycle::Closing && self.backlog.is_empty() && self.feeding == 0 {
            let ready = self.roster.ids(|worker| worker.stage == Stage::Ready);
            ready.into_iter().for_each(|worker| self.retire(worker));
        }
        if self.restarts.again_at(now).is_some() {
            return;
        }
        self.restarts.clear_timer();
        for _ in self.alive()..self.wanted() {
            self.starts_pending += 1;
            self.actions.push_back(Action::Start);
        }
    }

    /// Drops a `Start` that is decided and not carried out yet, if there are workers enough without it. Whether there
    /// was one.
    pub(super) fn take_back_start(&mut self) -> bool {
        let decided = self.actions.iter().rposition(|action| matches!(action, Action::Start));
        match decided {
            Some(position) if self.alive() > self.wanted() => {
                self.actions.remove(position);
                self.starts_pending -= 1;
                true
            }
            _ => false,
        }
    }

    /// Workers that stay, and starts that are on their way.
    pub(super) fn alive(&self) -> usize {
        self.roster.staying() + self.starts_pending
    }

    pub(super) fn wanted(&self) -> usize {
        match self.phase {
            Lifecycle::Running => self.size.wanted(),
            Lifecycle::Closing if self.feeding > 0 => self.size.wanted(),
            Lifecycle::Closing => {
                let queued = self.backlog.queued_items();
                usize::try_from(queued).unwrap_or(usize::MAX).min(self.size.most())
            }
            Lifecycle::Ended => 0,
        }
    }

    pub(super) fn count_start_failure(&mut self, ending: Ending, now: Instant) {
        self.restarts.failed(ending, now);
        // A worker that still serves keeps the pool alive, however badly replacements fare.
        let serving = self.roster.all().any(|worker| worker.stage == Stage::Ready);
        if self.restarts.are_too_many(self.size.most()) && !serving && !self.broken && self.wanted() > 0 {
            self.broken = true;
            self.actions.push_back(Action::Break);
        }
    }

    /// The worker from which work should come back, and when. Nobody, unless another may take it up at once: a
    /// replacement that waits for its predecessor to end may not.
    pub(super) fn recall(&self) -> Option<(WorkerId, Instant)> {
        match self.backlog.is_empty() && self.roster.busy() < self.size.most() {
            true => self.roster.recall(),
            false => None,
        }
    }
}
