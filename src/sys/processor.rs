//! On which processor a thread runs, and how it comes off it.
//!
//! Two that wait for each other on one processor must not look for what the other does: it cannot do it meanwhile. The
//! kernel often wakes a thread where its waker runs, and where processors share no cache it does not look for an idle
//! one; then it may leave both there for many milliseconds.

use std::fs;
use std::num::NonZero;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use nix::sched::CpuSet;
use nix::sched::sched_getaffinity;
use nix::sched::sched_getcpu;
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;

/// A processor by its number, or nothing that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(Option<usize>);

impl Place {
    /// Where this thread runs.
    #[inline]
    pub(crate) fn here() -> Self {
        Self(sched_getcpu().ok())
    }

    /// Whether both are the same processor.
    pub(crate) fn is(self, other: Self) -> bool {
        self.0.is_some() && self == other
    }

    /// As a number for shared memory, in which nothing has been written yet.
    pub(crate) fn to_word(self) -> u64 {
        self.0.map_or(0, |number| number as u64 + 1)
    }

    pub(crate) fn from_word(word: u64) -> Self {
        Self(word.checked_sub(1).and_then(|number| usize::try_from(number).ok()))
    }

    /// Moves this thread from here to any other processor that it may use; it may come back whenever the kernel likes.
    /// Whether it has moved.
    ///
    /// Not under a system call filter: it may forbid this, and then it is often set to kill.
    pub(crate) fn leave(self) -> bool {
        let this_thread = Pid::from_raw(0);
        if is_filtered() {
            return false;
        }
        let (Some(number), Ok(allowed)) = (self.0, sched_getaffinity(this_thread)) else { return false };
        let mut others = allowed;
        if others.unset(number).is_err() || sched_setaffinity(this_thread, &others).is_err() {
            // There is no other.
            return false;
        }
        // A thread that nobody has bound to processors of its own stays so: what is asked for is remembered, and would
        // bind it when its cpuset changes.
        let unbound = sched_setaffinity(this_thread, &everywhere()).and_then(|()| sched_getaffinity(this_thread));
        if unbound != Ok(allowed)
            && let Err(errno) = sched_setaffinity(this_thread, &allowed)
        {
            log::debug!("a worker is not bound as it was: {errno}");
        }
        true
    }
}

fn everywhere() -> CpuSet {
    let mut all = CpuSet::new();
    for number in 0..CpuSet::count() {
        all.set(number).expect("it is one of so many");
    }
    all
}

/// Whether this thread runs under seccomp(2), as /proc says: prctl(2) might be forbidden, too.
fn is_filtered() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    !status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "0"))
}

/// The number of processors that this process may use now: its affinity mask and the quotas of both versions of
/// cgroups, as the standard library reads them.
pub(crate) fn available() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// [`available`], as of the first call: reading it takes as long as starting a process, and a hint is enough.
pub(crate) fn available_at_first() -> usize {
    // Relaxed: the number stands alone, and threads that race here store the same hint.
    static PROCESSORS: AtomicUsize = AtomicUsize::new(0);
    match PROCESSORS.load(Ordering::Relaxed) {
        0 => {
            let processors = available();
            PROCESSORS.store(processors, Ordering::Relaxed);
            processors
        }
        known => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_from_their_words() {
        for place in [Place(None), Place(Some(0)), Place(Some(191))] {
            assert_eq!(Place::from_word(place.to_word()), place);
        }
        assert!(!Place(None).is(Place(None)) && Place(Some(3)).is(Place(Some(3))));
        assert!(!Place::from_word(u64::MAX).is(Place::here()));
    }

    #[test]
    fn leaving_changes_nothing_that_lasts() {
        let allowed = || sched_getaffinity(Pid::from_raw(0)).unwrap();
        let (before, here) = (allowed(), Place::here());
        let count = (0..CpuSet::count()).filter(|&number| before.is_set(number).unwrap()).count();
        // It may have been moved by the kernel since it was asked, and then leaves nothing.
        assert!(here.leave() || count == 1 || is_filtered());
        assert_eq!(allowed(), before);
        // Nor for a thread that is bound.
        if let Some(first) = (0..CpuSet::count()).find(|&number| before.is_set(number).unwrap()) {
            let mut bound = before;
            bound.unset(first).unwrap();
            if sched_setaffinity(Pid::from_raw(0), &bound).is_ok() {
                Place::here().leave();
                assert_eq!(allowed(), bound);
            }
        }
    }
}
