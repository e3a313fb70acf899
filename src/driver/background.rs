//! The background thread: starts workers, and drives when nobody waits.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::MutexGuard;
use start_methods::threads::Announced;
use start_methods::threads::Resident;

use super::Driven;
use super::Seat;
use super::Shared;
use crate::sys::failpoint::fault;

/// How long the seat may be empty, with jobs unfinished, before the background thread takes it.
const LOOK_BUSY: Duration = Duration::from_millis(1);
/// How long the seat may be empty, with nothing to do, before the background thread takes it.
const LOOK_IDLE: Duration = Duration::from_millis(10);

impl Shared {
    /// Starts the background thread and the callback thread.
    pub(crate) fn start_threads(self: &Arc<Self>) -> io::Result<()> {
        fault!("thread");
        self.callbacks.start()?;
        let shared = Arc::clone(self);
        let builder = std::thread::Builder::new().name("procpool-drive".to_owned());
        self.driven.lock().background_gone = false;
        let announced = Announced::new();
        let thread = builder.spawn(move || shared.drive_in_background(&announced.enter())).inspect_err(|_| {
            self.driven.lock().background_gone = true;
            let _left = self.callbacks.finish(None);
        })?;
        *self.background_thread.lock() = Some(thread);
        Ok(())
    }

    fn drive_in_background(&self, resident: &Resident) {
        let mut driven = self.driven.lock();
        // Callers come and go so quickly that it does not pay to be woken by each.
        let mut is_frequented = false;
        while !driven.leaving {
            driven = self.start_due(driven);
            if driven.leaving {
                break;
            }
            if driven.seat != Seat::Empty && !is_frequented {
                driven.background_sleeps = true;
                resident.park(|| self.background.wait(&mut driven));
                driven.background_sleeps = false;
                continue;
            }
            let drives = driven.drives;
            let look = match (driven.engine.attended(), driven.engine.unfinished()) {
                _ if driven.seat != Seat::Empty => Some(LOOK_IDLE),
                (0, 0) => Some(LOOK_IDLE),
                (0, _) => Some(LOOK_BUSY),
                // Somebody must be told.
                (_, _) => None,
            };
            if let Some(look) = look {
                driven.background_dozes = look == LOOK_IDLE;
                resident.park(|| self.background.wait_for(&mut driven, look));
                driven.background_dozes = false;
                is_frequented = driven.drives > drives + 1;
                // A wait cut short is for a reason, and then the reasons are looked at again.
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

    /// Takes the seat, and drives until somebody displaces this thread or it must leave.
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
            resident.park(|| MutexGuard::unlocked(&mut driven, || watch.wait_or_nudge(until)));
            watch.nudge.quiet();
            if driven.seat != Seat::Background {
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
            if driven.seat != Seat::Background {
                return driven;
            }
        }
    }
}
