//! How long a call may wait.

use std::cell::Cell;
use std::time::Duration;
use std::time::Instant;

/// How often a call that may not wait sleeps for a latch, 10 ms each time at most, before it gives up.
const LATCH_SLEEPS_MAX: u32 = 2;

#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// Not at all; for a latch, which is held for a moment only, a few milliseconds.
    Not,
    Until(Instant),
    Forever,
}

impl Wait {
    /// For so long from now on.
    pub(super) fn at_most(time: Duration) -> Self {
        // Longer than the clock can express: for ever.
        Instant::now().checked_add(time).map_or(Wait::Forever, Wait::Until)
    }

    /// The moment at which poll(2) is to return.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Wait::Not => Some(Instant::now()),
            Wait::Until(deadline) => Some(deadline),
            Wait::Forever => None,
        }
    }

    /// Whether the time is up. Asked in every round: a process that keeps changing the memory could keep a call busy.
    pub(super) fn is_over(self) -> bool {
        match self {
            Wait::Not => true,
            Wait::Until(deadline) => Instant::now() >= deadline,
            Wait::Forever => false,
        }
    }

    /// Asked before each sleep for a latch: whether to give up.
    pub(super) fn gives_up(self) -> impl Fn() -> bool {
        let sleeps = Cell::new(0);
        move || {
            sleeps.set(sleeps.get() + 1);
            match self {
                Wait::Not => sleeps.get() > LATCH_SLEEPS_MAX,
                Wait::Until(deadline) => Instant::now() >= deadline,
                Wait::Forever => false,
            }
        }
    }
}
