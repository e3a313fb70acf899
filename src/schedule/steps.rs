//! Counts the steps of decisions, so that a test can see how they grow with the number of jobs and workers. Does nothing
//! outside tests.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// One job, worker or action has been looked at.
#[inline]
pub(super) fn count() {
    #[cfg(test)]
    STEPS.set(STEPS.get() + 1);
}

/// How many steps `f` takes.
#[cfg(test)]
pub(super) fn of(f: impl FnOnce()) -> u64 {
    let before = STEPS.get();
    f();
    STEPS.get() - before
}
