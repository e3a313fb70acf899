//! Handles: objects of this process that travel as their descriptors, anywhere inside a value.
//!
//! An object that two processes share is made of descriptors: the file of its memory, the ends of its sockets. A handle
//! to it keeps each of them as a [`SharedFd`], and
//!
//! - its `Serialize` is [`serialize`] with those: they are attached to the value, and what is written is their places;
//! - its `Deserialize` is [`deserialize`] with a function that makes the object of as many descriptors, which is called
//!   once however often the value is decoded: twice the same handle in one value, or a result that is read twice, are one
//!   object.
//!
//! The descriptors come from a process that may be hostile: the function checks each before it uses it.

use std::any::Any;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::sys::socket::SockType as Type;
use nix::sys::socket::UnixAddr;
use nix::sys::socket::getsockname;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::SockType;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use serde::ser::Error as _;
use start_methods::Socket;

use crate::values::attach;
use crate::values::attach::AttachError;
use crate::values::attach::SharedFd;

/// A socket of a handle.
pub(crate) type SharedSocket = Socket<SharedFd>;

/// Two connected ends.
///
/// # Errors
///
/// As for [`Socket::pair`].
pub(crate) fn socket_pair() -> io::Result<(SharedSocket, SharedSocket)> {
    let (here, there) = Socket::pair()?;
    let shared = |socket: Socket| Socket::sharing(Arc::new(socket.into_fd()) as SharedFd);
    Ok((shared(here), shared(there)))
}

/// The socket whose descriptor another process has sent.
///
/// # Errors
///
/// `InvalidData`: it is no end of such a pair. Other sockets would behave in other ways: a network's may keep its close
/// waiting.
pub(crate) fn socket_of(fd: SharedFd) -> io::Result<SharedSocket> {
    let is_one =
        getsockopt(&fd, SockType) == Ok(Type::SeqPacket) && getsockname::<UnixAddr>(fd.as_fd().as_raw_fd()).is_ok();
    if !is_one {
        let text = "a descriptor of the handle is not an end of a pair of sockets for messages";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Socket::sharing(fd))
}

/// The places of its descriptors in the table of its value.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Handle")]
struct Places(Vec<u32>);

/// Serializes a handle that is made of these descriptors.
///
/// # Errors
///
/// No value is being encoded that is sent, or it carries too many descriptors; see [`AttachError`].
pub(crate) fn serialize<S: Serializer>(fds: &[&SharedFd], serializer: S) -> Result<S::Ok, S::Error> {
    // A forked copy of the process does not have them: it panics here, in the value's own code, and not when they are sent.
    for fd in fds {
        let _: BorrowedFd<'_> = fd.as_fd();
    }
    let places = fds.iter().map(|fd| attach::attach(fd)).collect::<Result<_, _>>().map_err(S::Error::custom)?;
    Places(places).serialize(serializer)
}

/// Deserializes the object of a handle of type `T`: `make` makes it of its `N` descriptors, unless it was made before.
///
/// # Errors
///
/// The descriptors did not come with the value; or the error of `make`.
pub(crate) fn deserialize<'de, T, O, D, const N: usize>(
    deserializer: D,
    make: impl FnOnce([SharedFd; N]) -> io::Result<O>,
) -> Result<Arc<O>, D::Error>
where
    T: 'static,
    O: Any + Send + Sync,
    D: Deserializer<'de>,
{
    let Places(places) = Places::deserialize(deserializer)?;
    let object = attach::arrived_as::<T, O, io::Error>(places, |fds| {
        let fds: [SharedFd; N] = fds.try_into().map_err(|fds: Vec<SharedFd>| {
            let text = format!("it is made of {N} descriptors, not of {}", fds.len());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        make(fds)
    });
    object.map_err(D::Error::custom)
}

/// Deserializes a handle that is made of one descriptor, and of nothing else that would be worth keeping.
///
/// # Errors
///
/// The descriptor did not come with the value.
pub(crate) fn deserialize_fd<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SharedFd, D::Error> {
    let Places(places) = Places::deserialize(deserializer)?;
    let [place] = places[..] else { return Err(D::Error::custom("it is made of one descriptor")) };
    attach::arrived(place).map(|(fd, _)| fd).map_err(D::Error::custom)
}

impl From<AttachError> for io::Error {
    fn from(error: AttachError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
    }
}
