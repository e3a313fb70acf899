//! On which processor a thread runs, and how it comes off it.
//!
//! Two that wait for each other on one processor must not look for what the other does: it cannot do it meanwhile. The
//! kernel often wakes a thread where its waker runs, and where processors share no cache it does not look for an idle
//! one; then it may leave both there for many milliseconds.

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
    pub(crate) fn leave(self) -> bool {
        let this_thread = Pid::from_raw(0);
        let (Some(number), Ok(allowed)) = (self.0, sched_getaffinity(this_thread)) else { return false };
        let mut others = allowed;
        if others.unset(number).is_err() || sched_setaffinity(this_thread, &others).is_err() {
            // There is no other.
            return false;
        }
        // What was allowed a moment ago is allowed now, or the kernel makes the best of it.
        if let Err(errno) = sched_setaffinity(this_thread, &allowed) {
            log::debug!("a worker stays off processor {number}: {errno}");
        }
        true
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
        let count = (0..nix::sched::CpuSet::count()).filter(|&number| before.is_set(number).unwrap()).count();
        // It may have been moved by the kernel since it was asked, and then leaves nothing.
        assert!(here.leave() || count == 1);
        assert_eq!(allowed(), before);
    }
}
