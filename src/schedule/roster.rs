//! The workers as the schedule sees them: the stage of each in its life, what it holds, and which are idle. Pure.
//!
//! A decision asks for one worker with some property: the one that has been idle for the longest time, the one with the
//! least work. So the roster keeps an index of each such property, and is the only place where a worker changes:
//! [`change`](Roster::change) lets the caller change one, and brings the indices up to date. No decision walks over all
//! workers.

mod entry;
mod indices;
mod marks;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

pub(super) use self::entry::RosterEntry;
pub(super) use self::entry::Stage;
use self::indices::Indices;
use crate::schedule::stop_number::StopNumber;
use crate::schedule::worker_id::WorkerId;
use crate::work::batch::JobId;
use crate::work::unbegun::FrameNumber;

/// How long a worker may be idle while another holds more than it runs, before that work is recalled.
const RECALL_AFTER: Duration = Duration::from_millis(1);
/// How long a worker may take to begin its only item while another is idle, before the item is recalled: longer than a
/// processor that is shared usually keeps a process waiting. It doubles each time that an item is recalled, up to the
/// maximum, and starts anew when an item is answered: if all processes are slow, items must not wander for ever.
const LONE_RECALL_AFTER: Duration = Duration::from_millis(10);
const LONE_RECALL_DOUBLINGS: u32 = 10;

/// All workers that are alive.
#[derive(Debug, Default)]
pub(super) struct Roster {
    entries: BTreeMap<WorkerId, RosterEntry>,
    indices: Indices,
    /// How often a lone item was recalled since an item was last answered.
    lone_recalls: u32,
}

impl Roster {
    pub(super) fn insert(&mut self, id: WorkerId, mut entry: RosterEntry) {
        self.indices.add(id, &mut entry);
        let before = self.entries.insert(id, entry);
        assert!(before.is_none(), "a worker starts once");
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<RosterEntry> {
        let entry = self.entries.remove(&id)?;
        self.indices.remove(id, &entry);
        Some(entry)
    }

    pub(super) fn get(&self, id: WorkerId) -> Option<&RosterEntry> {
        self.entries.get(&id)
    }

    /// All workers, in the order in which they were started.
    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, &RosterEntry)> {
        self.entries.iter().map(|(&id, entry)| (id, entry))
    }

    /// Changes a worker; `None` if there is no such worker.
    #[inline]
    pub(super) fn change<R>(&mut self, id: WorkerId, change: impl FnOnce(&mut RosterEntry) -> R) -> Option<R> {
        let entry = self.entries.get_mut(&id)?;
        let result = change(entry);
        self.indices.update(id, entry);
        Some(result)
    }

    /// As [`change`](Self::change), for a worker that is known to be alive.
    #[inline]
    pub(super) fn change_live<R>(&mut self, id: WorkerId, change: impl FnOnce(&mut RosterEntry) -> R) -> R {
        self.change(id, change).expect("decisions are about live workers")
    }

