//! The unfinished jobs, and the results of each.
//!
//! Results are kept in a [`Log`] as they arrive: runs of values, and errors, in order of arrival. Nothing is decoded
//! here: the thread that consumes the log decodes it. A job is *finished* when it accepts no more items and every item
//! has a result; then, and only then, its log is complete.

use std::sync::Arc;
use std::task::Waker;

use crate::error::TaskError;
use crate::sys::id_hasher::IdMap;
use crate::sys::waiters::Waiters;
use crate::values::parcel::Parcel;
use crate::work::batch::JobId;
use crate::work::batch::item_head;
use crate::work::function::FunctionId;
use crate::work::group::DrivenBy;
use crate::work::group::Membership;

/// The result of one item, if it is not a small value.
#[derive(Debug)]
pub(crate) enum Settled {
    /// A value that is too large for a frame, or carries descriptors.
    Parcel(Box<Parcel>),
    Error(Box<TaskError>),
}

/// The result of one item, or the results of items with consecutive positions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SettledRef<'a> {
    /// The values of this many items, each behind its length. Bytes that belong to other entries may follow.
    Values {
        items: u32,
        bytes: &'a [u8],
    },
    Parcel(&'a Parcel),
    Error(&'a TaskError),
}

/// Results that arrived together.
#[derive(Debug)]
enum LogEntry {
    /// Values of items with consecutive positions, each behind its length, from `start` on in the bytes of the log.
    Values {
        first: u64,
        items: u32,
        start: usize,
    },
    One {
        index: u64,
        settled: Settled,
    },
}

/// Results in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Vec<LogEntry>,
    bytes: Vec<u8>,
    /// The error of all items without an entry, once the pool has ended.
    pub(crate) rest: Option<Box<TaskError>>,
    /// An entry is an error, other than for a cancellation.
    has_failure: bool,
}

impl Log {
    /// The log of a call that was refused.
    pub(crate) fn refused(error: TaskError) -> Self {
        Self { rest: Some(Box::new(error)), ..Self::default() }
    }

    /// Whether an item has an error, other than for a cancellation. Values are not decoded for this.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failure || self.rest.as_deref().is_some_and(is_failure)
    }

    /// Whether every item was cancelled.
    fn is_cancelled_whole(&self) -> bool {
        let is_cancelled = |entry: &LogEntry| matches!(entry, LogEntry::One { settled: Settled::Error(error), .. } if matches!(**error, TaskError::Cancelled));
        self.rest.is_none() && !self.entries.is_empty() && self.entries.iter().all(is_cancelled)
    }

    /// Whether any item was cancelled.
    pub(crate) fn has_cancelled(&self) -> bool {
        self.outcomes().any(|(_, outcome)| matches!(outcome, SettledRef::Error(TaskError::Cancelled)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.rest.is_none()
    }

    /// The results in order of arrival, each with the position of its first item.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (u64, SettledRef<'_>)> {
        self.entries.iter().map(|entry| match entry {
            LogEntry::Values { first, items, start } => {
                (*first, SettledRef::Values { items: *items, bytes: &self.bytes[*start..] })
            }
            LogEntry::One { index, settled: Settled::Parcel(parcel) } => (*index, SettledRef::Parcel(parcel)),
            LogEntry::One { index, settled: Settled::Error(error) } => (*index, SettledRef::Error(error)),
        })
    }

    /// As [`outcomes`](Self::outcomes), in the order of the items.
    pub(crate) fn outcomes_in_order(&self) -> Vec<(u64, SettledRef<'_>)> {
        let mut outcomes: Vec<_> = self.outcomes().collect();
        outcomes.sort_unstable_by_key(|(first, _)| *first);
        outcomes
    }

    /// Appends values of consecutive items, each behind its length. The parts are concatenated.
    fn append(&mut self, first: u64, items: u32, parts: [&[u8]; 2]) {
        let start = self.bytes.len();
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        match self.entries.last_mut() {
            // They continue the last run: no new entry.
            Some(LogEntry::Values { first: before, items: count, .. })
                if *before + u64::from(*count) == first && count.checked_add(items).is_some() =>
            {
                *count += items;
            }
            _ => self.entries.push(LogEntry::Values { first, items, start }),
        }
    }
}

/// Whether an error is more than a cancellation.
fn is_failure(error: &TaskError) -> bool {
    !matches!(error, TaskError::Cancelled | TaskError::Skipped)
}

/// What becomes of the items of an abandoned job that have no outcome yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// They run, and callbacks are called.
    Run,
    /// Those that no worker has been given are skipped.
    Skip,
}

/// Called once, on the callback thread, with the finished log.
pub(crate) type Callback = Box<dyn FnOnce(&Log) + Send>;

/// The context of one job, which all its items share.
#[derive(Clone, Debug)]
pub(crate) struct JobContext {
    pub(crate) id: u64,
    pub(crate) function: FunctionId,
    pub(crate) value: Parcel,
}

/// Why no more items of a job are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// An item of a fail-fast call has failed, or no handle is left through which the other results could be read.
    ByItself,
    ByCaller,
}

