//! The background thread: starts workers, and drives when no other thread waits.

use std::time::Duration;
use std::time::Instant;

use parking_lot::MutexGuard;
use start_methods::threads::Resident;

use crate::driver::shared::Driven;
use crate::driver::shared::Seat;
use crate::driver::shared::Shared;

/// How long the seat may be empty, with jobs unfinished, before the background thread takes it.
const PAUSE_BUSY: Duration = Duration::from_millis(1);
/// How long the seat may be empty, with nothing to do, before the background thread takes it.
const PAUSE_IDLE: Duration = Duration::from_millis(10);

impl Shared {
    /// The background thread's main loop: runs until the pool ends.
    pub(super) fn drive_in_background(&self, resident: &Resident) {
        let mut driven = self.driven.lock();
        // Callers come and go so quickly that it does not pay to be woken by each.
        let mut is_frequented = false;
        while !driven.leaving {
            driven = self.start_due(driven);
            // Set while a start had released the lock, in which case no notification would come below.
            if driven.leaving {
                break;
            }
            if driven.seat != Seat::Empty && !is_frequented {
                // Noted under the lock that the wait releases, so that the thread that leaves the seat sees it.
                driven.background_sleeps = true;
                resident.park(|| self.background.wait(&mut driven));
                driven.background_sleeps = false;
                continue;
            }
            let drives = driven.drives;
            let pause = match (driven.engine.attended(), driven.engine.unfinished()) {
                _ if driven.seat != Seat::Empty => Some(PAUSE_IDLE),
                (0, 0) => Some(PAUSE_IDLE),
                (0, _) => Some(PAUSE_BUSY),
                // A callback or a waker is attached: no other thread may ever come to drive.
                (_, _) => None,
            };
            if let Some(pause) = pause {
                driven.background_dozes = pause == PAUSE_IDLE;
                resident.park(|| self.background.wait_for(&mut driven, pause));
                driven.background_dozes = false;
                is_frequented = driven.drives > drives + 1;
                // The lock was released: what was true before the pause is checked again. A pause that was cut short
                // was cut short for one of these reasons.
                let called = driven.engine.attended() > 0 || driven.engine.effects.starts > 0;
                if drives != driven.drives || driven.leaving || called {
                    continue;
                }
            }
            if driven.seat == Seat::Empty {
                driven = self.sit_in_background(resident, driven);
            }
        }
        driven.background_gone = true;
        self.departure.notify_all();
    }

    /// Takes the seat, and drives until this thread is displaced or must leave.
    fn sit_in_background<'a>(
        &'a self,
        resident: &Resident,
        mut driven: MutexGuard<'a, Driven>,
    ) -> MutexGuard<'a, Driven> {
        let watch = driven.engine.watch();
        driven.seat = Seat::Background;
        let mut sources = Vec::new();
        loop {
            let (_, until) = driven.fall_asleep(Instant::now(), None);
            // Takes no events: those are for the thread that has the seat, which may be another when this one wakes.
            resident.park(|| MutexGuard::unlocked(&mut driven, || watch.wait_or_nudge(until)));
            // Quiet before the reasons for a nudge are checked, both under the lock: a later nudge is for a later
            // reason.
            watch.nudge.quiet();
            if driven.seat != Seat::Background {
                // Displaced. `asleep_until` is the new driver's by now.
                return driven;
            }
            driven.asleep_until = None;
            if driven.leaving {
                driven.seat = Seat::Empty;
                return driven;
            }
            watch.wait(&mut sources, Some(Instant::now())).expect("an epoll set of our own can be waited for");
            driven.engine.turn(&sources);
            driven.engine.poll();
            driven = self.settle_effects(driven);
            driven = self.start_due(driven);
            // Both release the lock. A nudge of that time may have been for this thread, but is still readable then,
            // and the next sleep ends at once.
            if driven.seat != Seat::Background {
                return driven;
            }
        }
    }
}
