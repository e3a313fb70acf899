//! How far the worker has come with its next item, as far as the shared memory shows.

use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use super::Cell;
use super::Contents;
use super::ParentEnd;
use super::View;
use crate::sys::clock;
use crate::transport::frame;
use crate::work::progress::Progress;

impl ParentEnd {
    /// How far the worker has come with the next item.
    pub(crate) fn progress(&self) -> Progress {
        let view = self.ledger().load();
        let item_is_next = matches!(self.in_flight.front(), Some(entry) if entry.contents.is_work());
        match view.has_begun() && view.done() == self.seen {
            true if item_is_next => Progress::Runs { since: self.began() },
            true => Progress::Prepares,
            // What it has answered since the last `receive` is news; the next `receive` will ask again.
            false => Progress::Waits,
        }
    }

    /// How many records behind the one that the worker has begun belong to it: if that is a context, the item that waits
    /// for it, and the choice of its function. An item begins when the decoding of its context does.
    pub(super) fn records_bound(&self, view: View) -> u32 {
        if !view.has_begun() {
            return 0;
        }
        let mut done = view.done().since(self.seen);
        let mut contents = self.in_flight.iter().map(|entry| &entry.contents);
        let begun = contents.by_ref().find(|contents| match done.checked_sub(contents.records()) {
            Some(left) => {
                done = left;
                false
            }
            None => true,
        });
        let Some(Contents::Note(note)) = begun else { return 0 };
        let Some(decoded) = frame::context_in(&note.frame) else { return 0 };
        match (contents.next(), contents.next()) {
            (Some(Contents::Select), Some(item)) if item.context() == Some(decoded) => 2,
            (Some(item), _) if item.context() == Some(decoded) => 1,
            _ => 0,
        }
    }

    /// When the worker began its item, as it recorded itself: a hint.
    fn began(&self) -> Option<Instant> {
        let ago = clock::monotonic_ns().saturating_sub(self.memory.cell(Cell::BeganNs).load(Ordering::Relaxed));
        Instant::now().checked_sub(Duration::from_nanos(ago))
    }

    /// The number of orders known to be executed, in total.
    pub(crate) fn executed(&self) -> u64 {
        self.executed
    }
}
