//! A channel for one value: a reply to one request.
//!
//! A bare SOCK_SEQPACKET pair, with one message in it at most, and no shared memory: an end holds one descriptor, so that a
//! request can carry its reply's end. The first byte of the message says what follows behind the signature of the value's type:
//! the encoded value, or nothing, and then the first descriptor is a file with the value. The value carries the others.

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use start_methods::PrivateFd;
use start_methods::Received;

use super::error::NONSENSE;
use super::error::NotSent;
use super::error::RecvError;
use super::error::SendError;
use super::message;
use super::message::Arrived;
use super::message::Encoded;
use super::message::EncodedBytes;
use super::record::INLINE_MAX;
use crate::ipc::deadline::Wait;
use crate::ipc::wait::Bell;
use crate::ipc::wait::Turn;
use crate::ipc::wait::Waitable;
use crate::sys::poll::poll_until;
use crate::sys::table_full::is_table_full;
use crate::values::attach::SharedFd;
use crate::values::blob::BlobCache;
use crate::values::handle;
use crate::values::handle::SharedSocket;
use crate::values::handle::socket_of;
use crate::values::handle::socket_pair;
use crate::work::function::signature_of;
use crate::work::task::Data;

/// The kind of the message and the signature of the type.
const HEAD_LEN: usize = 9;
const INLINE: u8 = 0;
const FILE: u8 = 1;

/// The end of a [`oneshot`](crate::channel::oneshot) that sends.
///
/// A reply that is dropped, or whose last process dies, is [`Disconnected`](RecvError::Disconnected) for the other end, at
/// once.
///
/// # Examples
///
/// ```
/// let (reply, answer) = procpool::channel::oneshot::<u64>()?;
/// reply.send(7)?;
/// assert_eq!(answer.recv()?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reply<T> {
    socket: SharedSocket,
    values: PhantomData<fn(T) -> T>,
}

/// The end of a [`oneshot`](crate::channel::oneshot) that receives.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use procpool::channel::{self, RecvError};
///
/// let (reply, answer) = channel::oneshot::<u64>()?;
/// assert_eq!(answer.recv_timeout(Duration::from_millis(1))?, None); // Not yet.
/// drop(reply);
/// assert_eq!(answer.recv(), Err(RecvError::Disconnected));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Answer<T> {
    socket: SharedSocket,
    values: PhantomData<fn(T) -> T>,
}

/// A channel for one value, with an end for each side.
///
/// # Errors
///
/// No descriptor is left for a socket pair.
///
/// # Examples
///
/// A request that carries its reply:
///
/// ```
/// use procpool::Pool;
/// use procpool::channel::{self, Receiver, Reply};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Add(u64, u64, Reply<u64>);
///
/// fn serve(requests: Receiver<Add>) -> anyhow::Result<()> {
///     for request in requests {
///         let Add(a, b, reply) = request?;
///         reply.send(a + b).ok(); // Whoever asked may be gone.
///     }
///     Ok(())
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(1)?;
///     let (requests, server) = channel::bounded(16)?;
///     let server = pool.apply_async((server,), serve);
///     let (reply, answer) = channel::oneshot()?;
///     requests.send(Add(2, 3, reply))?;
///     assert_eq!(answer.recv()?, 5);
///     drop(requests);
///     server.get()?;
///     Ok(())
/// }
/// ```
pub fn oneshot<T: Data>() -> io::Result<(Reply<T>, Answer<T>)> {
    let (here, there) = socket_pair()?;
    Ok((Reply { socket: here, values: PhantomData }, Answer { socket: there, values: PhantomData }))
}

impl<T: Data> Reply<T> {
    /// Sends the value. It never waits.
    ///
    /// # Errors
    ///
    /// - [`SendError::Disconnected`]: the other end is gone.
    /// - [`SendError::Encode`]; [`SendError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let (reply, answer) = procpool::channel::oneshot::<u64>()?;
    /// drop(answer);
    /// assert_eq!(reply.send(7).unwrap_err().into_value(), 7);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send(self, value: T) -> Result<(), SendError<T>> {
        let signature = signature_of::<T>();
        message::encode(&value, INLINE_MAX, None, |encoded| send(&self.socket, signature, encoded))
            .map_err(|error| error.with(value))
    }

    /// The descriptor, to hand over to another process of this program, for [`from_fd`](Self::from_fd).
    #[doc(hidden)]
    pub fn to_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The end that has this descriptor.
    ///
    /// # Errors
    ///
    /// EMFILE.
    #[doc(hidden)]
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let fd: SharedFd = Arc::new(PrivateFd::adopt(fd)?);
        Ok(Self { socket: socket_of(fd)?, values: PhantomData })
    }
}

fn send(socket: &SharedSocket, signature: u64, message: &Encoded<'_>) -> Result<(), NotSent> {
    let no_file = |error: io::Error| NotSent::Encode(format!("no file takes its bytes: {error}"));
    let signature = signature.to_le_bytes();
    let carried: Vec<_> = message.carried.borrowed().collect();
    let sent = match &message.bytes {
        EncodedBytes::Inline(bytes) => {
            let parts = [IoSlice::new(&[INLINE]), IoSlice::new(&signature), IoSlice::new(bytes)];
            socket.try_send(&parts, &carried)
        }
        EncodedBytes::File(blob) => {
            let file = blob.to_fd().map_err(no_file)?;
            let fds = [&[file.as_fd()], carried.as_slice()].concat();
            socket.try_send(&[IoSlice::new(&[FILE]), IoSlice::new(&signature)], &fds)
        }
    };
    match sent {
        Ok(true) => Ok(()),
        // Another process has the end too, and has filled it.
        Ok(false) => Err(NotSent::Broken("more than one message was sent".to_owned())),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPIPE | Errno::ECONNRESET) => Err(NotSent::Disconnected),
            _ => Err(NotSent::Encode(format!("it cannot be sent: {error}"))),
        },
    }
}

