//! What a process is born with: what the parent asks for ([`Boot`]) and what the child finds ([`Birth`]).
//!
//! # Invariants
//!
//! - A [`Boot`] that was accepted fits one message, whatever its name and entry are.
//! - The lifeline travels with the boot message, before the user's descriptors.

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use crate::error::StartError;
use crate::fd::PrivateFd;
use crate::image;
use crate::lifeline::Lifeline;
use crate::message;
use crate::message::BootMessage;
use crate::method::StartMethod;
use crate::socket::Socket;

/// How many bytes [`Boot::payload`] may have.
pub const PAYLOAD_MAX: usize = 48 * 1024;

/// How many descriptors [`Boot::fds`] may have.
pub const BOOT_FDS_MAX: usize = 8;

/// How many generations of processes there may be below the first one.
pub const DEPTH_MAX: u32 = 10;

/// The generation of this process; a child learns it from its boot message.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// What a new process runs: its exit code is what this returns.
///
/// A panic ends the process with exit code 101, as it would in `main`.
pub type Entry = fn(Birth) -> u8;

/// What a new process finds when its [`Entry`] is called.
#[derive(Debug)]
pub struct Birth {
    /// The child's end of the socket whose other end is [`Child::control`](crate::Child::control).
    pub control: Socket,
    /// What the parent gave to [`Boot::payload`].
    pub payload: Vec<u8>,
    /// Copies of the descriptors that the parent gave to [`Boot::fds`], in order.
    pub fds: Vec<PrivateFd>,
    /// How this process was started.
    pub method: StartMethod,
}

/// How many starts lie between the first process and this one; 0 in the first.
#[must_use]
pub fn depth() -> u32 {
    DEPTH.load(Ordering::Relaxed)
}

pub(crate) fn set_depth(depth: u32) {
    DEPTH.store(depth, Ordering::Relaxed);
}

/// What a new process is to be: the entry it runs, and what it is given.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot};
///
/// fn answer(birth: Birth) -> u8 {
///     birth.payload[0]
/// }
///
/// let boot = Boot::new(answer).name("oracle").payload(&[42]);
/// # let _ = boot;
/// ```
#[derive(Clone, Copy)]
pub struct Boot<'a> {
    entry: Entry,
    name: &'a str,
    payload: &'a [u8],
    fds: &'a [BorrowedFd<'a>],
}

impl<'a> Boot<'a> {
    /// A process that runs `entry`, is named "child", and is given nothing.
    #[must_use]
    pub fn new(entry: Entry) -> Self {
        Self { entry, name: "child", payload: &[], fds: &[] }
    }

    /// What `ps` and `top` call it. The kernel keeps the first 15 bytes.
    #[must_use]
    pub fn name(mut self, name: &'a str) -> Self {
        self.name = name;
        self
    }

    /// Bytes for the entry, at most [`PAYLOAD_MAX`].
    #[must_use]
    pub fn payload(mut self, payload: &'a [u8]) -> Self {
        self.payload = payload;
        self
    }

    /// Descriptors for the entry, at most [`BOOT_FDS_MAX`]. The parent keeps its own.
    #[must_use]
    pub fn fds(mut self, fds: &'a [BorrowedFd<'a>]) -> Self {
        self.fds = fds;
        self
    }

    /// The message to be sent, once all that can be refused has been looked at.
    pub(crate) fn prepare(&self, method: StartMethod) -> Result<Parcel<'a>, StartError> {
        let too_large = |len, limit| Err(StartError::BootTooLarge { len, limit });
        if self.payload.len() > PAYLOAD_MAX {
            return too_large(self.payload.len(), PAYLOAD_MAX);
        }
        if self.fds.len() > BOOT_FDS_MAX {
            return too_large(self.fds.len(), BOOT_FDS_MAX);
        }
        let depth = depth() + 1;
        if depth > DEPTH_MAX {
            return Err(StartError::NestedTooDeep { depth, limit: DEPTH_MAX });
        }
        let address = self.entry as usize;
        let entry = image::locate(address).ok_or(StartError::FunctionNotFound { address })?;
        let bytes = message::encode(&BootMessage {
            pointer_width: usize::BITS,
            build_id: image::build_id(),
            entry,
            method,
            name: cut(self.name, 15).to_owned(),
            depth,
            core_limit: 0,
            payload: self.payload.to_vec(),
        });
        let lifeline = Lifeline::get().map_err(StartError::system("making the lifeline pipe"))?;
        Ok(Parcel { bytes, lifeline, fds: self.fds })
    }
}

impl fmt::Debug for Boot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Boot")
            .field("name", &self.name)
            .field("payload_len", &self.payload.len())
            .field("fds", &self.fds)
            .finish_non_exhaustive()
    }
}

/// A boot message, ready to be sent.
pub(crate) struct Parcel<'a> {
    bytes: Vec<u8>,
    pub(crate) lifeline: Arc<Lifeline>,
    fds: &'a [BorrowedFd<'a>],
}

impl Parcel<'_> {
    /// Sends it. The socket is new, so that it has room.
    ///
    /// A child that is gone already is no error: what it said, and how it ended, is for
    /// [`Child::try_hello`](crate::Child::try_hello) to tell.
    pub(crate) fn send(&self, control: &Socket) -> Result<(), StartError> {
        let mut fds = vec![self.lifeline.read_end()];
        fds.extend(self.fds.iter().map(AsFd::as_fd));
        let sent = match control.try_send(&[IoSlice::new(&self.bytes)], &fds) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            Err(error) => Err(error),
        };
        sent.map_err(StartError::system("sending the boot message"))
    }
}

/// The longest beginning of `text` with at most `bytes_max` bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_between_characters() {
        assert_eq!(cut("worker", 15), "worker");
        assert_eq!(cut("a-rather-long-name", 15), "a-rather-long-n");
        assert_eq!(cut("ééééééééé", 15), "ééééééé");
    }

    #[test]
    fn the_largest_boot_fits_a_message() {
        fn entry(_: Birth) -> u8 {
            0
        }
        let payload = vec![0xff; PAYLOAD_MAX];

        let parcel = Boot::new(entry).payload(&payload).prepare(StartMethod::Spawn).unwrap();

        assert!(parcel.bytes.len() <= message::MESSAGE_MAX);
        let payload = vec![0xff; PAYLOAD_MAX + 1];
        assert!(matches!(
            Boot::new(entry).payload(&payload).prepare(StartMethod::Spawn),
            Err(StartError::BootTooLarge { .. })
        ));
    }
}
