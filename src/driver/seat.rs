//! The seat: how a thread waits, driving the engine or following the thread that does.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::MutexGuard;

use crate::driver::shared::Driven;
use crate::driver::shared::Seat;
use crate::driver::shared::Shared;
use crate::engine::Engine;
use crate::engine::Ringers;
use crate::engine::rounds::RECHECK;
use crate::engine::watch::Source;
use crate::engine::watch::Watch;
use crate::error::PoolError;
use crate::sys::condvar;
use crate::sys::spin;
use crate::sys::waiters::Waiters;
use crate::transport::link::AnswerProbe;
use crate::work::batch::JobId;
use crate::work::group::Group;

/// How long answers from rings may keep a driver from polling the epoll set.
const TURN_EVERY: Duration = Duration::from_millis(1);

/// What a thread waits for.
#[derive(Clone, Copy)]
pub(super) enum WaitsFor<'a> {
    Job(JobId),
    /// The end of workers.
    Workers,
    Group(&'a Group),
}

impl WaitsFor<'_> {
    /// Changes the list of threads that are woken when it makes progress.
    fn watchers(self, engine: &mut Engine, change: impl FnOnce(&mut Waiters)) {
        match self {
            WaitsFor::Job(job) => change(engine.watchers(Some(job))),
            WaitsFor::Workers => change(engine.watchers(None)),
            WaitsFor::Group(group) => change(&mut group.followers()),
        }
    }
}

impl Driven {
    /// Marks the driver as asleep and asks the workers to ring. Returns whether any will, and until when the driver may
    /// sleep.
    pub(super) fn fall_asleep(&mut self, now: Instant, deadline: Option<Instant>) -> (Ringers, Option<Instant>) {
        // Under the lock, and the lock is released only after: a thread that changes something afterwards sees
        // `asleep_until` and rings, and a worker that answers afterwards sees that it must ring. What a worker
        // answered just before is `Late`: then the sleep ends at once.
        self.engine.recheck(now);
        let ringers = self.engine.ask_to_ring();
        let recheck = match ringers {
            Ringers::None => None,
            Ringers::Some => Some(now + RECHECK),
            Ringers::Late => Some(now),
        };
        let until = [self.engine.next_timer(), deadline, recheck].into_iter().flatten().min();
        self.asleep_until = Some(until);
        (ringers, until)
    }
}

