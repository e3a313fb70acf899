//! A lease: which process holds something, as two words in shared memory.
//!
//! ```text
//!   holder   63       42 41      20 19     0      start   63          0
//!            process id  thread id  count                 start time
//! ```
//!
//! A lease whose count is 0 is free. It is taken by two stores, the start time first: `holder` publishes it, so a death
//! between them leaves it free. All accesses are under the latch of the object, which orders them: Relaxed.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

const COUNT_BITS: u32 = 20;
const ID_BITS: u32 = 22;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
/// The most that one lease counts.
pub(super) const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;

/// A word of the state, with the orderings of every access: the same for the atomic that ships and for the models.
pub(super) trait Cell {
    fn load(&self) -> u64;
    fn store(&self, value: u64);
}

macro_rules! cell {
    ($atomic:ty) => {
        impl Cell for $atomic {
            #[inline]
            fn load(&self) -> u64 {
                self.load(Ordering::Relaxed)
            }

            #[inline]
            fn store(&self, value: u64) {
                self.store(value, Ordering::Relaxed);
            }
        }
    };
}
cell!(AtomicU64);
#[cfg(all(test, loom))]
pub(super) use cell;

/// The thread that runs, and its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Me {
    pub(super) pid: u32,
    pub(super) tid: u32,
    /// 0 if it is not known.
    pub(super) start: u64,
}

impl Me {
    pub(super) fn lease(self, count: u32) -> Lease {
        Lease { holder: Holder::new(self.pid, self.tid, count), start: self.start }
    }
}

/// Process, thread and count, as in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder(u64);

impl Holder {
    pub(super) const NONE: Self = Self(0);

    /// Ids of Linux have 22 bits (PID_MAX_LIMIT).
    pub(super) fn new(pid: u32, tid: u32, count: u32) -> Self {
        let (pid, tid) = (u64::from(pid) & ID_MASK, u64::from(tid) & ID_MASK);
        Self(pid << (COUNT_BITS + ID_BITS) | tid << COUNT_BITS | u64::from(count.min(COUNT_MAX)))
    }

    pub(super) fn pid(self) -> u32 {
        u32::try_from(self.0 >> (COUNT_BITS + ID_BITS)).expect("22 bits")
    }

    pub(super) fn tid(self) -> u32 {
        u32::try_from(self.0 >> COUNT_BITS & ID_MASK).expect("22 bits")
    }

    pub(super) fn count(self) -> u32 {
        u32::try_from(self.0 & u64::from(COUNT_MAX)).expect("20 bits")
    }

    /// The same process and thread, with another count.
    pub(super) fn with_count(self, count: u32) -> Self {
        Self::new(self.pid(), self.tid(), count)
    }
}

/// A lease, as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) holder: Holder,
    pub(super) start: u64,
}

impl Lease {
    pub(super) fn is_free(self) -> bool {
        self.holder.count() == 0
    }

    /// Whether it is of this process.
    pub(super) fn is_of_process(self, me: Me) -> bool {
        !self.is_free() && self.holder.pid() == me.pid && self.start == me.start
    }

    pub(super) fn is_of_thread(self, me: Me) -> bool {
        self.is_of_process(me) && self.holder.tid() == me.tid
    }
}

/// Where a lease lies.
#[derive(Debug)]
pub(super) struct Place<'a, C> {
    pub(super) holder: &'a C,
    pub(super) start: &'a C,
}

impl<C> Clone for Place<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Place<'_, C> {}

impl<C: Cell> Place<'_, C> {
    pub(super) fn read(self) -> Lease {
        Lease { holder: Holder(self.holder.load()), start: self.start.load() }
    }

    /// Writes down a lease in a place that is free.
    pub(super) fn take(self, lease: Lease, step: impl Fn(&str)) {
        self.start.store(lease.start);
        step("lease_started");
        self.holder.store(lease.holder.0);
        step("lease_taken");
    }

    /// Changes the count of a lease, or ends it.
    pub(super) fn set(self, holder: Holder) {
        self.holder.store(holder.0);
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn ids_and_counts_are_kept_apart() {
        let holder = Holder::new(4_194_303, 4_194_302, COUNT_MAX);
        assert_eq!((holder.pid(), holder.tid(), holder.count()), (4_194_303, 4_194_302, COUNT_MAX));
        assert_eq!(holder.with_count(1), Holder::new(4_194_303, 4_194_302, 1));
        assert_eq!(Holder::NONE.count(), 0);
    }

    #[test]
    fn another_process_with_the_same_id_is_another_holder() {
        let me = Me { pid: 7, tid: 8, start: 9 };
        assert!(me.lease(1).is_of_thread(me) && !me.lease(0).is_of_thread(me));
        assert!(!me.lease(1).is_of_process(Me { start: 10, ..me }));
        let other_thread = Me { tid: 9, ..me };
        assert!(me.lease(1).is_of_process(other_thread) && !me.lease(1).is_of_thread(other_thread));
    }
}