    /// No worker holds anything any more: the pool has ended.
    pub(super) fn clear_loads(&mut self) {
        for (&id, entry) in &mut self.entries {
            entry.load.clear();
            self.indices.update(id, entry);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The workers that hold items of the job.
    pub(super) fn holders(&self, job: JobId) -> Vec<WorkerId> {
        self.entries.iter().filter(|(_, entry)| entry.load().holds(job)).map(|(&id, _)| id).collect()
    }

    /// The workers that hold items.
    pub(super) fn loaded(&self) -> Vec<WorkerId> {
        self.entries.iter().filter(|(_, entry)| !entry.load().is_empty()).map(|(&id, _)| id).collect()
    }

    /// Whether the worker is to hold the frame: if not, it was taken back before it was sent.
    pub(super) fn is_to_hold(&self, worker: WorkerId, number: FrameNumber) -> bool {
        self.get(worker).is_some_and(|entry| entry.load().is_in_flight(number))
    }

    /// Whether the stop was not withdrawn.
    pub(super) fn is_to_stop(&self, worker: WorkerId, stop: StopNumber) -> bool {
        self.get(worker).is_some_and(|entry| entry.stop == stop)
    }

    /// How many workers hold work.
    pub(super) fn busy(&self) -> usize {
        self.indices.busy
    }

    /// How many workers stay.
    pub(super) fn staying(&self) -> usize {
        self.indices.starting + self.indices.ready.len()
    }

    /// How many workers are not ready yet.
    pub(super) fn starting(&self) -> usize {
        self.indices.starting
    }

    /// Whether any worker is ready, or was and is about to leave.
    pub(super) fn has_served(&self) -> bool {
        self.entries.len() > self.indices.starting
    }

    /// The workers that are ready, the one that has been for the longest time first.
    pub(super) fn ready(&self) -> Vec<WorkerId> {
        self.indices.ready.iter().map(|&(_, id)| id).collect()
    }

    /// The worker that has run out of work last, if that can be sent some: its memory is still in the caches, and the
    /// others can be found to have been idle for too long.
    pub(super) fn to_employ(&self) -> Option<WorkerId> {
        self.indices.idle.last()
    }

    /// The busy worker with the least work ahead, if that may be sent more.
    pub(super) fn lightest(&self) -> Option<WorkerId> {
        self.indices.light.first().map(|&(_, id)| id)
    }

    /// The worker that has been idle for the longest time, and since when.
    pub(super) fn idlest(&self) -> Option<(WorkerId, Instant)> {
        let id = self.indices.idle.first()?;
        Some((id, self.entries.get(&id)?.idle_since))
    }

    /// The worker that has been ready for the longest time, and since when.
    pub(super) fn oldest(&self) -> Option<(WorkerId, Instant)> {
        self.indices.ready.first().map(|&(since, id)| (id, since))
    }

    /// The workers whose leaving costs least: idle ones, then those that are not ready or have the fewest items.
    pub(super) fn most_dispensable(&self, count: usize) -> Vec<WorkerId> {
        let mut workers = self.indices.idle.oldest(count);
        if workers.len() < count {
            let mut others: Vec<_> = self.entries.iter().filter(|(_, entry)| entry.is_staying_busy()).collect();
            others.sort_by_key(|&(&id, entry)| (entry.load().items().max(1), Reverse(id)));
            workers.extend(others.into_iter().map(|(&id, _)| id).take(count - workers.len()));
        }
        workers
    }

    /// When a worker will have held more than it runs for so long that another worker should share it.
    pub(super) fn backed_up(&self) -> Option<Instant> {
        self.indices.stocked.first().map(|&(since, _)| since + RECALL_AFTER)
    }

    /// The worker whose item has a time limit and must be checked first, and when.
    pub(super) fn next_check(&self) -> Option<(WorkerId, Instant)> {
        self.indices.checks.first().map(|&(due, id)| (id, due))
    }

    /// The workers whose item must be checked by now.
    pub(super) fn checks_due(&self, now: Instant) -> Vec<WorkerId> {
        self.indices.checks.iter().take_while(|&&(due, _)| due <= now).map(|&(_, id)| id).collect()
    }

    /// The worker from which work should be recalled because another is idle, and when.
    pub(super) fn recall(&self) -> Option<(WorkerId, Instant)> {
        let (_, idle_since) = self.idlest()?;
        let stocked = self.indices.stocked.first();
        let stocked = stocked.map(|&(since, id)| (id, idle_since.max(since) + RECALL_AFTER));
        let lone = self.indices.lone.first().map(|&(due, id)| (id, due.max(idle_since)));
        stocked.into_iter().chain(lone).min_by_key(|&(_, due)| due)
    }

    /// How long a worker may take to begin its only item.
    pub(super) fn lone_delay(&self) -> Duration {
        LONE_RECALL_AFTER * (1 << self.lone_recalls.min(LONE_RECALL_DOUBLINGS))
    }

    /// A lone item was recalled.
    pub(super) fn lone_recalled(&mut self) {
        self.lone_recalls = self.lone_recalls.saturating_add(1);
    }

    /// Items were answered.
    pub(super) fn answered(&mut self) {
        self.lone_recalls = 0;
    }

    /// The indices, made anew.
    #[cfg(any(test, fuzzing))]
    pub(super) fn check(&self) {
        self.indices.check(&self.entries);
    }
}
