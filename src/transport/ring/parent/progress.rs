//! How far the worker has come with its next item, as far as the shared memory shows.

use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use super::Cell;
use super::Count;
use super::ParentEnd;
use crate::sys::clock;
use crate::work::progress::Progress;
use crate::work::progress::RunTime;

impl ParentEnd {
    /// How far the worker has come with the next item.
    pub(crate) fn progress(&self) -> Progress {
        let view = self.ledger().load();
        let item_is_next = matches!(self.in_flight.front(), Some(entry) if entry.contents.is_work());
        match view.has_begun() && view.done() == self.seen {
            true if item_is_next => Progress::Runs { since: self.began(view.done()) },
            true => Progress::Prepares,
            // What it has answered since the last `receive` is news; the next `receive` will ask again.
            false => Progress::Waits,
        }
    }

    /// When the worker began the record behind so many, as it has recorded itself: a hint. `None` if it has recorded an
    /// earlier one only: then it began this one as soon as the one before it was done.
    fn began(&self, done: Count) -> Option<Instant> {
        // Acquire: pairs with the Release in the worker's `show_began`. If the worker writes down the next record meanwhile,
        // the time is one that is too late.
        if self.memory.cell(Cell::BeganRecord).load(Ordering::Acquire) != u64::from(done.number()) {
            return None;
        }
        let ago = clock::monotonic_ns().saturating_sub(self.memory.cell(Cell::BeganNs).load(Ordering::Relaxed));
        Instant::now().checked_sub(Duration::from_nanos(ago))
    }

    /// How long the worker has run the next item, by its own clock; `None` if it runs none.
    pub(crate) fn run_time(&self, now_ns: u64) -> Option<RunTime> {
        let view = self.ledger().load();
        if !view.has_begun() {
            return None;
        }
        // Acquire: as in `began`.
        let began_record = self.memory.cell(Cell::BeganRecord).load(Ordering::Acquire);
        let began_ns = self.memory.cell(Cell::BeganNs).load(Ordering::Relaxed);
        // With answers that were not taken in, the next item is another one than the worker runs.
        let is_exact = view.done() == self.seen && began_record == u64::from(view.done().number());
        Some(RunTime { at_most: Duration::from_nanos(now_ns.saturating_sub(began_ns)), is_exact })
    }

    /// How long the worker has been busy, by its own clock.
    pub(crate) fn busy_ns(&self) -> u64 {
        self.memory.cell(Cell::BusyNs).load(Ordering::Relaxed)
    }

    /// The number of orders known to be executed, in total.
    pub(crate) fn executed(&self) -> u64 {
        self.executed
    }
}
