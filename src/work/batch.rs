//! Items on their way to the workers: encoded once, cut into spans without copying.
//!
//! A [`Batch`] is what the submitting thread encodes at one go; a [`Span`] is a run of items inside one batch, the
//! thing that is queued, sent and, when its worker dies, queued again. Items are stored back to back, each behind its
//! length in four bytes, just as they will stand in the frame.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::error::TaskError;
use crate::values::blob::Blob;
use crate::work::function::FunctionId;

/// One call on the pool: `map` over a million items is one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(pub(crate) u64);

/// How many items travel together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkSize {
    /// As many as the caller said.
    Fixed(u32),
    /// As many as make a frame worth its hand-over, by measured time.
    Adaptive,
}

/// On what policy the items of a job are handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobPolicy {
    pub(crate) chunk: ChunkSize,
    /// How often an item is run again that was lost with its worker.
    pub(crate) retries: u32,
    /// Whether its items have a time limit: then it must be known which of them runs.
    pub(crate) is_timed: bool,
}

/// What the items of a job are given to, and how long each may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) function: FunctionId,
    /// The call's context, 0 for none.
    pub(crate) context: u64,
    pub(crate) timeout: Option<Duration>,
}

/// Encoded items of one job, in input order, without gaps.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) job: JobId,
    pub(crate) target: Target,
    /// Position of the first item in the job's input.
    pub(crate) first_index: u64,
    pub(crate) items: Items,
}

/// The bytes of a batch.
#[derive(Debug)]
pub(crate) enum Items {
    /// `ends[i]` is where item `i` ends in `bytes`.
    Inline { bytes: Vec<u8>, ends: Vec<u32> },
    /// One item that is too large for a frame.
    Blob(Blob),
}

impl Batch {
    pub(crate) fn len(&self) -> u32 {
        match &self.items {
            Items::Inline { ends, .. } => u32::try_from(ends.len()).expect("a batch is cut at 4096 items"),
            Items::Blob(_) => 1,
        }
    }
}

/// A run of items of one batch.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) batch: Arc<Batch>,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// What is submitted to a job: encoded items, or the position of an item that could not be encoded and the reason.
pub(crate) type Work = Result<Span, (u64, TaskError)>;

impl Span {
    pub(crate) fn whole(batch: Batch) -> Self {
        let end = batch.len();
        Self { batch: Arc::new(batch), start: 0, end }
    }

    pub(crate) fn len(&self) -> u32 {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Position of the first item in the job's input.
    pub(crate) fn index_of_first(&self) -> u64 {
        self.batch.first_index + u64::from(self.start)
    }

    /// Positions of all items in the job's input.
    pub(crate) fn indices(&self) -> Range<u64> {
        self.index_of_first()..self.index_of_first() + u64::from(self.len())
    }

    /// Takes the first `items` away as a span of their own.
    pub(crate) fn split_front(&mut self, items: u32) -> Span {
        let front = Span { batch: Arc::clone(&self.batch), start: self.start, end: self.start + items };
        self.start += items;
        front
    }

    /// The bytes of these items as they stand in a frame; `None` for a blob.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        let Items::Inline { bytes, .. } = &self.batch.items else { return None };
        Some(&bytes[self.place_of(self.start)..self.place_of(self.end)])
    }

    /// Its one item, if that is a blob.
    pub(crate) fn blob(&self) -> Option<&Blob> {
        match &self.batch.items {
            Items::Blob(blob) => Some(blob),
            Items::Inline { .. } => None,
        }
    }

    /// Where an item of the batch begins in its bytes; a blob has none.
    fn place_of(&self, item: u32) -> usize {
        match (&self.batch.items, item) {
            (Items::Blob(_), _) | (_, 0) => 0,
            (Items::Inline { ends, .. }, item) => ends[item as usize - 1] as usize,
        }
    }

    /// As many of the first items as have no more than `room` bytes.
    pub(crate) fn fitting(&self, room: usize) -> Span {
        let Items::Inline { ends, .. } = &self.batch.items else { return Span { end: self.start, ..self.clone() } };
        let limit = self.place_of(self.start) + room;
        let ends = &ends[self.start as usize..self.end as usize];
        let items = match ends.last() {
            Some(&last) if last as usize <= limit => ends.len(),
            _ => ends.partition_point(|&end| end as usize <= limit),
        };
        let items = u32::try_from(items).expect("no more than the span has");
        Span { end: self.start + items, ..self.clone() }
    }

    /// Drops the first `items`; says how many bytes they had.
    pub(crate) fn cut_front(&mut self, items: u32) -> u64 {
        let before = self.place_of(self.start);
        self.start += items;
        (self.place_of(self.start) - before) as u64
    }

    /// Drops the last `items`; says how many bytes they had.
    pub(crate) fn cut_back(&mut self, items: u32) -> u64 {
        let before = self.place_of(self.end);
        self.end -= items;
        (before - self.place_of(self.end)) as u64
    }
}
