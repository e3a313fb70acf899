//! The jobs and workers of the model.

use std::collections::VecDeque;
use std::time::Duration;

use crate::work::batch::Span;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::Grain;

/// How often an item was started, and how many outcomes it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ItemState {
    pub(super) started: u32,
    pub(super) outcomes: u32,
}

#[derive(Debug, Default)]
pub(super) struct ModelJob {
    pub(super) items: Vec<ItemState>,
    pub(super) retries: u32,
    pub(super) timeout: Option<Duration>,
    pub(super) cancelled: bool,
    pub(super) feeding: bool,
    pub(super) sealed: bool,
    pub(super) removed: bool,
}

impl ModelJob {
    /// An item is settled without having run.
    pub(super) fn check_dropped(&self, index: u64) {
        let has_begun = self.items[usize::try_from(index).unwrap()].started > 0;
        assert!(self.retries > 0 || !has_begun, "no item that has begun is dropped");
    }

    /// Whether an item has neither begun nor an outcome.
    pub(super) fn waits(&self) -> bool {
        self.items.iter().any(|item| item.started == 0 && item.outcomes == 0)
    }
}

#[derive(Debug, Default)]
pub(super) struct ModelWorker {
    pub(super) ready: bool,
    /// Frames in the link, in order.
    pub(super) unread: VecDeque<(FrameNumber, Span)>,
    /// What it has read and not answered yet.
    pub(super) reading: Option<Span>,
    pub(super) stop_sent: bool,
    pub(super) dismissed: bool,
    /// Its link is full and has not reported since that it has room.
    pub(super) full: bool,
    /// How many items it has begun in its life.
    pub(super) begun: u64,
}

impl ModelWorker {
    /// Takes the next frame out of the link, or the next item if items are read one by one.
    pub(super) fn read_next(&mut self, grain: Grain) {
        let Some((number, mut span)) = self.unread.pop_front() else { return };
        if grain == Grain::Item {
            let item = span.split_front(1);
            if !span.is_empty() {
                self.unread.push_front((number, span));
            }
            span = item;
        }
        self.reading = Some(span);
    }
}
