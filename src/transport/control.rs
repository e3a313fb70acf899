//! The messages on a worker's control socket: its setup, and its reports.
//!
//! These are rare, so they are plain postcard. The parent's bytes are trusted (same build, checked at the hello); the
//! worker's are not: [`parse_report`] takes arbitrary bytes.

use serde::Deserialize;
use serde::Serialize;

use crate::sys::identity::Born;
use crate::transport::first_call::BootCall;
use crate::transport::outlets::Wanted;
use crate::transport::panic_record::PanicRecord;
use crate::values::message;
use crate::values::parcel::BodyPlace;

/// An error text in a report is cut at this length, so that the report fits.
pub(crate) const REPORT_TEXT_MAX: usize = 4 * 1024;

/// The kind of the link to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LinkKind {
    /// Two descriptors: the memory and the bell.
    Ring,
    /// One descriptor: the socket.
    Socket,
}

/// The place of a worker in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lane {
    pub(crate) index: u32,
    /// How many workers had this index before.
    pub(crate) generation: u64,
}

/// The payload of a worker's birth. Its descriptors are those of the link.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) link: LinkKind,
    pub(crate) lane: Lane,
    /// The name of the pool.
    pub(crate) pool: String,
    /// What it is given besides, behind the link.
    pub(crate) outlets: Wanted,
    /// The processors that it is bound to; none if it is not.
    pub(crate) processors: Vec<usize>,
    /// What it runs before its first item. If its arguments are not here, they are the first message on the control socket.
    pub(crate) initializer: Option<BootCall>,
    /// What it runs after its last item. If its arguments are not here, they are the next message.
    pub(crate) finalizer: Option<BootCall>,
    pub(crate) born: Born,
}

/// A report of a worker: first how its start went, then what does not fit its link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// It waits for work.
    Ready,
    /// Its initializer failed; it is about to leave.
    InitializerFailed { message: String },
    /// It cannot use its link; it is about to leave.
    LinkRefused { message: String },
    /// This message carries so many descriptors of the answer with this number. The first is the file with its bytes, if
    /// they are in one.
    Attachment { number: u32, place: BodyPlace, fds: u32 },
    /// It is about to abort because of this panic.
    LastWords(PanicRecord),
    /// It was told to leave, and its finalizer is about to run.
    Finalizing,
    /// Its finalizer failed.
    FinalizerFailed { message: String },
}

/// What the parent sends on the control socket with descriptors that belong to a record in the rings.
pub(crate) fn attachment_head(number: u32, place: BodyPlace) -> [u8; ATTACHMENT_HEAD] {
    let [a, b, c, d] = number.to_le_bytes();
    [a, b, c, d, place.code()]
}

/// The length of an [`attachment_head`].
pub(crate) const ATTACHMENT_HEAD: usize = 5;

/// The number and the place in an [`attachment_head`]; `None` if it is none.
pub(crate) fn parse_attachment_head(head: [u8; ATTACHMENT_HEAD]) -> Option<(u32, BodyPlace)> {
    let [a, b, c, d, place] = head;
    Some((u32::from_le_bytes([a, b, c, d]), BodyPlace::from_code(place)?))
}

pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    message::to_vec(message)
}

/// Parses a report.
pub(crate) fn parse_report(bytes: &[u8]) -> Result<Report, String> {
    message::parse(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_from_its_bytes() {
        let report = Report::InitializerFailed { message: "no".to_owned() };
        assert_eq!(parse_report(&encode(&report)), Ok(report));
    }

    #[test]
    fn noise_is_an_error_and_not_a_report() {
        for noise in [&[][..], &[9], &[1, 255, 255, 255, 255, 15], &[0, 0]] {
            parse_report(noise).unwrap_err();
        }
    }
}
