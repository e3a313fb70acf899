//! The unfinished jobs, and what has come back for each.
//!
//! Outcomes are kept as they arrive, in a [`Log`]: runs of values, and errors, in order of arrival. Nothing is decoded
//! here: whoever consumes the log does that, on its own thread. A job is *finished* when it takes no more items and
//! every item has an outcome; then, and only then, its log is complete.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Condvar;

use crate::error::TaskError;
use crate::values::blob::Blob;
use crate::work::batch::JobId;
use crate::work::function::FunctionId;

/// What became of one item, when that is no small value.
#[derive(Debug)]
pub(crate) enum Settled {
    /// Its bytes, too many for a frame.
    Blob(Blob),
    Error(Box<TaskError>),
}

/// What became of items with consecutive positions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SettledRef<'a> {
    /// The values of so many, each behind its length. More may follow that is not theirs.
    Values {
        items: u32,
        bytes: &'a [u8],
    },
    Blob(&'a Blob),
    Error(&'a TaskError),
}

/// Outcomes that stand side by side.
#[derive(Debug)]
enum Entry {
    /// Values of items with consecutive positions, from this place in the log's bytes on, each behind its length.
    Values {
        first: u64,
        items: u32,
        start: usize,
    },
    One {
        index: u64,
        outcome: Settled,
    },
}

/// Outcomes by order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// What became of all items that have no entry, once the pool has ended.
    pub(crate) rest: Option<TaskError>,
}

impl Log {
    /// The log of something that never began.
    pub(crate) fn refused(error: TaskError) -> Self {
        Self { rest: Some(error), ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.rest.is_none()
    }

    /// The outcomes in order of arrival, with the position of the first of each.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (u64, SettledRef<'_>)> {
        self.entries.iter().map(|entry| match entry {
            Entry::Values { first, items, start } => {
                (*first, SettledRef::Values { items: *items, bytes: &self.bytes[*start..] })
            }
            Entry::One { index, outcome: Settled::Blob(blob) } => (*index, SettledRef::Blob(blob)),
            Entry::One { index, outcome: Settled::Error(error) } => (*index, SettledRef::Error(error)),
        })
    }

    /// As [`outcomes`](Self::outcomes), in the order of the items.
    pub(crate) fn outcomes_in_order(&self) -> Vec<(u64, SettledRef<'_>)> {
        let mut outcomes: Vec<_> = self.outcomes().collect();
        outcomes.sort_unstable_by_key(|(first, _)| *first);
        outcomes
    }

    /// Values of consecutive items, each behind its length, in as many parts as they come.
    fn append(&mut self, first: u64, items: u32, parts: [&[u8]; 2]) {
        let start = self.bytes.len();
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        match self.entries.last_mut() {
            Some(Entry::Values { first: before, items: count, .. })
                if *before + u64::from(*count) == first && count.checked_add(items).is_some() =>
            {
                *count += items;
            }
            _ => self.entries.push(Entry::Values { first, items, start }),
        }
    }
}

/// Called once, on the callback thread, with the finished log.
pub(crate) type Callback = Box<dyn FnOnce(&Log) + Send>;

/// A context that the workers of one job share.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) id: u64,
    pub(crate) function: FunctionId,
    pub(crate) body: ContextBody,
}

/// The bytes of a context.
#[derive(Clone, Debug)]
pub(crate) enum ContextBody {
    Inline(Arc<[u8]>),
    Blob(Blob),
}

/// Why nothing more of a job is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// An item of a fail-fast call has failed, or nobody is left to see the others.
    ByItself,
    ByCaller,
}

/// One call on the pool.
#[derive(Default)]
pub(crate) struct Job {
    /// What has arrived and was not taken yet.
    pub(crate) log: Log,
    /// The whole log of a finished job that somebody still holds.
    pub(crate) finished: Option<Arc<Log>>,
    pub(crate) submitted: u64,
    pub(crate) settled: u64,
    /// No more items will be submitted.
    pub(crate) sealed: bool,
    /// The call that feeds it is still running, and `close` lets it.
    pub(crate) feeding: bool,
    /// The first error cancels what has not been handed out.
    pub(crate) fail_fast: bool,
    pub(crate) cancelled: Option<Cancelled>,
    /// Nobody holds the job any more: it goes when it is finished.
    pub(crate) abandoned: bool,
    pub(crate) context: Option<Context>,
    pub(crate) callbacks: Vec<Callback>,
    /// Of the future that was polled last; a handle is one future.
    pub(crate) waker: Option<Waker>,
    /// Threads that wait for this job without driving.
    pub(crate) watchers: Vec<Arc<Condvar>>,
}

impl Job {
    /// Whether there is nothing left to wait for.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// Takes what has arrived since the last call; `None` if that is nothing. For a job without callbacks.
    pub(crate) fn take_arrived(&mut self) -> Option<Log> {
        if let Some(log) = &mut self.finished {
            // Only a callback or a waiting handle would hold another reference to it.
            return Some(Arc::get_mut(log).map(std::mem::take).unwrap_or_default());
        }
        (!self.log.is_empty()).then(|| std::mem::take(&mut self.log))
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.log.rest.is_some() || (self.sealed && self.settled == self.submitted)
    }

    /// Somebody is told when it finishes, although nobody waits.
    pub(crate) fn is_attended(&self) -> bool {
        !self.callbacks.is_empty() || self.waker.is_some()
    }

    /// Nobody will ever look at the outcomes.
    fn is_forgotten(&self) -> bool {
        self.abandoned && self.callbacks.is_empty()
    }

    /// Values of consecutive items, each behind its length.
    pub(crate) fn settle_values(&mut self, first: u64, items: u32, bytes: &[u8]) {
        if !self.is_forgotten() {
            self.log.append(first, items, [bytes, &[]]);
        }
        self.count(items);
    }

    /// The value of one item.
    pub(crate) fn settle_value(&mut self, index: u64, bytes: &[u8]) {
        if !self.is_forgotten() {
            let len = u32::try_from(bytes.len()).expect("what came in a frame fits one");
            self.log.append(index, 1, [&len.to_le_bytes(), bytes]);
        }
        self.count(1);
    }

    pub(crate) fn settle(&mut self, index: u64, outcome: Settled) {
        if !self.is_forgotten() {
            self.log.entries.push(Entry::One { index, outcome });
        }
        self.count(1);
    }

    fn count(&mut self, items: u32) {
        self.settled += u64::from(items);
        assert!(self.settled <= self.submitted, "an item has one outcome");
    }
}

/// Job numbers are counted up, so they are as good as their own hash.
#[derive(Debug, Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed")
    }

    fn write_u64(&mut self, number: u64) {
        // Spread over the high bits, which the table looks at too.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// All jobs that are unfinished, or whose results somebody still holds.
pub(crate) type Jobs = HashMap<JobId, Job, BuildHasherDefault<Identity>>;
