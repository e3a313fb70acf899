//! A table of the threads that wait: a slot for each, with its lease, and an order.
//!
//! ```text
//!     0  used u64                       slots at and beyond this one were never taken
//!     8  holder, start, order u64       of each slot
//! ```
//!
//! A slot is taken before its thread sleeps, and freed by that thread when it returns, or by others when it has died. All
//! accesses are under the latch, which orders them: Relaxed.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::lease::Holder;
use super::lease::Lease;
use super::lease::Me;
use super::lease::Place;
use super::object::Object;
use super::object::Words;
use crate::sys::failpoint;

const SLOT_LEN: usize = 24;
/// How many threads may wait at once.
pub(super) const SLOTS_MAX: usize = 160;

#[derive(Clone, Copy, Debug)]
pub(super) struct Slots<'a> {
    words: Words<'a>,
    at: usize,
}

/// The slot of this thread. Freed when this is dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    object: &'a Object,
    at: usize,
    me: Me,
    pub(super) index: usize,
    order: u64,
}

impl<'a> Slots<'a> {
    /// The table at this offset.
    pub(super) fn new(words: Words<'a>, at: usize) -> Self {
        Self { words, at }
    }

    pub(super) fn place(self, index: usize) -> Place<'a, AtomicU64> {
        self.words.lease(self.at + 8 + SLOT_LEN * index)
    }

    fn order_word(self, index: usize) -> &'a AtomicU64 {
        self.words.word(self.at + 24 + SLOT_LEN * index)
    }

    pub(super) fn order(self, index: usize) -> u64 {
        self.order_word(index).load(Ordering::Relaxed)
    }

    fn used(self) -> usize {
        let used = self.words.word(self.at).load(Ordering::Relaxed);
        usize::try_from(used).unwrap_or(SLOTS_MAX).min(SLOTS_MAX)
    }

    /// The slots that are taken.
    pub(super) fn leases(self) -> impl Iterator<Item = (usize, Lease)> {
        (0..self.used()).map(move |index| (index, self.place(index).read())).filter(|(_, lease)| !lease.is_free())
    }

    /// Takes a slot for this thread; its index. `None` if all are taken.
    pub(super) fn take(self, me: Me, count: u32, order: u64) -> Option<usize> {
        // What this thread could not free: another has changed it without the latch meanwhile.
        let stale = self.leases().filter(|(_, lease)| lease.is_of_thread(me));
        stale.for_each(|(index, _)| self.free(index));
        let used = self.used();
        let index = (0..used).find(|index| self.place(*index).read().is_free()).unwrap_or(used);
        if index == SLOTS_MAX {
            return None;
        }
        if index == used {
            // Before the lease: one that is not counted would be overlooked.
            self.words.word(self.at).store(used as u64 + 1, Ordering::Relaxed);
        }
        self.order_word(index).store(order, Ordering::Relaxed);
        self.place(index).take(me.lease(count), failpoint::pass);
        Some(index)
    }

    pub(super) fn free(self, index: usize) {
        self.place(index).set(Holder::NONE);
    }
}

impl<'a> Slot<'a> {
    /// The slot that this thread has taken.
    pub(super) fn new(object: &'a Object, at: usize, me: Me, index: usize, order: u64) -> Self {
        Self { object, at, me, index, order }
    }

    /// The lease, unless the slot is not this thread's any more: somebody has written nonsense.
    pub(super) fn lease(&self, words: Words<'_>) -> Option<Lease> {
        let slots = Slots::new(words, self.at);
        let lease = slots.place(self.index).read();
        (lease.is_of_thread(self.me) && slots.order(self.index) == self.order).then_some(lease)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // In a forked copy of the process the slot is the original's.
        let Ok(words) = self.object.words() else { return };
        words.publish(|_| {
            if self.lease(words).is_some() {
                Slots::new(words, self.at).free(self.index);
            }
        });
    }
}
