//! What follows from a change to the engine: waking threads, running what must not run under the lock, starting
//! workers.

use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::driver::callbacks::UserThread;
use crate::driver::shared::Driven;
use crate::driver::shared::Seat;
use crate::driver::shared::Shared;
use crate::engine::Ringers;
use crate::engine::effects::Due;
use crate::values::parcel::Parcel;

impl Shared {
    /// Wakes the driver if it would sleep past something that has changed, and the background thread if it is needed.
    ///
    /// Called after every change, under the lock under which it was made.
    pub(super) fn alert(&self, driven: &mut Driven) {
        if !driven.engine.is_watched() {
            // The pool is joined: every thread that slept has been woken for that.
            return;
        }
        if let Some(until) = driven.asleep_until {
            let timer = driven.engine.next_timer();
            let oversleeps = timer.is_some_and(|timer| until.is_none_or(|until| timer < until));
            // A worker that was given something after the driver fell asleep has not been asked to ring. If it answered
            // before it is asked (`Late`), no bell rings for that answer but this one.
            if oversleeps || driven.engine.ask_to_ring() == Ringers::Late {
                driven.engine.watch().ring();
            }
        }
        let needed = driven.engine.attended() > 0 || (driven.background_sleeps && driven.engine.unfinished() > 0);
        let starts_due = driven.engine.effects.starts > 0;
        if starts_due || (driven.seat == Seat::Empty && needed) {
            driven.background_sleeps = false;
            self.background.notify_all();
        }
        if starts_due && driven.seat == Seat::Background {
            // It sleeps in poll(2), not on its condition variable.
            driven.engine.watch().nudge.ring();
        }
    }

    /// Does what must not be done under the lock and is quickly done, until nothing of it is left.
    pub(super) fn settle_effects<'a>(&'a self, mut driven: MutexGuard<'a, Driven>) -> MutexGuard<'a, Driven> {
        // In a loop: while the lock is released, other threads may leave more. Taken out under the lock, so that each
        // effect happens once.
        while !driven.engine.effects.is_settled() {
            if std::mem::take(&mut driven.engine.effects.link_refused) {
                self.config.links.fall_back();
            }
            // Queued under the lock under which they became due. Between two threads that took them out of the engine and
            // queued them later, a callback could overtake one that became due before it.
            let mut calls = std::mem::take(&mut driven.engine.effects.calls);
            if let Some(line) = &self.config.events {
                let events = driven.engine.effects.events.drain(..).flat_map(|event| line.admit(event));
                calls.extend(events.map(|event| Due::Event(Arc::clone(line), Box::new(event))));
            }
            let mut unqueued = self.callbacks.queue(calls);
            let wakers = std::mem::take(&mut driven.engine.effects.wakers);
            unqueued.extend(self.wakers.queue(wakers.into_iter().map(Due::Wake).collect()));
            let unwanted = std::mem::take(&mut driven.engine.effects.unwanted);
            let spent = std::mem::take(&mut driven.engine.effects.spent);
            let unused = std::mem::take(&mut driven.engine.effects.unused);
            let excess = std::mem::take(&mut driven.engine.effects.excess);
            MutexGuard::unlocked(&mut driven, || {
                unqueued.into_iter().for_each(UserThread::run_apart);
                excess.into_iter().for_each(Parcel::settle);
                // Waits for the end of these processes.
                drop(unwanted);
                // Returns memory to the kernel, which takes time.
                drop((spent, unused));
            });
        }
        driven
    }

    /// Replaces the template of a fork pool if it has died. On a thread of the user's that waits for the pool: it holds no
    /// lock of this crate, and it is often the only thread besides those of the pool, so that a fork is allowed here and
    /// nowhere else.
    pub(super) fn restore_template<'a>(&'a self, mut driven: MutexGuard<'a, Driven>) -> MutexGuard<'a, Driven> {
        if !std::mem::take(&mut driven.engine.effects.template_died) {
            return driven;
        }
        let starter = self.starter.lock().clone();
        let restored = MutexGuard::unlocked(&mut driven, || starter.map(|starter| starter.settle()));
        match restored {
            Some(Ok(())) => driven.engine.template_restored(),
            Some(Err(_)) => driven.engine.template_refused(),
            None => {}
        }
        // The starts that are due now are the background thread's.
        self.alert(&mut driven);
        driven
    }

    /// Starts the workers that are due. On the background thread only: a start may take long, and a thread that waits
    /// for a result must not wait for that.
    pub(super) fn start_due<'a>(&'a self, mut driven: MutexGuard<'a, Driven>) -> MutexGuard<'a, Driven> {
        while driven.engine.effects.starts > 0 {
            driven.engine.effects.starts -= 1;
            let lane = driven.engine.claim_lane();
            let started = MutexGuard::unlocked(&mut driven, || self.start_worker(lane));
            // The pool may have ended meanwhile; then the engine does not take the worker.
            match started {
                Ok((child, link)) => driven.engine.started(child, link, lane),
                Err(error) => driven.engine.start_failed(error, lane),
            }
            // A timer may have been set, or the pool may be at rest now that no start is pending.
            self.alert(&mut driven);
            driven = self.settle_effects(driven);
        }
        driven
    }
}
