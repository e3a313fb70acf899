//! The worker's stamps: how many records it had done, and when.

use std::sync::atomic::Ordering;
use std::sync::atomic::fence;

use super::Cell;
use super::ParentEnd;
use crate::observe::stamp::Stamp;
use crate::transport::ring::memory::STAMPS;

impl ParentEnd {
    /// Adds the stamps that the worker has written since the last call, the oldest first. Those that it has overwritten are
    /// missing. Hints: any number may come, even of a worker that is honest if it writes while this reads.
    pub(crate) fn take_stamps(&mut self, stamps: &mut Vec<Stamp>) {
        // Acquire: pairs with the Release in the worker's `stamp`. What it counts has been written.
        let written = self.memory.cell(Cell::Stamps).load(Ordering::Acquire);
        // A count that goes back, or jumps, is a task's.
        let first = self.stamps.max(written.saturating_sub(STAMPS));
        self.stamps = written;
        let before = stamps.len();
        for number in first..written {
            let [done, ns] = self.memory.stamp(number);
            stamps.push(Stamp { done: done.load(Ordering::Relaxed), ns: ns.load(Ordering::Relaxed) });
        }
        // Acquire: pairs with the Release fence in `stamp`. If a place was overwritten before it was read here, the count
        // that is read now says so: the worker writes into the place of the stamp `STAMPS` before the next one.
        fence(Ordering::Acquire);
        let written = self.memory.cell(Cell::Stamps).load(Ordering::Relaxed);
        let intact = written.saturating_add(1).saturating_sub(STAMPS);
        let torn = usize::try_from(intact.saturating_sub(first)).unwrap_or(usize::MAX);
        stamps.drain(before..before.saturating_add(torn).min(stamps.len()));
    }

    /// How many records are known to be done, and how many were sent, in total.
    pub(crate) fn records(&self) -> (u64, u64) {
        (self.records, self.records + u64::from(self.sent.since(self.seen)))
    }
}
