//! Waiting on a condition variable, with an optional deadline.

use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::MutexGuard;

/// Waits for a notification, until `deadline` if there is one. Returns whether the deadline has passed.
///
/// Wake-ups may be spurious: the caller checks its condition again.
pub(crate) fn sleep<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>, deadline: Option<Instant>) -> bool {
    match deadline {
        Some(deadline) => condvar.wait_until(guard, deadline).timed_out(),
        None => {
            condvar.wait(guard);
            false
        }
    }
}
