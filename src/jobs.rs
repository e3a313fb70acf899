//! The unfinished jobs, and what has come back for each.
//!
//! Outcomes are kept as they arrive, in a [`Log`]: bytes and errors by index, in order of arrival. Nothing is decoded
//! here: whoever consumes the log does that, on its own thread. A job is *finished* when it takes no more items and
//! every item has an outcome; then, and only then, its log is complete.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Condvar;

use crate::batch::JobId;
use crate::blob::Blob;
use crate::error::TaskError;
use crate::function::FunctionId;

/// What became of one item.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Its bytes in the log.
    Value(Range<usize>),
    /// Its bytes, too many for a frame.
    Blob(Blob),
    Error(Box<TaskError>),
}

/// Outcomes by order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) entries: Vec<(u64, Outcome)>,
    pub(crate) bytes: Vec<u8>,
    /// What became of all items that have no entry, once the pool has ended.
    pub(crate) rest: Option<TaskError>,
}

impl Log {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.rest.is_none()
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
    pub(crate) cancelled: bool,
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

    pub(crate) fn settle_value(&mut self, index: u64, bytes: &[u8]) {
        let bytes = if self.is_forgotten() { &[] } else { bytes };
        let start = self.log.bytes.len();
        self.log.bytes.extend_from_slice(bytes);
        self.settle(index, Outcome::Value(start..start + bytes.len()));
    }

    pub(crate) fn settle(&mut self, index: u64, outcome: Outcome) {
        if !self.is_forgotten() {
            self.log.entries.push((index, outcome));
        }
        self.settled += 1;
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
