//! Orders that are not work, and the result of sending.
//!
//! Also called: backpressure.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use start_methods::PrivateFd;

use crate::values::blob::Blob;

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
    pub(crate) attached: Option<Attached>,
}

/// What travels beside a note.
#[derive(Debug)]
pub(crate) enum Attached {
    Blob(Blob),
    Fd(PrivateFd),
}

impl AsFd for Attached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Attached::Blob(blob) => blob.as_fd(),
            Attached::Fd(fd) => fd.as_fd(),
        }
    }
}