/// One call on the pool.
#[derive(Default)]
pub(crate) struct Job {
    /// The results that have arrived and were not taken yet.
    pub(crate) log: Log,
    /// The whole log of a finished job that a handle still refers to.
    pub(crate) finished: Option<Arc<Log>>,
    pub(crate) submitted: u64,
    pub(crate) settled: u64,
    /// No more items will be submitted.
    pub(crate) sealed: bool,
    /// The call that submits its items is still running; `close` lets it go on.
    pub(crate) feeding: bool,
    /// The first error cancels the items that have not been handed out.
    pub(crate) fail_fast: bool,
    pub(crate) cancelled: Option<Cancelled>,
    /// No handle refers to the job any more: it is removed when it is finished.
    pub(crate) abandoned: bool,
    pub(crate) context: Option<Box<JobContext>>,
    /// Whatever waits for the job, if anything ever did: most jobs that are queued have none.
    pub(crate) audience: Option<Box<Audience>>,
}

/// When the waker of a job is woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wakes {
    /// When the job is finished.
    #[default]
    AtEnd,
    /// When anything has arrived for it.
    AtProgress,
}

/// What waits for a job.
#[derive(Default)]
pub(crate) struct Audience {
    pub(crate) callbacks: Vec<Callback>,
    /// The waker of the last poll. A handle is one future, and an iterator one stream, so one is enough.
    pub(crate) waker: Option<Waker>,
    pub(crate) wakes: Wakes,
    /// The groups that note when it finishes.
    pub(crate) memberships: Vec<Membership>,
    /// Threads that wait without driving the engine.
    pub(crate) watchers: Waiters,
}

impl Audience {
    /// Whether something must be called at the end, even if no thread waits.
    fn needs_driver(&self) -> bool {
        let is_grouped = self.memberships.iter().any(|member| member.driven_by == DrivenBy::Background);
        !self.callbacks.is_empty() || self.waker.is_some() || is_grouped
    }
}

impl Job {
    /// Whether it has been finished.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// Whether it is finished and every item of it was cancelled.
    pub(crate) fn is_cancelled_whole(&self) -> bool {
        self.finished.as_ref().is_some_and(|log| log.is_cancelled_whole())
    }

    /// Takes what has arrived since the last call; `None` if that is nothing. For a job without callbacks.
    pub(crate) fn take_arrived(&mut self) -> Option<Log> {
        if let Some(log) = &mut self.finished {
            // Only a callback or a waiting handle would hold another reference to it.
            return Some(Arc::get_mut(log).map(std::mem::take).unwrap_or_default());
        }
        (!self.log.is_empty()).then(|| std::mem::take(&mut self.log))
    }

    /// Whether every item that was submitted has a result.
    pub(crate) fn is_settled(&self) -> bool {
        self.log.rest.is_some() || self.settled == self.submitted
    }

    /// Whether every item has a result, and no more items will come.
    pub(crate) fn is_complete(&self) -> bool {
        self.log.rest.is_some() || (self.sealed && self.settled == self.submitted)
    }

    /// Whether a callback, a waker or a group must learn what becomes of it, even if no thread waits.
    pub(crate) fn is_attended(&self) -> bool {
        self.audience.as_ref().is_some_and(|audience| audience.needs_driver())
    }

    /// What waits for the job, to be added to.
    pub(crate) fn audience(&mut self) -> &mut Audience {
        self.audience.get_or_insert_default()
    }

    /// Whether something has arrived that was not taken.
    pub(crate) fn has_arrived(&self) -> bool {
        !self.log.is_empty()
    }

    /// What waits for the job, if anything does.
    pub(crate) fn present(&mut self) -> Option<&mut Audience> {
        self.audience.as_deref_mut()
    }

    /// Whether the results will never be read.
    fn is_forgotten(&self) -> bool {
        self.abandoned && self.audience.as_ref().is_none_or(|audience| audience.callbacks.is_empty())
    }

    /// Adds the values of consecutive items, each behind its length.
    pub(crate) fn settle_values(&mut self, first: u64, items: u32, bytes: &[u8]) {
        if !self.is_forgotten() {
            self.log.append(first, items, [bytes, &[]]);
        }
        self.count(items);
    }

    /// Adds the value of one item.
    pub(crate) fn settle_value(&mut self, index: u64, bytes: &[u8]) {
        if !self.is_forgotten() {
            self.log.append(index, 1, [&item_head(bytes.len()), bytes]);
        }
        self.count(1);
    }

    /// Adds the result of one item.
    pub(crate) fn settle(&mut self, index: u64, settled: Settled) {
        if !self.is_forgotten() {
            self.log.has_failure |= matches!(&settled, Settled::Error(error) if is_failure(error));
            self.log.entries.push(LogEntry::One { index, settled });
        }
        self.count(1);
    }

    fn count(&mut self, items: u32) {
        self.settled += u64::from(items);
        assert!(self.settled <= self.submitted, "an item has one result");
    }
}

/// All jobs that are unfinished, or that a handle still refers to.
pub(crate) type Jobs = IdMap<JobId, Job>;

#[cfg(test)]
mod tests {
    use super::*;

    /// A program may queue a million calls.
    #[test]
    fn a_job_that_waits_takes_little_memory() {
        let size = size_of::<Job>();
        assert!(size <= 120, "{size} bytes");
    }
}
