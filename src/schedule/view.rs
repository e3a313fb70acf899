//! What the schedule shows of itself: numbers, and each worker's state. Decides nothing.

use std::time::Instant;

use crate::schedule::load::ItemId;
use crate::schedule::roster::RosterEntry;
use crate::schedule::roster::Stage;
use crate::schedule::state::Schedule;
use crate::schedule::worker_id::WorkerId;

/// A worker as the schedule sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerView {
    pub(crate) is_starting: bool,
    /// It gets nothing more.
    pub(crate) is_leaving: bool,
    /// It leaves to be replaced: after its share of items, for its age or memory, or to stop an item.
    pub(crate) is_recycled: bool,
    /// How many items it holds, and the one that it must answer next.
    pub(crate) held: u64,
    pub(crate) running: Option<ItemId>,
    /// That item cannot have begun before.
    pub(crate) running_since: Option<Instant>,
}

impl WorkerView {
    fn of(entry: &RosterEntry) -> Self {
        Self {
            is_starting: entry.stage == Stage::Starting,
            is_leaving: !entry.is_staying(),
            is_recycled: entry.is_recycled || entry.load.allowance() == Some(0),
            held: entry.load.items(),
            running: entry.load.running(),
            running_since: entry.load.running_since(),
        }
    }
}

impl Schedule {
    /// The worker, if it is alive.
    pub(crate) fn view(&self, worker: WorkerId) -> Option<WorkerView> {
        self.roster.get(worker).map(WorkerView::of)
    }

    /// All workers, in the order in which they were started.
    pub(crate) fn views(&self) -> impl Iterator<Item = (WorkerId, WorkerView)> {
        self.roster.iter().map(|(id, entry)| (id, WorkerView::of(entry)))
    }

    /// How many items no worker holds.
    pub(crate) fn queued(&self) -> u64 {
        self.backlog.queued_items()
    }

    /// The items that were lost with their worker and are run again, since the last call.
    pub(crate) fn take_retried(&mut self) -> Vec<ItemId> {
        self.backlog.take_retried()
    }
}
