//! Jobs and workers as the model has them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::work::batch::Span;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::Grain;

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

#[derive(Debug, Default)]
pub(super) struct ModelWorker {
    pub(super) ready: bool,
    /// On the road, in order.
    pub(super) unread: VecDeque<(FrameNumber, Span)>,
    /// Read, and not answered yet.
    pub(super) reading: Option<Span>,
    pub(super) stop_sent: bool,
    pub(super) dismissed: bool,
    /// Its road is full and has not said since that it has room.
    pub(super) full: bool,
    /// Items it was ever made to begin.
    pub(super) begun: u64,
}

impl ModelWorker {
    /// Takes the next frame off the road, or the next item where items come one by one.
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
