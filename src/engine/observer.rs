//! What the engine notes for those who watch the pool: totals, calls, events, and the record of a timeline.
//!
//! Everything here is a hint for people. No decision depends on it. What is not asked for costs a comparison.

use std::sync::Arc;

use crate::engine::effects::Effects;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::observe::event::Departure;
use crate::observe::event::Event;
use crate::observe::record::Mark;
use crate::observe::record::Outcome;
use crate::observe::record::What;
use crate::observe::recorder::Recorder;
use crate::observe::stats::Totals;
use crate::observe::times::Answered;
use crate::schedule::WorkerId;
use crate::schedule::load::ItemId;
use crate::sys::clock;
use crate::sys::id_hasher::IdMap;
use crate::work::batch::JobId;

/// What is noted of a call.
#[derive(Debug)]
struct ObservedCall {
    label: Option<Arc<str>>,
    errors: u64,
}

/// A worker, for those who watch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) worker: WorkerId,
    pub(super) lane: u32,
    pub(super) pid: u32,
}

/// What the engine notes.
#[derive(Debug, Default)]
pub(super) struct Observer {
    pub(super) totals: Totals,
    /// The unfinished calls: all if events are told or a timeline is recorded, else those that have a label.
    calls: IdMap<JobId, ObservedCall>,
    is_told: bool,
    pub(super) recorder: Option<Box<Recorder>>,
}

impl Observer {
    /// An observer that tells events, if `is_told`, and records so many runs of items.
    pub(super) fn new(is_told: bool, record: Option<usize>) -> Self {
        let recorder = record.map(|runs| Box::new(Recorder::new(runs, clock::monotonic_ns())));
        Self { is_told, recorder, ..Self::default() }
    }

    fn tell(&self, effects: &mut Effects, event: impl FnOnce() -> Event) {
        if self.is_told {
            effects.events.push(event());
        }
    }

    fn record(&mut self, record: impl FnOnce(&mut Recorder, u64)) {
        if let Some(recorder) = &mut self.recorder {
            record(recorder, clock::monotonic_ns());
        }
    }

    /// A call begins.
    pub(super) fn call_began(&mut self, id: JobId, label: Option<&str>, effects: &mut Effects) {
        if label.is_none() && !self.is_told && self.recorder.is_none() {
            return;
        }
        let label: Option<Arc<str>> = label.map(Arc::from);
        self.tell(effects, || Event::CallBegan { call: id.0, label: label.clone() });
        self.record(|recorder, now| recorder.call_began(id.0, label.clone(), now));
        self.calls.insert(id, ObservedCall { label, errors: 0 });
    }

    /// Every item of the call has an outcome.
    pub(super) fn call_ended(&mut self, id: JobId, items: u64, effects: &mut Effects) {
        if self.calls.is_empty() {
            return;
        }
        let Some(ObservedCall { label, errors }) = self.calls.remove(&id) else { return };
        self.record(|recorder, now| recorder.call_ended(id.0, items, errors, now));
        self.tell(effects, || Event::CallEnded { call: id.0, label, items, errors });
    }

    pub(super) fn label(&self, id: JobId) -> Option<Arc<str>> {
        match self.calls.is_empty() {
            true => None,
            false => self.calls.get(&id)?.label.clone(),
        }
    }

    /// A worker has been started.
    pub(super) fn started(&mut self, Who { worker, lane, pid }: Who, effects: &mut Effects) {
        self.totals.workers_started += 1;
        self.record(|recorder, now| recorder.started(worker.0, lane, pid, now));
        self.tell(effects, || Event::WorkerStarted { pid, lane });
    }

    /// A worker is ready.
    pub(super) fn up(&mut self, Who { worker, lane, pid }: Who, effects: &mut Effects) {
        self.record(|recorder, now| recorder.mark(worker.0, What::Up, now));
        self.tell(effects, || Event::WorkerUp { pid, lane });
    }

