//! Encoded items: encoded once into batches, and cut into spans without copying.
//!
//! A [`Batch`] is what the submitting thread encodes in one go. A [`Span`] is a run of items of one batch: the unit that
//! is queued, sent and, when its worker dies, queued again. Items are stored back to back, each behind its length in
//! four bytes, exactly as in a frame.
//!
//! Also called: chunking, zero-copy slicing.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::error::TaskError;
use crate::values::parcel::Parcel;
use crate::work::function::FunctionId;

/// One call on the pool: `map` over a million items is one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(pub(crate) u64);

/// How many items travel in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkSize {
    /// The number that the caller has set.
    Fixed(u32),
    /// As many as make a frame worth the cost of its transfer, by measured time.
    Adaptive,
}

/// How the items of a job are handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobPolicy {
    pub(crate) chunk: ChunkSize,
    /// How often an item that was lost with its worker is run again.
    pub(crate) retries: u32,
    /// Whether its items have a time limit. Then the parent must know which of them runs.
    pub(crate) is_timed: bool,
}

/// What runs the items of a job, and how long each may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) function: FunctionId,
    /// The id of the call's context, 0 for none.
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

/// The encoded items of a batch.
#[derive(Debug)]
pub(crate) enum Items {
    /// Item `i` ends at offset `ends[i]` of `bytes`.
    Inline { bytes: Vec<u8>, ends: Vec<u32> },
    /// A single item, without memory for where it ends.
    One(Box<[u8]>),
    /// One item that is too large for a frame, or carries descriptors.
    Parcel(Parcel),
}

impl Items {
    /// Encoded items, back to back, of which each ends at one of the offsets.
    pub(crate) fn inline(bytes: Vec<u8>, ends: Vec<u32>) -> Self {
        match ends.len() {
            1 => Self::One(bytes.into_boxed_slice()),
            _ => Self::Inline { bytes, ends },
        }
    }
}

impl Batch {
    pub(crate) fn len(&self) -> u32 {
        match &self.items {
            Items::Inline { ends, .. } => u32::try_from(ends.len()).expect("a batch is cut at 4096 items"),
            Items::One(_) | Items::Parcel(_) => 1,
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

    /// Splits the first `items` off into another span.
    pub(crate) fn split_front(&mut self, items: u32) -> Span {
        let front = Span { batch: Arc::clone(&self.batch), start: self.start, end: self.start + items };
        self.start += items;
        front
    }

    /// The bytes of these items as they are in a frame; `None` for a parcel.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        let bytes = match &self.batch.items {
            Items::Inline { bytes, .. } => bytes,
            Items::One(bytes) => &**bytes,
            Items::Parcel(_) => return None,
        };
        Some(&bytes[self.place_of(self.start)..self.place_of(self.end)])
    }

    /// The one item of this span, if it is a parcel.
    pub(crate) fn parcel(&self) -> Option<&Parcel> {
        match &self.batch.items {
            Items::Parcel(parcel) => Some(parcel),
            Items::Inline { .. } | Items::One(_) => None,
        }
    }

    /// The bytes of these items that are in a frame, whatever travels beside it.
    pub(crate) fn frame_bytes(&self) -> &[u8] {
        self.bytes().or(self.parcel().map(Parcel::frame_bytes)).unwrap_or_default()
    }

    /// Where an item begins in the bytes of the batch; 0 for a parcel, which has none.
    fn place_of(&self, item: u32) -> usize {
        match (&self.batch.items, item) {
            (Items::Parcel(_), _) | (_, 0) => 0,
            (Items::One(bytes), _) => bytes.len(),
            (Items::Inline { ends, .. }, item) => ends[item as usize - 1] as usize,
        }
    }

    /// The longest run of the first items that has at most `bytes_max` bytes.
    pub(crate) fn fitting(&self, bytes_max: usize) -> Span {
        let limit = self.place_of(self.start) + bytes_max;
        let ends = match &self.batch.items {
            Items::Inline { ends, .. } => &ends[self.start as usize..self.end as usize],
            Items::One(_) if self.place_of(self.end) <= limit => return self.clone(),
            Items::One(_) | Items::Parcel(_) => &[],
        };
        let items = match ends.last() {
            Some(&last) if last as usize <= limit => ends.len(),
            _ => ends.partition_point(|&end| end as usize <= limit),
        };
        let items = u32::try_from(items).expect("no more than the span has");
        Span { end: self.start + items, ..self.clone() }
    }

    /// Drops the first `items`; returns how many bytes they had.
    pub(crate) fn cut_front(&mut self, items: u32) -> u64 {
        let before = self.place_of(self.start);
        self.start += items;
        (self.place_of(self.start) - before) as u64
    }

    /// Drops the last `items`; returns how many bytes they had.
    pub(crate) fn cut_back(&mut self, items: u32) -> u64 {
        let before = self.place_of(self.end);
        self.end -= items;
        (before - self.place_of(self.end)) as u64
    }
}

/// The length of what precedes each item of a batch, and each value in a log.
pub(crate) const ITEM_HEAD: usize = 4;

/// What precedes an item of this length.
#[inline]
pub(crate) fn item_head(len: usize) -> [u8; ITEM_HEAD] {
    u32::try_from(len).expect("an item is made a blob before 4 GiB").to_le_bytes()
}

/// Splits the first item off; `None` if it is longer than the bytes.
#[inline]
pub(crate) fn split_item(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<ITEM_HEAD>()?;
    rest.split_at_checked(u32::from_le_bytes(*head) as usize)
}
