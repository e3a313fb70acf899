//! The road to one worker and back: orders in order, whole or not at all.
//!
//! ```text
//!   parent                                              worker
//!   send ─────────────── orders ──────────────────────▶ receive
//!   receive ◀─────────── answers ─────────────────────── answer
//!   take back ◀─ orders that nobody has begun
//! ```
//!
//! Two kinds of road lead to a worker. The [rings](ring) in shared memory, without a system call for an order; and the
//! [socket], where the kernel or the worker's limits refuse shared memory. What both promise: the worker receives an
//! order either whole or never; an order that was taken back has never been begun; answers that the worker had given
//! before it died can still be received; sending never blocks the parent.

pub(crate) mod control;
pub(crate) mod frame;
pub(crate) mod panic_record;
pub(crate) mod ring;
pub(crate) mod socket;

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use start_methods::PrivateFd;

use crate::sys::bell::Bell;
use crate::values::blob::Blob;

/// The parent's end of the road to one worker.
#[derive(Debug)]
pub(crate) enum Road {
    /// The rings, and the bell by which the worker wakes the parent.
    Ring(Box<ring::parent::Road>, Bell),
    Socket(socket::Road),
}

impl Road {
    /// Readable when there are answers; of the rings' bell, each time that it is rung.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Road::Ring(_, bell) => bell.as_fd(),
            Road::Socket(road) => road.fd(),
        }
    }
}

/// A frame that came over a road: how many bytes of the buffer it has, and what was attached.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    pub(crate) attached: Option<PrivateFd>,
}

/// Whether the road took a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Sent {
    Taken,
    /// So many of its items, and no room now for the rest.
    Part(u32),
    /// No room now.
    Full,
    /// Not before the worker has answered what it holds.
    Later,
}

/// What goes beside a frame.
pub(crate) type Attachment<'a> = Option<BorrowedFd<'a>>;

/// An order that is not work, on its way or waiting for room.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) frame: Vec<u8>,
    pub(crate) attached: Option<Attached>,
}

/// What goes beside a note.
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