impl Shared {
    /// Waits until `check` returns something, driving meanwhile; `None` once the deadline has passed or the pool is
    /// joined.
    ///
    /// `waits_for` is what can change what `check` returns.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    pub(super) fn wait_for<R>(
        &self,
        waits_for: WaitsFor<'_>,
        deadline: Option<Instant>,
        check: impl FnMut(&mut Engine) -> Option<R>,
    ) -> Result<Option<R>, PoolError> {
        self.check_owner()?;
        Ok(self.wait_in(self.driven.lock(), waits_for, deadline, check))
    }

    /// As [`wait_for`](Self::wait_for), for a thread that has the lock.
    pub(super) fn wait_in<'a, R>(
        &'a self,
        mut driven: MutexGuard<'a, Driven>,
        waits_for: WaitsFor<'_>,
        deadline: Option<Instant>,
        mut check: impl FnMut(&mut Engine) -> Option<R>,
    ) -> Option<R> {
        let result = loop {
            if let Some(result) = check(&mut driven.engine) {
                break Some(result);
            }
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late || !driven.engine.is_watched() {
                // Once the pool is joined, nothing changes any more.
                break None;
            }
            if driven.seat == Seat::Foreground {
                driven = self.follow(driven, waits_for, deadline);
                continue;
            }
            let (after, result) = self.drive(driven, deadline, &mut check);
            driven = after;
            if result.is_some() {
                break result;
            }
        };
        // This thread may have been woken for an empty seat that it no longer needs: without passing that on, a
        // follower would sleep beside an empty seat.
        self.offer_seat(&mut driven);
        self.alert(&mut driven);
        drop(self.settle_effects(driven));
        result
    }

    /// Takes the seat, and drives until `check` returns something, the deadline has passed or the pool is joined.
    fn drive<'a, R>(
        &'a self,
        mut driven: MutexGuard<'a, Driven>,
        deadline: Option<Instant>,
        check: &mut impl FnMut(&mut Engine) -> Option<R>,
    ) -> (MutexGuard<'a, Driven>, Option<R>) {
        // Kept for the whole drive, since a join on another thread may take it out of the engine whenever the lock is
        // released below.
        let watch = driven.engine.watch();
        if driven.seat == Seat::Background {
            // It sleeps in poll(2) and takes no events. It sees the new seat as soon as it has the lock, and gives up.
            watch.nudge.ring();
        }
        driven.seat = Seat::Foreground;
        driven.asleep_until = None;
        let mut sources = Vec::new();
        let result = loop {
            if !self.poll_links(&mut driven, &mut sources) && !self.spin(&mut driven) {
                self.sleep(&mut driven, &watch, &mut sources, deadline);
                driven.engine.turn(&sources);
            }
            // Before `check`, so that what the turn made due happens even if this thread is done.
            self.alert(&mut driven);
            driven = self.settle_effects(driven);
            driven = self.restore_template(driven);
            let result = check(&mut driven.engine);
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            // The effects were settled without the lock: a join may have ended all events meanwhile.
            if result.is_some() || late || !driven.engine.is_watched() {
                break result;
            }
        };
        driven.seat = Seat::Empty;
        driven.drives += 1;
        // Under the lock under which the seat became empty, so that a thread that is about to follow takes it instead.
        self.offer_seat(&mut driven);
        (driven, result)
    }

    /// Takes in what has arrived in the rings, and from time to time what the epoll set reports. Returns whether
    /// anything had arrived in the rings.
    pub(super) fn poll_links(&self, driven: &mut Driven, sources: &mut Vec<Source>) -> bool {
        let Some(now) = driven.engine.poll() else { return false };
        // With answers in the rings at every poll, the driver never sleeps in the epoll set. Deaths, hellos and timers
        // must not wait for that.
        if now.saturating_duration_since(driven.turned_at) >= TURN_EVERY {
            driven.turned_at = now;
            driven.engine.watch().wait(sources, Some(now)).expect("an epoll set of our own can be polled");
            driven.engine.turn(sources);
        }
        true
    }

    /// Spins for a while on the rings, without the lock. Returns whether something may have arrived.
    fn spin(&self, driven: &mut MutexGuard<'_, Driven>) -> bool {
        let mut probes = std::mem::take(&mut driven.probes);
        driven.engine.probes(&mut probes);
        let found = !probes.is_empty() && {
            let time = driven.spin.duration();
            // The probes keep their memory alive, so the workers they belong to may go meanwhile.
            MutexGuard::unlocked(driven, || spin::spin_until(time, || probes.iter().any(AnswerProbe::has_news)))
        };
        probes.clear();
        driven.probes = probes;
        if found {
            driven.spin.found_while_spinning();
        }
        found
    }

    /// Sleeps until something has happened or is due. Returns at once if answers have arrived already.
    fn sleep(
        &self,
        driven: &mut MutexGuard<'_, Driven>,
        watch: &Watch,
        sources: &mut Vec<Source>,
        deadline: Option<Instant>,
    ) {
        let now = Instant::now();
        driven.turned_at = now;
        let (ringers, until) = driven.fall_asleep(now, deadline);
        // Between here and epoll_wait, a ring is not lost: the doorbell stays readable until a turn quiets it.
        let slept = MutexGuard::unlocked(driven, || watch.wait(sources, until));
        driven.asleep_until = None;
        slept.expect("an epoll set of our own can be waited for");
        if ringers == Ringers::Some {
            driven.spin.found_after_sleep(now.elapsed());
        }
    }

    /// If the seat is empty, wakes the thread that may take it: a follower if there is one, else the background thread.
    fn offer_seat(&self, driven: &mut Driven) {
        if driven.seat != Seat::Empty {
            return;
        }
        // One follower only. If it does not need the seat any more, it offers it on when its wait ends.
        if let Some(follower) = driven.followers.any() {
            follower.notify_all();
        } else if driven.background_sleeps || (driven.background_dozes && driven.engine.unfinished() > 0) {
            driven.background_sleeps = false;
            driven.background_dozes = false;
            self.background.notify_all();
        }
    }

    /// Sleeps until what it waits for makes progress, the seat becomes empty, or the deadline has passed. May wake for no reason.
    fn follow<'a>(
        &'a self,
        mut driven: MutexGuard<'a, Driven>,
        waits_for: WaitsFor<'_>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, Driven> {
        // On both lists before the lock is released by the sleep, which closes the gap between the caller's check and
        // the sleep.
        let condvar = Arc::new(Condvar::new());
        driven.followers.join(Arc::clone(&condvar));
        waits_for.watchers(&mut driven.engine, |watchers| watchers.join(Arc::clone(&condvar)));
        condvar::sleep(&condvar, &mut driven, deadline);
        driven.followers.leave(&condvar);
        waits_for.watchers(&mut driven.engine, |watchers| watchers.leave(&condvar));
        driven
    }
}
