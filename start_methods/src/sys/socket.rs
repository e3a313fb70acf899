//! One end of a control socket: whole messages, in order, with descriptors.
//!
//! SOCK_SEQPACKET, so that a descriptor always arrives with the message it was sent with, and a message is never read
//! in part. The receiver does not trust the sender: if the kernel had to truncate a message, its bytes or its
//! descriptors, the receive fails, and the descriptors that did arrive are closed.
//!
//! Also called: SCM_RIGHTS, descriptor passing, ancillary data.
//!
//! # Invariants
//!
//! - ECONNRESET does not mean the end: the kernel reports it once, *before* the messages that the dead peer had sent.
//!   So it is skipped, and reading continues to the end.
//! - When a receive fails, the caller's vector of descriptors is unchanged.
//! - A descriptor that arrives is in the registry before any fork of this crate can copy it.
//! - A socket works even in a process that cannot open anything: with an RLIMIT_NOFILE of 0, poll(2) fails with EINVAL
//!   even for one descriptor, so a receive does not depend on it.

use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::recv;
use nix::sys::socket::socketpair;

use crate::sys::calls;
use crate::sys::calls::Arrived;
use crate::sys::failpoint::fault;
use crate::sys::fd::PrivateFd;
use crate::sys::fd::Registry;

/// What a start was doing when [`Socket::pair`] failed.
pub(crate) const MAKING: &str = "making a control socket";

/// One end of a connected pair of SOCK_SEQPACKET sockets.
///
/// Messages arrive whole, in order, and with exactly the descriptors they were sent with.
///
/// # Examples
///
/// ```
/// use std::io::IoSlice;
///
/// use start_methods::{Received, Socket};
///
/// # fn main() -> std::io::Result<()> {
/// let (here, there) = Socket::pair()?;
/// here.send(&[IoSlice::new(b"hello")], &[])?;
///
/// let mut buffer = [0; 16];
/// let Received::Message(len) = there.recv(&mut buffer, &mut Vec::new())? else { panic!() };
/// assert_eq!(&buffer[..len], b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Socket<F = PrivateFd> {
    fd: F,
    is_distrusted: bool,
}

/// The result of a receive.
///
/// # Examples
///
/// ```
/// use start_methods::{Received, Socket};
///
/// let (here, there) = Socket::pair()?;
/// let (mut buffer, mut fds) = ([0; 16], Vec::new());
/// assert_eq!(here.try_recv(&mut buffer, &mut fds)?, Received::Empty);
/// drop(there);
/// assert_eq!(here.try_recv(&mut buffer, &mut fds)?, Received::Closed);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message of this many bytes is in the buffer.
    Message(usize),
    /// There is no message yet. Only the `try_` functions return this.
    Empty,
    /// Everything has been read, and every process that had the other end has closed it.
    Closed,
}

/// What became of a message that was sent without waiting.
///
/// # Examples
///
/// ```
/// use std::io::IoSlice;
///
/// use start_methods::{Offered, Socket};
///
/// let (here, _there) = Socket::pair()?;
/// assert_eq!(here.offer(&[IoSlice::new(b"hello")], &[])?, Offered::Taken);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Offered {
    /// It was sent.
    Taken,
    /// The socket is full: it becomes writable when the other end has received something.
    Full,
    /// As many descriptors of this user are on their way as the limit of open files allows (ETOOMANYREFS). Nothing tells
    /// when that changes.
    TooManyInFlight,
}

impl Socket {
    /// Two connected ends, both private (see [`PrivateFd`]).
    ///
    /// # Errors
    ///
    /// EMFILE or ENFILE when the descriptor table of the process or of the system is full.
    ///
    /// # Examples
    ///
    /// ```
    /// let (here, there) = start_methods::Socket::pair()?;
    /// # drop((here, there));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn pair() -> io::Result<(Self, Self)> {
        fault!("socketpair");
        // Held while the pair is made: a fork before both are registered would copy them into the child.
        let mut registry = Registry::lock();
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let (first, second) = registry.adopt_pair(pair)?;
        Ok((Self::from_fd(first), Self::from_fd(second)))
    }

    /// A socket from a descriptor that arrived in a message.
    ///
    /// The type of the descriptor is not checked: if it is not a socket of this kind, sending and receiving fail.
    ///
    /// # Examples
    ///
    /// A socket travels over another one:
    ///
    /// ```
    /// use std::io::IoSlice;
    /// use std::os::fd::AsFd;
    ///
    /// use start_methods::{Received, Socket};
    ///
    /// let (here, there) = Socket::pair()?;
    /// let (mine, yours) = Socket::pair()?;
    /// here.send(&[IoSlice::new(b"a socket")], &[yours.as_fd()])?;
    ///
    /// let (mut buffer, mut fds) = ([0; 16], Vec::new());
    /// there.recv(&mut buffer, &mut fds)?;
    /// let yours = Socket::from_fd(fds.remove(0));
    /// yours.send(&[IoSlice::new(b"hello")], &[])?;
    /// assert_eq!(mine.recv(&mut buffer, &mut fds)?, Received::Message(5));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn from_fd(fd: PrivateFd) -> Self {
        Self { fd, is_distrusted: false }
    }

    /// Does not trust the process at the other end: the close of a descriptor that arrives, and the close of this socket
    /// with messages that were not read, may wait for that process, so they happen on a thread of their own.
    ///
    /// # Examples
    ///
    /// ```
    /// let (mut here, _there) = start_methods::Socket::pair()?;
    /// here.distrust();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn distrust(&mut self) {
        self.fd.distrust_messages();
        self.is_distrusted = true;
    }

    /// The descriptor, to be sent to another process.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{PrivateFd, Socket};
    ///
    /// let (here, _there) = Socket::pair()?;
    /// let fd: PrivateFd = here.into_fd();
    /// # drop(fd);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn into_fd(self) -> PrivateFd {
        self.fd
    }
}

