//! The road to one worker and back: frames in order, whole or not at all.
//!
//! ```text
//!   parent                                         worker
//!   Road::send ──────── orders ───────────────▶ WorkerRoad::recv
//!   Road::recv ◀─────── answers ─────────────── WorkerRoad::send
//!   Road::recall ◀─ orders nobody has read
//! ```
//!
//! The engine knows nothing but this interface, so that another kind of road can take the socket's place. What every
//! road promises: the worker receives an order either whole or never; an order that was recalled has never been seen
//! by the worker (a recall takes each order that it finds unread, while the worker may read on between
//! two of them); answers that the worker had sent before it died can still be received; sending never blocks the
//! parent.

pub(crate) mod socket;

use std::os::fd::BorrowedFd;

use start_methods::PrivateFd;

pub(crate) use socket::Road;
pub(crate) use socket::WorkerRoad;

/// A frame that came over a road: how many bytes of the buffer it has, and what was attached.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    pub(crate) attached: Option<PrivateFd>,
}

/// An order that its worker never read.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) frame: Vec<u8>,
    pub(crate) attached: Option<PrivateFd>,
}

/// Whether the road took a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Sent {
    Taken,
    /// No room now; its descriptor tells when there is.
    Full,
    /// Not before the worker has answered what it holds.
    Later,
}

/// What goes beside a frame.
pub(crate) type Attachment<'a> = Option<BorrowedFd<'a>>;
