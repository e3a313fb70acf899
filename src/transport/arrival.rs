//! What the parent's end of a link yields: answers, and reasons why there are none.

use crate::transport::frame::AnswerKind;

/// Answers to the next items of a worker, in the order of the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival<'a> {
    /// Values, each behind its length. Bytes that belong to no value may follow.
    Values { items: u32, bytes: &'a [u8] },
    /// One answer.
    Answer { kind: AnswerKind, bytes: &'a [u8] },
    /// One answer with descriptors: the attachment with this number. The bytes are here, or in its file.
    Attached { kind: AnswerKind, number: u32, bytes: &'a [u8] },
}

impl Arrival<'_> {
    /// How many items it answers.
    pub(crate) fn items(&self) -> u32 {
        match self {
            Arrival::Values { items, .. } => *items,
            Arrival::Answer { .. } | Arrival::Attached { .. } => 1,
        }
    }
}

/// The time that the worker spent on its last items, as it reports it itself. A hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceTime {
    pub(crate) ns: u64,
    pub(crate) items: u32,
}

/// Why a link yields no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkError {
    /// The link holds what no worker of this build writes. Answers that have not been taken in do not count.
    Broken(String),
    /// A task wrote something that is no answer. The answers of its worker are still complete.
    Nonsense(String),
    /// A task has shut the link down.
    Closed,
}