impl<F: AsFd> Socket<F> {
    /// A socket that shares its descriptor with other values, an `Arc` of a [`PrivateFd`] for instance.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    /// use std::sync::Arc;
    ///
    /// use start_methods::{Received, Socket};
    ///
    /// let (here, there) = Socket::pair()?;
    /// let fd = Arc::new(here.into_fd());
    /// let here = Socket::sharing(Arc::clone(&fd));
    /// here.send(&[IoSlice::new(b"hello")], &[])?;
    /// assert_eq!(there.recv(&mut [0; 16], &mut Vec::new())?, Received::Message(5));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn sharing(fd: F) -> Self {
        Self { fd, is_distrusted: false }
    }

    /// What holds the descriptor.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::fd::AsFd;
    ///
    /// let (here, _there) = start_methods::Socket::pair()?;
    /// let fd = here.get_ref().as_fd();
    /// # let _ = fd;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn get_ref(&self) -> &F {
        &self.fd
    }

    /// Sends one message, the concatenation of `parts`. Blocks while the socket is full.
    ///
    /// Never raises SIGPIPE. The descriptors are duplicated; the caller keeps its own.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: the message has no bytes (it could not be distinguished from the end), or more than 253
    ///   descriptors, the kernel's limit.
    /// - `BrokenPipe`: the other end is closed.
    /// - `ConnectionReset`, once, in place of `BrokenPipe`: the other end was closed with unread messages.
    /// - EMSGSIZE: the message is larger than the socket's buffer.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    ///
    /// use start_methods::Socket;
    ///
    /// let (here, there) = Socket::pair()?;
    /// here.send(&[IoSlice::new(b"one "), IoSlice::new(b"message")], &[])?;
    /// there.recv(&mut [0; 16], &mut Vec::new())?;
    /// drop(there);
    /// let error = here.send(&[IoSlice::new(b"another")], &[]).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send(&self, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(parts, fds, libc::MSG_NOSIGNAL)
    }

    /// As [`send`](Self::send), but does not block: returns `false` if the socket is full.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    ///
    /// use start_methods::Socket;
    ///
    /// let (here, _there) = Socket::pair()?;
    /// let message = [0; 4096];
    /// while here.try_send(&[IoSlice::new(&message)], &[])? {}
    /// // The socket is full.
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_send(&self, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        Ok(self.offer(parts, fds)? == Offered::Taken)
    }

    /// As [`try_send`](Self::try_send), and says what there is no room for.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    ///
    /// use start_methods::{Offered, Socket};
    ///
    /// let (here, _there) = Socket::pair()?;
    /// let message = [0; 4096];
    /// while here.offer(&[IoSlice::new(&message)], &[])? == Offered::Taken {}
    /// assert_eq!(here.offer(&[IoSlice::new(&message)], &[])?, Offered::Full);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn offer(&self, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<Offered> {
        match self.send_with(parts, fds, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) {
            Ok(()) => Ok(Offered::Taken),
            Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => Ok(Offered::TooManyInFlight),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Offered::Full),
            Err(error) => Err(error),
        }
    }

    /// Receives the next message. Blocks until there is one.
    ///
    /// Its bytes are written to the front of `buffer`; its descriptors are appended to `fds`.
    ///
    /// # Errors
    ///
    /// - `InvalidData`: the message is longer than `buffer`.
    /// - `InvalidData`: the message has no bytes. The kernel shows this only while the other end is open: an empty
    ///   message that is read after the sender has closed its end looks like the end, and is reported as
    ///   [`Received::Closed`].
    /// - EMFILE: the descriptors do not fit into the descriptor table of this process.
    ///
    /// In each case the message is lost, and those of its descriptors that did arrive are closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    ///
    /// use start_methods::{Received, Socket};
    ///
    /// let (here, there) = Socket::pair()?;
    /// here.send(&[IoSlice::new(b"hello")], &[])?;
    /// drop(here);
    ///
    /// let mut buffer = [0; 16];
    /// assert_eq!(there.recv(&mut buffer, &mut Vec::new())?, Received::Message(5));
    /// assert_eq!(there.recv(&mut buffer, &mut Vec::new())?, Received::Closed);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv(&self, buffer: &mut [u8], fds: &mut Vec<PrivateFd>) -> io::Result<Received> {
        loop {
            match self.try_recv(buffer, fds)? {
                Received::Empty => self.wait_readable()?,
                received => return Ok(received),
            }
        }
    }

    /// As [`recv`](Self::recv), but a message whose descriptors find no room in this process's table arrives, without any
    /// of them.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv), except EMFILE.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    /// use std::os::fd::AsFd;
    ///
    /// use start_methods::{Received, Socket};
    ///
    /// let (here, there) = Socket::pair()?;
    /// here.send(&[IoSlice::new(b"itself")], &[here.as_fd()])?;
    ///
    /// let (mut buffer, mut fds) = ([0; 16], Vec::new());
    /// assert_eq!(there.recv_or_drop_fds(&mut buffer, &mut fds)?, Received::Message(6));
    /// assert_eq!(fds.len(), 1); // None, if there were no room for it.
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv_or_drop_fds(&self, buffer: &mut [u8], fds: &mut Vec<PrivateFd>) -> io::Result<Received> {
        loop {
            let mut len = 0;
            let received = self.receive(fds, |socket, arrived_fds| {
                let arrived = calls::receive(socket, buffer, arrived_fds)?;
                len = arrived.len;
                Ok(arrived)
            });
            match received {
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) && len > 0 => {
                    return Ok(Received::Message(len));
                }
                Ok(Received::Empty) => self.wait_readable()?,
                received => return received,
            }
        }
    }

    /// As [`recv`](Self::recv), but does not block: returns [`Received::Empty`] if there is no message.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Received, Socket};
    ///
    /// let (here, _there) = Socket::pair()?;
    /// assert_eq!(here.try_recv(&mut [0; 16], &mut Vec::new())?, Received::Empty);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_recv(&self, buffer: &mut [u8], fds: &mut Vec<PrivateFd>) -> io::Result<Received> {
        self.receive(fds, |socket, arrived_fds| calls::receive(socket, buffer, arrived_fds))
    }

    /// Receives the next message, of at most `len_max` bytes, into a new vector. Blocks until there is one.
    pub(crate) fn recv_whole(&self, len_max: usize, fds: &mut Vec<PrivateFd>) -> io::Result<(Received, Vec<u8>)> {
        let mut bytes = Vec::new();
        loop {
            // Reserves no more memory than the message needs: a large allocation that was never used before would have
            // to be mapped.
            let room = self.next_len()?.clamp(1, len_max);
            match self.try_recv_into(&mut bytes, room, fds)? {
                Received::Empty => {}
                received => return Ok((received, bytes)),
            }
        }
    }

    /// As [`try_recv`](Self::try_recv), but replaces the content of `bytes` by the message, of at most `room` bytes.
    ///
    /// Reserves `room` bytes, but touches only the memory that the message fills.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    ///
    /// use start_methods::{Received, Socket};
    ///
    /// let (here, there) = Socket::pair()?;
    /// here.send(&[IoSlice::new(b"hello")], &[])?;
    ///
    /// let mut bytes = Vec::new();
    /// assert_eq!(there.try_recv_into(&mut bytes, 1 << 16, &mut Vec::new())?, Received::Message(5));
    /// assert_eq!(bytes, b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_recv_into(&self, bytes: &mut Vec<u8>, room: usize, fds: &mut Vec<PrivateFd>) -> io::Result<Received> {
        // Allocates before the registry is locked: its holder should be quick, since forks wait for it.
        bytes.clear();
        bytes.reserve(room);
        self.receive(fds, |socket, arrived_fds| calls::receive_into(socket, bytes, room, arrived_fds))
    }

    /// As [`try_recv_into`](Self::try_recv_into), but a message whose descriptors find no room in this process's table
    /// stays in the socket.
    ///
    /// Takes two system calls for a message instead of one. Only one thread may receive.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv). After EMFILE the message is still there.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    /// use std::os::fd::AsFd;
    ///
    /// use start_methods::{Received, Socket};
    ///
    /// let (here, there) = Socket::pair()?;
    /// here.send(&[IoSlice::new(b"itself")], &[here.as_fd()])?;
    ///
    /// let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    /// assert_eq!(there.try_recv_or_leave(&mut bytes, 1 << 16, &mut fds)?, Received::Message(6));
    /// assert_eq!(fds.len(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_recv_or_leave(
        &self,
        bytes: &mut Vec<u8>,
        room: usize,
        fds: &mut Vec<PrivateFd>,
    ) -> io::Result<Received> {
        bytes.clear();
        bytes.reserve(room);
        let received = self.receive(fds, |socket, arrived_fds| calls::peek_into(socket, bytes, room, arrived_fds));
        let is_left = received.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EMFILE));
        if !is_left && !matches!(received, Ok(Received::Empty | Received::Closed)) {
            // What was peeked at is taken, with the kernel's own references to its descriptors.
            self.try_recv_bytes(&mut Vec::new(), 1)?;
        }
        received
    }

    /// As [`try_recv_into`](Self::try_recv_into), without the descriptors of the message: they are closed unseen, and need
    /// no room. What does not fit `room` is lost.
    ///
    /// # Errors
    ///
    /// Those of recv(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    /// use std::os::fd::AsFd;
    ///
    /// use start_methods::{Received, Socket};
    ///
    /// let (here, there) = Socket::pair()?;
    /// here.send(&[IoSlice::new(b"itself")], &[here.as_fd()])?;
    ///
    /// let mut bytes = Vec::new();
    /// assert_eq!(there.try_recv_bytes(&mut bytes, 1 << 16)?, Received::Message(6));
    /// assert_eq!(bytes, b"itself");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_recv_bytes(&self, bytes: &mut Vec<u8>, room: usize) -> io::Result<Received> {
        bytes.clear();
        bytes.resize(room, 0);
        loop {
            match recv(self.fd.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Ok(Received::Closed),
                Ok(len) => {
                    bytes.truncate(len);
                    return Ok(Received::Message(len));
                }
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Empty),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn receive(
        &self,
        fds: &mut Vec<PrivateFd>,
        mut take: impl FnMut(BorrowedFd<'_>, &mut Vec<OwnedFd>) -> io::Result<Arrived>,
    ) -> io::Result<Received> {
        let mut arrived_fds = Vec::new();
        // Before the registry: dropping one locks that again.
        let mut adopted = Vec::new();
        // Held across the call: a fork before the descriptors are registered would copy them into the child.
        let mut registry = Registry::lock();
        let arrived = loop {
            match take(self.fd.as_fd(), &mut arrived_fds) {
                Ok(arrived) => break arrived,
                Err(error) => match error.kind() {
                    // ECONNRESET: the peer died with unread input. Its messages are still to come.
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset => {}
                    io::ErrorKind::WouldBlock => return Ok(Received::Empty),
                    _ => return Err(error),
                },
            }
        };
        let failure = self.adopt_all(&mut registry, arrived_fds, &mut adopted);
        drop(registry);
        if arrived.too_large {
            return Err(invalid("a message was truncated: it is too long, or has too many descriptors"));
        }
        if arrived.table_full {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        if arrived.len == 0 {
            return self.end_or_error(!adopted.is_empty() || failure.is_err());
        }
        failure?;
        fds.append(&mut adopted);
        Ok(Received::Message(arrived.len))
    }

    /// Registers what has arrived, in full even if one fails.
    fn adopt_all(&self, registry: &mut Registry, fds: Vec<OwnedFd>, adopted: &mut Vec<PrivateFd>) -> io::Result<()> {
        let mut result = Ok(());
        for fd in fds {
            match registry.adopt(fd) {
                Ok(mut fd) => {
                    if self.is_distrusted {
                        fd.distrust();
                    }
                    adopted.push(fd);
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// A receive of zero bytes: the end, or an invalid empty message.
    fn end_or_error(&self, with_descriptors: bool) -> io::Result<Received> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let hung_up = match poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) => fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)),
            // Assume the end: this type never sends an empty message.
            Err(Errno::EINVAL) => true,
            Err(errno) => return Err(errno.into()),
        };
        if with_descriptors || !hung_up {
            return Err(invalid("a message without bytes"));
        }
        Ok(Received::Closed)
    }

    fn wait_readable(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(Errno::EINVAL) => self.next_len().map(drop),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Blocks, without poll(2), and returns the length of the next message; 0 at the end. Peeks: neither the message
    /// nor its descriptors are taken.
    fn next_len(&self) -> io::Result<usize> {
        loop {
            match recv(self.fd.as_fd().as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
                Ok(len) => return Ok(len),
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn send_with(&self, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>], flags: libc::c_int) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a message needs at least one byte: an empty one could not be distinguished from the end",
            ));
        }
        loop {
            match calls::send(self.fd.as_fd(), parts, fds, flags) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // As many descriptors of this user are on their way as the limit of open files allows. Nothing tells
                // when that changes.
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) && flags & libc::MSG_DONTWAIT == 0 => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl<F: AsFd> AsFd for Socket<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
