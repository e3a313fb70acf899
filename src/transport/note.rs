//! Orders that are not work, and the result of sending.
//!
//! Also called: backpressure.

use std::os::fd::BorrowedFd;

use crate::transport::frame::Head;
use crate::transport::introduction::Again;
use crate::values::parcel::Parcel;
use crate::values::parcel::ParcelFds;

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
    /// Not before other processes have received descriptors. Nothing tells when they have.
    TooManyInFlight,
}

/// An order that is not work, sent or waiting for room.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) frame: Vec<u8>,
    pub(crate) attached: Option<Parcel>,
}

impl From<Again> for Note {
    fn from(again: Again) -> Self {
        match again {
            Again::Order(frame) => Note { frame, attached: None },
            Again::Bound(number, span) => {
                let frame = [Head::run(&span, number.0).as_bytes(), span.frame_bytes()].concat();
                Note { frame, attached: span.parcel().cloned() }
            }
        }
    }
}

/// The descriptors of a parcel that is about to be sent. `None` if its file cannot be made: then the worker is sent no
/// descriptor, and answers that they did not arrive.
pub(super) fn fds_of(parcel: &Parcel) -> Option<ParcelFds<'_>> {
    parcel.fds().ok()
}

/// The descriptors, for a send.
pub(super) fn borrowed<'a>(fds: &'a Option<ParcelFds<'_>>) -> Vec<BorrowedFd<'a>> {
    fds.as_ref().map_or_else(Vec::new, ParcelFds::borrowed)
}
