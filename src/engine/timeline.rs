//! The record of a timeline: what the engine adds to it, and how it is read.

use std::time::Instant;

use crate::engine::state::Engine;
use crate::observe::record::Depth;
use crate::observe::record::Outcome;
use crate::observe::record::Records;
use crate::observe::times::Answered;
use crate::schedule::WorkerId;
use crate::schedule::load::ItemId;
use crate::sys::clock;
use crate::transport::arrival::Arrival;
use crate::transport::frame::AnswerKind;
use crate::work::function::Completion;
use crate::work::progress::Progress;
use crate::work::progress::RunTime;

/// What the items of an arrival have come to.
pub(super) fn outcome_of(arrival: &Arrival<'_>) -> Outcome {
    const VALUE: AnswerKind = AnswerKind::Completion(Completion::Value);
    match arrival {
        Arrival::Values { .. } => Outcome::Value,
        Arrival::Answer { kind, .. } | Arrival::Attached { kind, .. } if *kind == VALUE => Outcome::Value,
        Arrival::Answer { .. } | Arrival::Attached { .. } => Outcome::Failed,
    }
}

impl Engine {
    /// Answers to these items were taken out of the link of a worker.
    pub(super) fn record_answers(&mut self, worker: WorkerId, item: ItemId, items: u32, outcome: Outcome) {
        let Some(recorder) = &mut self.observer.recorder else { return };
        let Some(handle) = self.workers.get(worker) else { return };
        let records = handle.link.records().map_or(handle.items_done, |(received, _)| received);
        let answered = Answered { call: item.job.0, first: item.index, items, outcome };
        recorder.answered(worker.0, answered, records, clock::monotonic_ns());
    }

    /// All answers that have come were taken in: takes the worker's stamps as well.
    pub(super) fn record_times(&mut self, worker: WorkerId) {
        let Some(recorder) = &mut self.observer.recorder else { return };
        if let Some(handle) = self.workers.get_mut(worker) {
            handle.link.take_stamps(&mut recorder.stamps);
            recorder.stamped(worker.0, handle.link.records(), clock::monotonic_ns());
        }
        self.record_depth();
    }

    /// The depth of the queue has changed.
    pub(super) fn record_depth(&mut self) {
        let Some(recorder) = &mut self.observer.recorder else { return };
        let now = clock::monotonic_ns();
        if recorder.depth_is_due(now) {
            let queued = self.schedule.queued();
            let held = self.observer.totals.unsettled().saturating_sub(queued);
            recorder.depth(Depth { at: now, queued, held });
        }
    }

    /// The record so far; nothing if none is kept.
    pub(crate) fn records(&mut self) -> Records {
        if self.observer.recorder.is_none() {
            return Records::default();
        }
        let workers: Vec<WorkerId> = self.workers.iter().map(|(worker, _)| worker).collect();
        workers.iter().for_each(|&worker| self.record_times(worker));
        let now_ns = clock::monotonic_ns();
        let running: Vec<_> = workers.iter().filter_map(|&worker| self.running_now(worker, now_ns)).collect();
        let recorder = self.observer.recorder.as_ref().expect("it was there");
        recorder.records(&running, now_ns)
    }

    /// The item that a worker runs, and since when if that is known.
    fn running_now(&self, worker: WorkerId, now_ns: u64) -> Option<(u64, Answered, Option<u64>)> {
        let handle = self.workers.get(worker)?;
        let item = self.schedule.running(worker)?;
        let Progress::Runs { .. } = handle.link.progress() else { return None };
        let since = match handle.link.run_time(now_ns) {
            Some(RunTime { at_most, is_exact: true }) => {
                Some(now_ns.saturating_sub(u64::try_from(at_most.as_nanos()).unwrap_or(u64::MAX)))
            }
            _ => None,
        };
        let answered = Answered { call: item.job.0, first: item.index, items: 1, outcome: Outcome::Running };
        Some((worker.0, answered, since))
    }

    /// Tells of items that have run for long, and sets the next time to look.
    pub(super) fn check_slow(&mut self, now: Instant) {
        for worker in self.schedule.loaded() {
            // Its answer may be there already.
            self.receive_all(worker);
            self.schedule.after_settled(now);
            let running = self.schedule.running(worker);
            let Some(handle) = self.workers.get(worker) else { continue };
            let who = handle.who(worker);
            let began = match handle.link.progress() {
                Progress::Runs { since } => since,
                Progress::Waits | Progress::Prepares => continue,
            };
            let Some(item) = running else { continue };
            let Some(slow) = &mut self.slow else { return };
            if let Some(time) = slow.look(worker, item, began, now) {
                self.observer.slow(who, item, time, &mut self.effects);
            }
        }
        let loaded = self.schedule.loaded();
        if let Some(slow) = &mut self.slow {
            slow.rearm(&loaded, now);
        }
    }
}
