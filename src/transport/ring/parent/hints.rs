//! Hints that the two sides give each other: how long to spin, on which processor each side runs, and how long items take.

use std::sync::atomic::Ordering;

use super::Cell;
use super::ParentEnd;
use crate::sys::processor::Cpu;
use crate::transport::arrival::ServiceTime;

impl ParentEnd {
    /// How long the worker may spin for work before it sleeps.
    pub(crate) fn allow_spinning(&mut self, ns: u64) {
        // Written only when it changes, so that the worker's cached line stays valid.
        if std::mem::replace(&mut self.spin_ns, ns) != ns {
            self.memory.cell(Cell::SpinNs).store(ns, Ordering::Relaxed);
        }
    }

    /// Shows the worker the processor of this side if the worker has a single item: then the two sides take turns, and must
    /// not spin on one processor. With many items they work at the same time, and spinning pays on any processor.
    pub(super) fn show_place(&mut self, takes_turns: bool) {
        let place = if takes_turns { Cpu::current() } else { Cpu::default() };
        if std::mem::replace(&mut self.place, place) != place {
            self.memory.cell(Cell::ParentOn).store(place.to_word(), Ordering::Relaxed);
        }
    }

    /// Whether the worker ran last on this processor: then it cannot run while a thread spins here.
    pub(crate) fn is_at(&self, here: Cpu) -> bool {
        Cpu::from_word(self.memory.cell(Cell::WorkerOn).load(Ordering::Relaxed)).is(here)
    }

    /// How many items have been answered, in total.
    pub(crate) fn answered(&self) -> u64 {
        self.records - self.executed
    }

    /// How long the worker was busy since the last call that returned something, by its own measurement. `None` if that
    /// includes none of the items after the first `before`: the worker shows the time of an item after its answer.
    pub(crate) fn take_service_time(&mut self, before: u64) -> Option<ServiceTime> {
        // Acquire: pairs with the Release in the worker's `checkpoint`. With the time of fewer items than were counted, the
        // first item of a job could appear to take none.
        let items = self.memory.cell(Cell::BusyItems).load(Ordering::Acquire);
        let ns = self.memory.cell(Cell::BusyNs).load(Ordering::Relaxed);
        if items == self.busy_items {
            return None;
        }
        let ns = ns.wrapping_sub(std::mem::replace(&mut self.busy_ns, ns));
        let new = items.wrapping_sub(std::mem::replace(&mut self.busy_items, items));
        let is_included = i64::try_from(items.wrapping_sub(before)).is_ok_and(|included| included > 0);
        is_included.then_some(ServiceTime { ns, items: u32::try_from(new).unwrap_or(u32::MAX) })
    }
}
