//! Per-process state that survives fork(2): every process sees a value of its own, never its parent's.
//!
//! After fork(2), by this crate or by any other code, the child's memory is a copy of the parent's: its registry of
//! descriptors, its fork server, its lifeline, and mutexes in whatever state they were. None of that is valid in the
//! child. So every static of this crate is a [`PerProcess`]: a chain with one link for each process between the first
//! one that used it and the running one. Only the last link is used. The statics themselves are with their owners:
//! `sys/fd` (registry), `sys/threads` (gate), `child/lifeline`, `start/forkserver`.
//!
//! # Invariants
//!
//! - [`PerProcess::get`] never returns a link of another process, so the child never waits for a lock that a thread of
//!   the parent held at the fork.
//! - A link is never freed while its `PerProcess` exists: references into a static one are `'static`.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;

/// A value that is separate in every process.
#[derive(Debug)]
pub(crate) struct PerProcess<T> {
    first: OnceLock<Link<T>>,
}

#[derive(Debug)]
struct Link<T> {
    pid: u32,
    value: T,
    next: OnceLock<Box<Link<T>>>,
}

impl<T: Default> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self { first: OnceLock::new() }
    }

    /// This process's value, created at the first call.
    pub(crate) fn get(&self) -> &T {
        let pid = std::process::id();
        let mut link = self.first.get_or_init(|| Link::new(pid));
        // Only the last link may be ours. An earlier one with our process id belongs to an ancestor that has died, and
        // whose id the kernel has reused for us.
        while let Some(next) = link.next.get() {
            link = next;
        }
        // Threads that race here append one link: `get_or_init` runs a single closure.
        if link.pid != pid {
            link = link.next.get_or_init(|| Box::new(Link::new(pid)));
        }
        &link.value
    }
}

impl<T: Default> Link<T> {
    fn new(pid: u32) -> Self {
        Self { pid, value: T::default(), next: OnceLock::new() }
    }
}

/// Locks, and ignores poisoning: each critical section of this crate leaves its data consistent at every step.
///
/// The mutexes held across a fork are std's, because unlocking one touches no other memory. A mutex that keeps its
/// waiters in a shared table (parking_lot) could find that table locked in the child.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
