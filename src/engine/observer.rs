//! What the engine notes for those who watch the pool: totals, and the labels of calls.
//!
//! Everything here is a hint for people. No decision depends on it.

use std::sync::Arc;

use crate::error::TaskError;
use crate::observe::stats::Totals;
use crate::sys::id_hasher::IdMap;
use crate::work::batch::JobId;

/// What is noted of a call.
#[derive(Debug)]
struct ObservedCall {
    label: Option<Arc<str>>,
}

/// What the engine notes.
#[derive(Debug, Default)]
pub(super) struct Observer {
    pub(super) totals: Totals,
    /// The unfinished calls that have a label.
    calls: IdMap<JobId, ObservedCall>,
}

/// How a worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    Stopped,
    Recycled,
    Died,
    TimedOut,
    Cancelled,
    Spoilt,
}

impl Observer {
    /// A call begins.
    pub(super) fn call_began(&mut self, id: JobId, label: Option<&str>) {
        if label.is_some() {
            self.calls.insert(id, ObservedCall { label: label.map(Arc::from) });
        }
    }

    /// Every item of the call has an outcome.
    pub(super) fn call_ended(&mut self, id: JobId) {
        if !self.calls.is_empty() {
            self.calls.remove(&id);
        }
    }

    pub(super) fn label(&self, id: JobId) -> Option<Arc<str>> {
        match self.calls.is_empty() {
            true => None,
            false => self.calls.get(&id)?.label.clone(),
        }
    }

    /// A worker is gone.
    pub(super) fn left(&mut self, gone: Gone) {
        let total = match gone {
            Gone::Stopped => &mut self.totals.workers_stopped,
            Gone::Recycled => &mut self.totals.workers_recycled,
            Gone::Died => &mut self.totals.workers_died,
            Gone::TimedOut => &mut self.totals.workers_timed_out,
            Gone::Cancelled => &mut self.totals.workers_cancelled,
            Gone::Spoilt => &mut self.totals.workers_spoilt,
        };
        *total += 1;
    }

    /// Items have values.
    #[inline]
    pub(super) fn values(&mut self, items: u32) {
        self.totals.items_done += u64::from(items);
    }

    /// An item has an error.
    pub(super) fn error(&mut self, error: &TaskError) {
        *self.total_of(error) += 1;
    }

    /// Items have no outcome and will have none but this one.
    pub(super) fn errors(&mut self, items: u64, error: &TaskError) {
        *self.total_of(error) += items;
    }

    fn total_of(&mut self, error: &TaskError) -> &mut u64 {
        match error {
            TaskError::WorkerDied { .. } => &mut self.totals.items_lost,
            TaskError::TimedOut { .. } => &mut self.totals.items_timed_out,
            TaskError::Cancelled | TaskError::Skipped => &mut self.totals.items_cancelled,
            TaskError::Terminated | TaskError::Refused(_) => &mut self.totals.items_terminated,
            _ => &mut self.totals.items_failed,
        }
    }
}
