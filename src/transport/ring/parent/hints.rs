//! Hints that the two sides give each other: how long to spin, on which processor each side runs, and how long records take.

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

    /// How long the worker was busy since the last call, by its own measurement.
    pub(crate) fn take_service_time(&mut self) -> ServiceTime {
        let since = |cell: Cell, before: &mut u64| {
            let now = self.memory.cell(cell).load(Ordering::Relaxed);
            now.wrapping_sub(std::mem::replace(before, now))
        };
        let ns = since(Cell::BusyNs, &mut self.busy_ns);
        let records = since(Cell::BusyRecords, &mut self.busy_records);
        ServiceTime { ns, records: u32::try_from(records).unwrap_or(u32::MAX) }
    }
}
