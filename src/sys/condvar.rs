//! Sleeping on a condition variable, for ever or until a deadline.

use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::MutexGuard;

/// Sleeps until somebody notifies, or `deadline` has passed; says whether it is too late.
pub(crate) fn sleep<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>, deadline: Option<Instant>) -> bool {
    match deadline {
        Some(deadline) => condvar.wait_until(guard, deadline).timed_out(),
        None => {
            condvar.wait(guard);
            false
        }
    }
}