impl<T: Data> Answer<T> {
    /// The value. Waits until it is there.
    ///
    /// # Errors
    ///
    /// - [`RecvError::Disconnected`]: the other end is gone, and has sent nothing.
    /// - [`RecvError::Decode`]; [`RecvError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`Reply`].
    pub fn recv(self) -> Result<T, RecvError> {
        // A wait without an end does not time out.
        loop {
            if let Some(arrived) = recv(&self.socket, signature_of::<T>(), Wait::Forever)? {
                return decode(arrived);
            }
        }
    }

    /// The value, if it comes within `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv). After the value has been received: [`RecvError::Disconnected`].
    ///
    /// # Examples
    ///
    /// See [`Answer`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<T>, RecvError> {
        recv(&self.socket, signature_of::<T>(), Wait::at_most(timeout))?.map(decode).transpose()
    }

    /// The value, if it is there now.
    ///
    /// # Errors
    ///
    /// As for [`recv_timeout`](Self::recv_timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// let (reply, answer) = procpool::channel::oneshot::<u64>()?;
    /// assert_eq!(answer.try_recv()?, None);
    /// reply.send(7)?;
    /// assert_eq!(answer.try_recv()?, Some(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_recv(&self) -> Result<Option<T>, RecvError> {
        recv(&self.socket, signature_of::<T>(), Wait::Not)?.map(decode).transpose()
    }

    /// The descriptor, to hand over to another process of this program, for [`from_fd`](Self::from_fd).
    #[doc(hidden)]
    pub fn to_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The end that has this descriptor.
    ///
    /// # Errors
    ///
    /// EMFILE.
    #[doc(hidden)]
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let fd: SharedFd = Arc::new(PrivateFd::adopt(fd)?);
        Ok(Self { socket: socket_of(fd)?, values: PhantomData })
    }
}

fn recv(socket: &SharedSocket, signature: u64, wait: Wait) -> Result<Option<Arrived>, RecvError> {
    loop {
        let (mut bytes, mut fds) = (message::memory(), Vec::new());
        match socket.try_recv_into(&mut bytes, HEAD_LEN + INLINE_MAX, &mut fds) {
            Ok(Received::Message(_)) => return arrived(bytes, fds, signature).map(Some),
            Ok(Received::Closed) => return Err(RecvError::Disconnected),
            Ok(Received::Empty) => {}
            Err(error) if is_table_full(&error) => return Ok(Some(Arrived::TableFull)),
            Err(error) => return Err(RecvError::Broken { message: format!("{NONSENSE}: {error}") }),
        }
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if !poll_until(&mut polled, wait.deadline()) {
            return Ok(None);
        }
    }
}

fn decode<T: Data>(arrived: Arrived) -> Result<T, RecvError> {
    arrived.decode(&BlobCache::of_worker())
}

/// What a message brings, checked.
fn arrived(bytes: Vec<u8>, mut fds: Vec<PrivateFd>, signature: u64) -> Result<Arrived, RecvError> {
    let expected = signature.to_le_bytes();
    let Some((&[kind, ref found @ ..], _)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Err(RecvError::Broken { message: NONSENSE.to_owned() });
    };
    if *found != expected {
        let message = "the answer is of another type, or from another program".to_owned();
        return Err(RecvError::Broken { message });
    }
    match kind {
        INLINE => Ok(Arrived::Carrying(bytes, HEAD_LEN, fds)),
        FILE if bytes.len() == HEAD_LEN && !fds.is_empty() => Ok(Arrived::File(fds.remove(0), fds)),
        _ => Err(RecvError::Broken { message: NONSENSE.to_owned() }),
    }
}

/// Readable when the value is there, or the other end is gone.
impl<T> AsFd for Answer<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// As [`AsFd`], for tokio's `AsyncFd`. Clones have the same descriptor, which a reactor takes once.
impl<T> AsRawFd for Answer<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<T> Waitable for Answer<T> {
    fn turn<'a>(&'a self, _: &Bell) -> io::Result<Turn<'a>> {
        Ok(Turn::WhenReadable(self.as_fd()))
    }
}

/// Anywhere inside a value that procpool sends; see [channels](crate::channel#ends-travel).
impl<T> Serialize for Reply<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&[self.socket.get_ref()], serializer)
    }
}

impl<'de, T: 'static> Deserialize<'de> for Reply<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = handle::deserialize_fd(deserializer)?;
        Ok(Self { socket: socket_of(fd).map_err(D::Error::custom)?, values: PhantomData })
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// Anywhere inside a value that procpool sends; see [channels](crate::channel#ends-travel).
impl<T> Serialize for Answer<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&[self.socket.get_ref()], serializer)
    }
}

impl<'de, T: 'static> Deserialize<'de> for Answer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = handle::deserialize_fd(deserializer)?;
        Ok(Self { socket: socket_of(fd).map_err(D::Error::custom)?, values: PhantomData })
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}