    /// A worker could not be started.
    pub(super) fn start_failed(&mut self, error: &PoolError, effects: &mut Effects) {
        self.totals.starts_failed += 1;
        self.tell(effects, || Event::StartFailed { error: error.clone() });
    }

    /// A worker is gone, and with it the item that it was running, if any.
    pub(super) fn left(&mut self, who: Who, how: Departure, cut_off: Option<ItemId>, effects: &mut Effects) {
        let Who { worker, lane, pid } = who;
        let total = match how {
            Departure::Stopped => &mut self.totals.workers_stopped,
            Departure::Recycled => &mut self.totals.workers_recycled,
            Departure::Died(_) => &mut self.totals.workers_died,
            Departure::TimedOut => &mut self.totals.workers_timed_out,
            Departure::Cancelled => &mut self.totals.workers_cancelled,
            Departure::Spoilt => &mut self.totals.workers_spoilt,
        };
        *total += 1;
        let outcome = match how {
            Departure::TimedOut => Outcome::TimedOut,
            Departure::Cancelled => Outcome::Cancelled,
            _ => Outcome::Lost,
        };
        let cut_off = cut_off.map(|item| Answered { call: item.job.0, first: item.index, items: 1, outcome });
        self.record(|recorder, now| recorder.gone(worker.0, how, cut_off, now));
        self.tell(effects, || Event::WorkerGone { pid, lane, how });
    }

    /// An item that was lost with its worker is run again.
    pub(super) fn retried(&mut self, who: Who, item: ItemId, effects: &mut Effects) {
        self.totals.retries += 1;
        let label = self.label(item.job);
        let what = What::Retried { call: item.job.0, index: item.index };
        self.record(|recorder, at| recorder.mark_of(Mark { at, lane: who.lane, pid: who.pid, what }));
        self.tell(effects, || Event::ItemRetried { call: item.job.0, label, index: item.index });
    }

    /// An item has run for long, and still runs.
    pub(super) fn slow(&mut self, who: Who, item: ItemId, running: std::time::Duration, effects: &mut Effects) {
        let (call, index, label) = (item.job.0, item.index, self.label(item.job));
        self.record(|recorder, now| recorder.mark(who.worker.0, What::Slow { call, index }, now));
        self.tell(effects, || Event::ItemSlow { call, label, index, pid: who.pid, running });
    }

    /// Items have values.
    #[inline]
    pub(super) fn values(&mut self, items: u32) {
        self.totals.items_done += u64::from(items);
    }

    /// An item has an error.
    pub(super) fn error(&mut self, id: JobId, index: u64, error: &TaskError, effects: &mut Effects) {
        self.errors(id, 1, error);
        let is_told = match error {
            TaskError::Cancelled | TaskError::Skipped | TaskError::Terminated | TaskError::Refused(_) => false,
            _ => self.is_told,
        };
        if is_told {
            let label = self.label(id);
            effects.events.push(Event::ItemFailed { call: id.0, label, index, error: error.clone() });
        }
    }

    /// So many items of a call have this error, and are not told one by one.
    pub(super) fn errors(&mut self, id: JobId, items: u64, error: &TaskError) {
        let total = match error {
            TaskError::WorkerDied { .. } => &mut self.totals.items_lost,
            TaskError::TimedOut { .. } => &mut self.totals.items_timed_out,
            TaskError::Cancelled | TaskError::Skipped => &mut self.totals.items_cancelled,
            TaskError::Terminated | TaskError::Refused(_) => &mut self.totals.items_terminated,
            _ => &mut self.totals.items_failed,
        };
        *total += items;
        if !self.calls.is_empty()
            && let Some(call) = self.calls.get_mut(&id)
        {
            call.errors += items;
        }
    }

    /// A worker that held nothing is sent work.
    #[inline]
    pub(super) fn employed(&mut self, worker: WorkerId) {
        self.record(|recorder, now| recorder.employed(worker.0, now));
    }
}
