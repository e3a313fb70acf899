//! The workers, as the schedule sees them: where each is in its life, what it holds, who is idle. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use super::WorkerId;
use crate::schedule::load::Load;

/// How long a worker may sit idle while another has more than it runs, before that is recalled.
const RECALL_AFTER: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Starting,
    Ready,
    /// Told to stop: runs what it holds and leaves. Its replacement is already on its way.
    Retiring,
    /// As `Retiring`, but for a reason that leaves no way back.
    Leaving,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) stage: Stage,
    pub(super) load: Load,
    /// Its road took no more; cleared by the next answer or when the road says it has room.
    pub(super) road_full: bool,
    /// When it got ready.
    pub(super) ready_since: Instant,
    /// When it was last seen without work.
    pub(super) idle_since: Instant,
    /// Nothing is recalled from it until then.
    recall_at: Option<Instant>,
}

impl Worker {
    pub(super) fn new(tasks_max: Option<u64>, now: Instant) -> Self {
        let load = Load::new(tasks_max);
        Self { stage: Stage::Starting, load, road_full: false, ready_since: now, idle_since: now, recall_at: None }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.load.is_empty()
    }

    /// A recall is on its way, so that the next one, should that bring nothing, has its time.
    pub(super) fn recalled(&mut self, now: Instant) {
        self.recall_at = Some(now + RECALL_AFTER);
    }
}

/// All workers that are alive.
#[derive(Debug, Default)]
pub(super) struct Roster(BTreeMap<WorkerId, Worker>);

impl Roster {
    pub(super) fn insert(&mut self, id: WorkerId, worker: Worker) {
        let before = self.0.insert(id, worker);
        assert!(before.is_none(), "a worker starts once");
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.0.remove(&id)
    }

    pub(super) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.0.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.0.get_mut(&id)
    }

    /// A worker that is known to live.
    pub(super) fn member(&mut self, id: WorkerId) -> &mut Worker {
        self.0.get_mut(&id).expect("decisions are about live workers")
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Worker> {
        self.0.values()
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.0.values_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that fit, oldest first.
    pub(super) fn ids(&self, wanted: impl Fn(&Worker) -> bool) -> Vec<WorkerId> {
        self.0.iter().filter(|(_, worker)| wanted(worker)).map(|(&id, _)| id).collect()
    }

    /// How many hold work.
    pub(super) fn busy(&self) -> usize {
        self.all().filter(|worker| !worker.load.is_empty()).count()
    }

    /// How many stay.
    pub(super) fn staying(&self) -> usize {
        self.all().filter(|worker| matches!(worker.stage, Stage::Starting | Stage::Ready)).count()
    }

    /// How many are not ready yet.
    pub(super) fn starting(&self) -> usize {
        self.all().filter(|worker| worker.stage == Stage::Starting).count()
    }

    /// The one that has been idle for the longest time, and since when.
    pub(super) fn idlest(&self) -> Option<(WorkerId, Instant)> {
        let idle = self.0.iter().filter(|(_, worker)| worker.is_idle());
        idle.map(|(&id, worker)| (id, worker.idle_since)).min_by_key(|&(_, since)| since)
    }

    /// The one that has been ready for the longest time, and since when.
    pub(super) fn oldest(&self) -> Option<(WorkerId, Instant)> {
        let ready = self.0.iter().filter(|(_, worker)| worker.stage == Stage::Ready);
        ready.map(|(&id, worker)| (id, worker.ready_since)).min_by_key(|&(_, since)| since)
    }

    /// The one whose leaving costs least: idle, not ready, or with the least to do.
    pub(super) fn most_dispensable(&self) -> Option<WorkerId> {
        let staying = self.0.iter().filter(|(_, worker)| matches!(worker.stage, Stage::Starting | Stage::Ready));
        let cost = |worker: &Worker| if worker.is_idle() { 0 } else { worker.load.items().max(1) };
        staying.min_by_key(|&(&id, worker)| (cost(worker), Reverse(id))).map(|(&id, _)| id)
    }

    /// When somebody has had more than it runs for so long that another worker should share it.
    pub(super) fn backed_up(&self) -> Option<Instant> {
        let waiting = self.all().filter(|worker| worker.load.items() > 1);
        waiting.filter_map(|worker| worker.load.last_sent_at()).min().map(|sent_at| sent_at + RECALL_AFTER)
    }

    /// Those whose item in front must be looked at, and when.
    pub(super) fn checks_due(&self) -> impl Iterator<Item = (WorkerId, Instant)> {
        self.0.iter().filter_map(|(&id, worker)| Some((id, worker.load.check_due()?)))
    }

    /// The worker from which work should come back because somebody is idle, and when.
    pub(super) fn recall(&self) -> Option<(WorkerId, Instant)> {
        let idle_since = self.all().filter(|worker| worker.is_idle()).map(|worker| worker.idle_since).min()?;
        let due = |worker: &Worker| {
            let since = idle_since.max(worker.load.last_sent_at()?);
            Some((since + RECALL_AFTER).max(worker.recall_at.unwrap_or(since)))
        };
        self.0
            .iter()
            .filter(|(_, worker)| worker.load.items() > 1)
            .filter_map(|(&id, worker)| Some((id, due(worker)?)))
            .min_by_key(|&(_, due)| due)
    }
}
