//! Taking back what the worker has not begun.
//!
//! Also called: work stealing.

use std::sync::atomic::Ordering;

use super::Broken;
use super::Cell;
use super::Contents;
use super::ParentEnd;
use super::View;
use super::Wake;
use crate::transport::frame;
use crate::transport::note::Note;

/// What was taken back.
#[derive(Debug, Default)]
pub(crate) struct Recalled {
    /// How many of the last items that were sent.
    pub(crate) items: u64,
    pub(crate) notes: Vec<Note>,
    /// Whether descriptors travelled beside any of it.
    pub(crate) has_attachments: bool,
}

impl ParentEnd {
    /// Takes back everything that the worker has not begun.
    pub(crate) fn recall(&mut self) -> Result<Recalled, Broken> {
        let view = self.ledger().hold();
        let checked = self.check(view);
        let records = match checked {
            Ok(()) => {
                self.shown = view.done();
                self.sent.since(view.done()) - u32::from(view.has_begun()) - self.records_bound(view)
            }
            Err(_) => 0,
        };
        let unbegun = self.take_back(records);
        // In this order, each Release paired with an Acquire in the worker's `record` and `copy`: a worker that has seen the
        // recall cannot copy ahead what the recall took back.
        self.memory.cell(Cell::Sent).store(self.down_write, Ordering::Release);
        self.memory.cell(Cell::Recalls).fetch_add(1, Ordering::Release);
        if self.ledger().release(records) == Wake::Needed {
            self.memory.ring();
        }
        checked.map(|()| unbegun)
    }

    fn take_back(&mut self, records: u32) -> Recalled {
        let mut unbegun = Recalled::default();
        let mut left = records;
        while left > 0 {
            let Some(mut entry) = self.in_flight.pop_back() else {
                unreachable!("every record in flight has an entry")
            };
            let start = self.in_flight.back().map_or(self.down_read, |before| before.end);
            match entry.contents {
                Contents::Items(ref mut span) => {
                    let taken = left.min(span.len());
                    unbegun.items += u64::from(taken);
                    left -= taken;
                    let bytes = span.cut_back(taken);
                    entry.end -= bytes;
                    self.down_write = entry.end;
                    if !span.is_empty() {
                        self.in_flight.push_back(entry);
                    }
                    continue;
                }
                Contents::AttachedItem { .. } => {
                    unbegun.items += 1;
                    unbegun.has_attachments = true;
                }
                Contents::Select => {}
                Contents::Note(note) => {
                    unbegun.has_attachments |= note.attached.is_some();
                    unbegun.notes.push(note);
                }
            }
            left -= 1;
            self.down_write = start;
        }
        unbegun.notes.reverse();
        self.sent = self.sent.minus(records);
        if records > 0 {
            self.selected = None;
        }
        unbegun
    }

    /// How many records behind the one that the worker has begun belong to it: if that is a context, the item that waits
    /// for it, and the choice of its function. An item begins when the decoding of its context does.
    fn records_bound(&self, view: View) -> u32 {
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
}
