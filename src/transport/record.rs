//! What the worker's end of a link yields: orders and items, one record each.

use std::io;
use std::ops::Range;
use std::time::Duration;

use crate::values::number;

/// One order or one item from the parent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) is_order: bool,
    /// The number of the descriptor that travels beside it.
    pub(crate) attachment: Option<u32>,
    /// Where its bytes lie in the buffer of the link.
    pub(super) range: Range<usize>,
}

impl Record {
    /// Whether it is an item, and all of its bytes are here.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        !self.is_order && self.attachment.is_none()
    }
}

/// What a worker does when a record is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Process the next record, which has begun.
    HasBegun,
    /// Wait for one.
    Wait,
    /// Leave: only the end of this process can still wake the parent.
    Leave,
}

/// What follows a number that was answered with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextNumber {
    /// The next record has begun and was read: a number, padded.
    HasBegun([u8; number::LEN_MAX]),
    /// The next record has begun, and must be read.
    Unread,
    /// No next record has begun.
    None(Next),
    /// Nothing was done: the answer has to be written in the general way.
    Declined,
}

/// The error of a worker whose parent broke the protocol: a bug in procpool.
pub(crate) fn broken(detail: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.into())
}

/// What a worker does when nothing has come for a while.
pub(crate) struct Idle<'a> {
    pub(crate) after: Duration,
    pub(crate) act: &'a dyn Fn(),
}
