//! What this crate keeps for the process it runs in, and how a forked copy gets its own.
//!
//! After fork(2) by anybody, the copy holds the memory of everything the parent had: its registry,
//! its fork server, its lifeline, and mutexes in whatever state they were. None of that is the
//! copy's. So everything static hangs from a [`PerProcess`]: a chain with one link for every process
//! between the first user and the running one, and only the last link is ever used.
//!
//! # Invariants
//!
//! - [`current`] never gives a link whose process is not the running one, and so a lock that some
//!   thread of the parent held at the fork is never waited for in the child.
//! - A link is never freed: references to it are `'static`.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::Weak;

use crate::child::lifeline::Lifeline;
use crate::start::forkserver::Slot;
use crate::sys::fd::PrivateFd;
use crate::sys::fd::Registry;
use crate::sys::threads::Gate;

/// A value of which every process has its own.
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

    /// This process's value, made when it is asked for first.
    pub(crate) fn get(&self) -> &T {
        let pid = std::process::id();
        let mut link = self.first.get_or_init(|| Link::new(pid));
        // Only the last link may be ours: a process id further up may be that of an ancestor that
        // is dead, and whose id has been given out again.
        while let Some(next) = link.next.get() {
            link = next;
        }
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

/// All that this crate keeps.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// The descriptors that no child may keep.
    pub(crate) registry: Mutex<Registry>,
    /// The pipe whose write end tells our children that we live; gone when nobody needs it.
    pub(crate) lifeline: Mutex<Weak<Lifeline>>,
    /// The other end of our own parent's: it must stay open, and no child may keep it.
    pub(crate) armed: OnceLock<PrivateFd>,
    /// The fork server that all starters share.
    pub(crate) forkserver: Slot,
    /// What it is to run before it serves.
    pub(crate) preloads: Mutex<Vec<fn()>>,
    /// Who may be running while we fork.
    pub(crate) gate: Gate,
}

static PROCESS: PerProcess<Process> = PerProcess::new();

/// The state of the running process.
pub(crate) fn current() -> &'static Process {
    PROCESS.get()
}

/// Locks, and does not mind that another thread panicked while it held the lock: each of our
/// critical sections leaves its data whole at every step.
///
/// The mutexes held across a fork are std's because unlocking one touches nothing else; one that
/// keeps its waiters in a shared table could find that table locked in the child.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
