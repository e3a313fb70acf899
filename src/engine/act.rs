//! What the schedule decides, done: sending, recalling, killing, and the end of the pool.

use std::io;
use std::time::Duration;
use std::time::Instant;

use log::Level;
use nix::sys::signal::Signal;

use super::Engine;
use super::GRACE;
use super::Phase;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::schedule::Action;
use crate::schedule::WorkerId;
use crate::sys::spin;
use crate::transport::Road;
use crate::transport::Sent;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::jobs::Cancelled;
use crate::work::jobs::Settled;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::Unbegun;

impl Engine {
    /// Does everything that the schedule has decided.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.schedule.next_action() {
            match action {
                Action::Start => self.effects.starts += 1,
                Action::Send(worker, span, number) => self.send(worker, &span, number),
                Action::Stop(worker) => {
                    if let Some(member) = self.members.get_mut(&worker) {
                        let sent = member.stop();
                        self.after_send(worker, sent);
                    }
                }
                Action::Recall(worker) => self.recall(worker),
                Action::Break => {
                    let last = self.last_start_error.take().expect("a start that fails leaves its error");
                    let failures = self.schedule.start_failures();
                    self.end(PoolError::Broken { failures, last: Box::new(last) }, GRACE);
                }
            }
        }
        for span in self.schedule.take_dropped() {
            self.skip(&span);
        }
    }

    fn send(&mut self, worker: WorkerId, span: &Span, number: FrameNumber) {
        let alone = self.schedule.holds_only(worker, number);
        let context = self.jobs.get(&span.batch.job).and_then(|job| job.context.as_ref());
        let Some(member) = self.members.get_mut(&worker) else {
            self.schedule.send_refused(worker, 0);
            return;
        };
        match member.send(span, number, context, alone) {
            Ok(Sent::Taken) => self.spin_hint(worker),
            Ok(Sent::Part(items)) => {
                self.schedule.send_refused(worker, items);
                self.spin_hint(worker);
            }
            Ok(Sent::Full) => {
                self.schedule.send_refused(worker, 0);
                self.want_room(worker);
            }
            // The next answer asks again.
            Ok(Sent::Later) => self.schedule.send_refused(worker, 0),
            Err(error) => {
                self.schedule.send_refused(worker, 0);
                self.after_send(worker, Err(error));
            }
        }
    }

    /// Tells the worker how long it may look for more before it sleeps.
    fn spin_hint(&mut self, worker: WorkerId) {
        let spin_ns = if self.has_processor_to_spare() { spin::LONGEST_NS } else { 0 };
        if let Some(Road::Ring(rings, _)) = self.members.get_mut(&worker).map(|member| &mut member.road) {
            rings.allow_spinning(spin_ns);
        }
    }

    /// What follows when something that is not work was put on the road.
    pub(super) fn after_send(&mut self, worker: WorkerId, sent: io::Result<Sent>) {
        match sent {
            Ok(Sent::Taken | Sent::Part(_) | Sent::Later) => {}
            Ok(Sent::Full) => self.want_room(worker),
            // It is dead, as will be heard, or a task has spoilt its road; the items behind that one are not to blame.
            Err(error) => {
                let pid = self.members.get(&worker).map(|member| member.child.pid());
                let text = format!("worker {} gets no more, for its road broke: {error}", pid.unwrap_or_default());
                self.effects.log(Level::Debug, text);
                self.dismiss(worker);
            }
        }
    }

    fn want_room(&mut self, worker: WorkerId) {
        // Rings have room again when something in them is done, which is heard anyway.
        if let Some(member) = self.members.get_mut(&worker)
            && matches!(member.road, Road::Socket(_))
            && !member.wants_room
        {
            member.wants_room = true;
            self.watch_for_room(worker, true);
        }
    }

    /// Everything that the worker has not begun. What is not work waits to be told again.
    pub(super) fn take_back(&mut self, worker: WorkerId, is_dead: bool) -> Unbegun {
        let taken = self.members.get_mut(&worker).map(|member| member.take_back(is_dead));
        match taken {
            Some(Ok(taken)) => taken,
            Some(Err(message)) => {
                self.kill_for_error(worker, PoolError::Protocol { message });
                Unbegun::Last(0)
            }
            None => Unbegun::Last(0),
        }
    }

    /// Takes back the work that the worker has not begun; tells it all else again.
    pub(super) fn recall(&mut self, worker: WorkerId) {
        let taken = self.take_back(worker, false);
        let Some(member) = self.members.get_mut(&worker) else { return };
        let sent = member.flush();
        self.after_send(worker, sent);
        if !taken.is_empty() {
            self.schedule.recalled(worker, &taken, Instant::now());
        }
    }

    /// Work that nobody will run, because its job was cancelled.
    pub(super) fn skip(&mut self, span: &Span) {
        let id = span.batch.job;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let error = match job.cancelled {
            Some(Cancelled::ByCaller) => TaskError::Cancelled,
            _ => TaskError::Skipped,
        };
        span.indices().for_each(|index| job.settle(index, Settled::Error(Box::new(error.clone()))));
        self.progress(id);
    }

    /// Kills a worker that broke the protocol or cannot start.
    pub(super) fn kill_for_error(&mut self, worker: WorkerId, error: PoolError) {
        if let Some(member) = self.members.get_mut(&worker) {
            member.trust.kill_for_error(error);
        }
        self.kill(worker);
    }

    /// Ends the worker, and all that its task has started.
    pub(super) fn kill(&mut self, worker: WorkerId) {
        if let Some(member) = self.members.get(&worker)
            && let Err(error) = member.child.kill_tree()
        {
            let text = format!("worker {} cannot be killed: {error}", member.child.pid());
            self.effects.log(Level::Error, text);
        }
    }

    /// Kills what is left of a dead worker's process group.
    pub(super) fn kill_group(&mut self, worker: WorkerId) {
        if let Some(member) = self.members.get(&worker)
            && let Err(error) = member.child.signal_group(Signal::SIGKILL)
        {
            let text = format!("the process group of worker {} cannot be killed: {error}", member.child.pid());
            self.effects.log(Level::Warn, text);
        }
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    /// Takes no more jobs; what was accepted runs.
    pub(crate) fn close(&mut self) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Closed;
            self.schedule.close(Instant::now());
            self.carry_out();
        }
    }

    /// Nothing more runs: every item without an outcome gets `error`, and every worker is told to go, and killed when
    /// `grace` has passed.
    pub(crate) fn end(&mut self, error: PoolError, grace: Duration) {
        let kill_at = Instant::now().checked_add(grace);
        if matches!(self.phase, Phase::Ended(_)) {
            self.hasten(kill_at);
            return;
        }
        self.killed_by = kill_at;
        let outcome = match &error {
            PoolError::Terminated => TaskError::Terminated,
            error => TaskError::Refused(error.clone()),
        };
        self.phase = Phase::Ended(error);
        self.schedule.end();
        let starts = std::mem::take(&mut self.effects.starts);
        self.drop_starts(starts);
        let jobs: Vec<JobId> = self.jobs.iter().filter(|(_, job)| !job.is_finished()).map(|(&id, _)| id).collect();
        for id in jobs {
            self.job(id).log.rest = Some(outcome.clone());
            self.progress(id);
        }
        self.tell_watchers();
        // A pool that was joined has neither workers nor a watch.
        let Some(watch) = self.watch.clone() else { return };
        for member in self.members.values_mut() {
            // Nobody reads the road any more.
            watch.remove(member.road.fd());
            member.kill_at = [member.kill_at, kill_at].into_iter().flatten().min();
            // SIGCONT, so that a stopped worker can act on it. To the process as well as to its group: one that is just
            // being born has no group of its own yet.
            for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                if let Err(error) = member.child.signal(signal).and_then(|()| member.child.signal_group(signal)) {
                    let text = format!("worker {} could not be sent {signal}: {error}", member.child.pid());
                    self.effects.log(Level::Warn, text);
                }
            }
        }
        watch.ring();
    }

    /// The pool has ended already; now its workers may not take longer than this.
    fn hasten(&mut self, kill_at: Option<Instant>) {
        self.killed_by = [self.killed_by, kill_at].into_iter().flatten().min();
        for member in self.members.values_mut() {
            member.kill_at = [member.kill_at, kill_at].into_iter().flatten().min();
        }
    }
}
