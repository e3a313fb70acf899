//! Orders that are not work, and the result of sending.
//!
//! Also called: backpressure.

use std::os::fd::BorrowedFd;

use crate::values::blob::Blob;
use crate::values::blob::BlobFd;

/// Whether a link took a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Sent {
    Taken,
    /// This many of its items; there is no room for the rest.
    Part(u32),
    /// There is no room.
    Full,
    /// Not before the worker has answered everything that it holds.
    Later,
}

/// A descriptor that travels beside a frame.
pub(crate) type Attachment<'a> = Option<BorrowedFd<'a>>;

/// An order that is not work, sent or waiting for room.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) frame: Vec<u8>,
    pub(crate) attached: Option<Blob>,
}

/// The file of a blob that is about to be sent. `None` if none can be made: then the worker is sent no descriptor, and
/// answers that the bytes did not arrive.
pub(super) fn file_of(blob: &Blob) -> Option<BlobFd<'_>> {
    blob.to_fd().ok()
}
