//! One holder at a time: the state of a lock and of a mutex.
//!
//! ```text
//!   lease    the holder
//!   died     the process that died with it, until that is told (mutex) or somebody recovers (lock); or 0
//! ```
//!
//! Every call is made under the latch of the object.
//!
//! | change | stores, in this order | a death in between |
//! |---|---|---|
//! | take | start, *holder*, died = 0 | free; or a dead holder, who is evicted, and `died` is written anew |
//! | release | *holder* = none | |
//! | evict | died, *holder* = none | a dead holder still, who is evicted again |
//!
//! So at any time a death with the lock is to be seen in one of the two: a dead holder, or `died`.

use super::lease::Cell;
use super::lease::Holder;
use super::lease::Lease;
use super::lease::Me;
use super::lease::Place;

/// What a holder's death does to those that come after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterDeath {
    /// The next holder is told.
    Tell,
    /// Nobody becomes the holder.
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Taken {
        /// The process that died with it before.
        died: Option<u32>,
    },
    /// This thread holds it.
    Own(Lease),
    Busy(Lease),
    Refused {
        died: u32,
    },
}

#[derive(Debug)]
pub(super) struct Ownership<'a, C> {
    pub(super) place: Place<'a, C>,
    pub(super) died: &'a C,
}

impl<C: Cell> Ownership<'_, C> {
    pub(super) fn take(&self, me: Me, after_death: AfterDeath, step: impl Fn(&str)) -> Attempt {
        let lease = self.place.read();
        if lease.is_of_thread(me) {
            return Attempt::Own(lease);
        }
        if !lease.is_free() {
            return Attempt::Busy(lease);
        }
        let died = u32::try_from(self.died.load()).ok().filter(|pid| *pid != 0);
        if let (Some(died), AfterDeath::Refuse) = (died, after_death) {
            return Attempt::Refused { died };
        }
        self.place.take(me.lease(1), &step);
        if died.is_some() {
            self.died.store(0);
            step("lease_told");
        }
        Attempt::Taken { died }
    }

    /// Takes it once more, for the thread that holds it. Returns whether the count allows it.
    pub(super) fn take_again(&self, lease: Lease) -> bool {
        let count = lease.holder.count() + 1;
        self.place.set(lease.holder.with_count(count));
        self.place.read().holder.count() == count
    }

    /// Releases what this thread holds. `wake` is called before others may take it.
    pub(super) fn release(&self, me: Me, wake: impl FnOnce()) {
        let lease = self.place.read();
        if !lease.is_of_thread(me) {
            // Somebody has written nonsense.
            return;
        }
        match lease.holder.count() {
            1 => {
                wake();
                self.place.set(Holder::NONE);
            }
            count => self.place.set(lease.holder.with_count(count - 1)),
        }
    }

    /// Ends the lease of a dead holder, if it is still the one that was seen.
    pub(super) fn evict(&self, lease: Lease, wake: impl FnOnce(), step: impl Fn(&str)) {
        if self.place.read() != lease {
            return;
        }
        self.died.store(u64::from(lease.holder.pid()).max(1));
        step("lease_noted");
        wake();
        self.place.set(Holder::NONE);
        step("lease_ended");
    }
}

#[cfg(all(test, loom))]
mod model;
