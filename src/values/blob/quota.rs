//! How many descriptors large values may hold.
//!
//! A value in a file holds a descriptor, and a process has few of them, 1024 by default, which it needs for other things
//! too. So values may hold a share of the table. What comes beyond it is kept in memory: a result is copied out of its
//! file, and an argument is written into a file when it is sent.
//!
//! A copy takes long, and results arrive under a lock. So a few may hold a descriptor beyond the share until they have
//! been copied where that holds up no other thread.
//!
//! The count is of the whole process, whose pools share one table. A forked copy begins with the count of its parent: it
//! may have to copy more than it would need to.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;

use super::limits::REUSE_MAX;

/// Values may hold this part of the descriptors that the process may open.
const SHARE: u64 = 8;
/// Values that are about to be copied may hold so many in addition, in parts of the share; at least one.
const PASSING_SHARE: usize = 4;
/// The number of descriptors that values may hold, whatever the limit of open files.
const MIN: usize = 4;
/// The number that they may hold at most.
const MAX: usize = 256;

/// The descriptors that values hold in this process. Relaxed everywhere: the number stands alone.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// The right to hold one descriptor for a value.
#[derive(Debug)]
pub(super) struct Slot(());

impl Slot {
    /// A slot for a value of `len` bytes, if one is left. Very long values, which take long to copy, may use as many
    /// again.
    pub(super) fn take(len: u64) -> Option<Self> {
        let share = share_here();
        Self::below(if len > REUSE_MAX { 2 * share } else { share })
    }

    /// A slot for a value that is copied into memory in a moment, if one is left.
    pub(super) fn take_for_a_moment() -> Option<Self> {
        let share = share_here();
        Self::below(share + (share / PASSING_SHARE).max(1))
    }

    fn below(max: usize) -> Option<Self> {
        let one_more = |held: usize| (held < max).then(|| held + 1);
        HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok().then(|| Self(()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many descriptors values may hold in this process.
pub(crate) fn descriptors_max() -> u64 {
    share_here() as u64
}

fn share_here() -> usize {
    share(getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft))
}

/// How many descriptors values may hold where a process may open `limit`.
fn share(limit: u64) -> usize {
    usize::try_from(limit / SHARE).unwrap_or(MAX).clamp(MIN, MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_nothing_and_never_much() {
        for (limit, expected) in [(0, 4), (64, 8), (256, 32), (1024, 128), (1 << 20, 256), (u64::MAX, 256)] {
            assert_eq!(share(limit), expected, "{limit}");
        }
    }
}
