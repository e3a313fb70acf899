//! The workers as the schedule sees them: the stage of each in its life, what it holds, and which are idle. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::schedule::load::Load;
use crate::schedule::worker_id::WorkerId;

/// How long a worker may be idle while another holds more than it runs, before that work is recalled.
const RECALL_AFTER: Duration = Duration::from_millis(1);

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Starting,
    Ready,
    /// Told to stop: it runs what it holds and leaves. Its replacement is being started already.
    Retiring,
    /// As `Retiring`, but for good: a refused frame does not make it `Ready` again.
    Leaving,
}

/// One worker.
#[derive(Debug)]
pub(super) struct RosterEntry {
    pub(super) stage: Stage,
    pub(super) load: Load,
    /// Its link has refused a frame. Cleared by the next answer, or when the link reports that it has room.
    pub(super) link_full: bool,
    /// When it became ready.
    pub(super) ready_since: Instant,
    /// When it was last seen to run out of work.
    pub(super) idle_since: Instant,
    /// When work may next be recalled from it.
    recall_at: Option<Instant>,
}

impl RosterEntry {
    pub(super) fn new(tasks_max: Option<u64>, now: Instant) -> Self {
        let load = Load::new(tasks_max);
        Self { stage: Stage::Starting, load, link_full: false, ready_since: now, idle_since: now, recall_at: None }
    }

    /// Whether nothing has been decided that makes it leave.
    pub(super) fn is_staying(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Ready)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.load.is_empty()
    }

    /// A recall was decided. If it returns nothing, the next one waits its time.
    pub(super) fn recalled(&mut self, now: Instant) {
        self.recall_at = Some(now + RECALL_AFTER);
    }
}

/// All workers that are alive.
#[derive(Debug, Default)]
pub(super) struct Roster(BTreeMap<WorkerId, RosterEntry>);

impl Roster {
    pub(super) fn insert(&mut self, id: WorkerId, entry: RosterEntry) {
        let before = self.0.insert(id, entry);
        assert!(before.is_none(), "a worker starts once");
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<RosterEntry> {
        self.0.remove(&id)
    }

    pub(super) fn get(&self, id: WorkerId) -> Option<&RosterEntry> {
        self.0.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: WorkerId) -> Option<&mut RosterEntry> {
        self.0.get_mut(&id)
    }

    /// The entry of a worker that is known to be alive.
    pub(super) fn entry(&mut self, id: WorkerId) -> &mut RosterEntry {
        self.0.get_mut(&id).expect("decisions are about live workers")
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &RosterEntry> {
        self.0.values()
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut RosterEntry> {
        self.0.values_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids of the wanted workers, oldest first.
    pub(super) fn ids(&self, wanted: impl Fn(&RosterEntry) -> bool) -> Vec<WorkerId> {
        self.0.iter().filter(|(_, entry)| wanted(entry)).map(|(&id, _)| id).collect()
    }

    /// How many workers hold work.
    pub(super) fn busy(&self) -> usize {
        self.all().filter(|entry| !entry.load.is_empty()).count()
    }

    /// How many workers stay.
    pub(super) fn staying(&self) -> usize {
        self.all().filter(|entry| entry.is_staying()).count()
    }

    /// How many workers are not ready yet.
    pub(super) fn starting(&self) -> usize {
        self.all().filter(|entry| entry.stage == Stage::Starting).count()
    }

    /// The worker that has been idle for the longest time, and since when.
    pub(super) fn idlest(&self) -> Option<(WorkerId, Instant)> {
        let idle = self.0.iter().filter(|(_, entry)| entry.is_idle());
        idle.map(|(&id, entry)| (id, entry.idle_since)).min_by_key(|&(_, since)| since)
    }

    /// The worker that has been ready for the longest time, and since when.
    pub(super) fn oldest(&self) -> Option<(WorkerId, Instant)> {
        let ready = self.0.iter().filter(|(_, entry)| entry.stage == Stage::Ready);
        ready.map(|(&id, entry)| (id, entry.ready_since)).min_by_key(|&(_, since)| since)
    }

    /// The worker whose leaving costs least: an idle one, one that is not ready, or the one with the fewest items.
    pub(super) fn most_dispensable(&self) -> Option<WorkerId> {
        let staying = self.0.iter().filter(|(_, entry)| entry.is_staying());
        let cost = |entry: &RosterEntry| if entry.is_idle() { 0 } else { entry.load.items().max(1) };
        staying.min_by_key(|&(&id, entry)| (cost(entry), Reverse(id))).map(|(&id, _)| id)
    }

    /// When a worker will have held more than it runs for so long that another worker should share it.
    pub(super) fn backed_up(&self) -> Option<Instant> {
        let waiting = self.all().filter(|entry| entry.load.items() > 1);
        waiting.filter_map(|entry| entry.load.last_sent_at()).min().map(|sent_at| sent_at + RECALL_AFTER)
    }

    /// The workers whose item has a time limit, and when it must be checked.
    pub(super) fn checks_due(&self) -> impl Iterator<Item = (WorkerId, Instant)> {
        self.0.iter().filter_map(|(&id, entry)| Some((id, entry.load.check_due()?)))
    }

    /// The worker from which work should be recalled because another is idle, and when.
    pub(super) fn recall(&self) -> Option<(WorkerId, Instant)> {
        let idle_since = self.all().filter(|entry| entry.is_idle()).map(|entry| entry.idle_since).min()?;
        let due = |entry: &RosterEntry| {
            let since = idle_since.max(entry.load.last_sent_at()?);
            Some((since + RECALL_AFTER).max(entry.recall_at.unwrap_or(since)))
        };
        self.0
            .iter()
            .filter(|(_, entry)| entry.load.items() > 1)
            .filter_map(|(&id, entry)| Some((id, due(entry)?)))
            .min_by_key(|&(_, due)| due)
    }
}
