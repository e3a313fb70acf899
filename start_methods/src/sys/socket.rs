//! One end of a control socket: whole messages, in order, with descriptors.
//!
//! SOCK_SEQPACKET, so that a descriptor always arrives with the message it was sent with, and no
//! message is ever half read. The read side never believes the other: what the kernel had to cut,
//! bytes or descriptors, is an error, and the descriptors that did arrive are closed.
//!
//! # Invariants
//!
//! - ECONNRESET ends nothing: it is reported once, *before* what the dead peer had sent, so it is
//!   skipped and reading goes on to the end.
//! - On every error path of a receive, the caller's vector of descriptors is what it was.
//! - A descriptor that arrives is in the registry before any fork of ours can copy it.
//! - A socket works also in a process that may open nothing: poll(2) then fails with EINVAL even for one descriptor
//!   (RLIMIT_NOFILE of 0), and is done without.

use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

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
/// Messages arrive whole, in order, and exactly with the descriptors they were sent with.
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
pub struct Socket {
    fd: PrivateFd,
}

/// What a receive found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message of so many bytes lies in the buffer.
    Message(usize),
    /// Nothing yet. Only the `try_` form says so.
    Empty,
    /// Everything has been read and the other end is closed, in every process that had it.
    Closed,
}

impl Socket {
    /// Two connected ends, both of them private (see [`PrivateFd`]).
    ///
    /// # Errors
    ///
    /// When the descriptor table of the process or of the system is full.
    pub fn pair() -> io::Result<(Self, Self)> {
        fault!("socketpair");
        // Held while they are made: a fork in between would copy them unregistered.
        let mut registry = Registry::lock();
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let (first, second) = registry.adopt_pair(pair)?;
        Ok((Self { fd: first }, Self { fd: second }))
    }

    /// A socket from its descriptor, for one that arrived in a message.
    ///
    /// What it is is not checked: if it is no such socket, sending and receiving fail.
    #[must_use]
    pub fn from_fd(fd: PrivateFd) -> Self {
        Self { fd }
    }

    /// The descriptor, to be sent on to another process.
    #[must_use]
    pub fn into_fd(self) -> PrivateFd {
        self.fd
    }

    /// Sends one message, the concatenation of `parts`, and waits while the socket is full.
    ///
    /// Never raises SIGPIPE. The descriptors are copied; the caller keeps its own.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a message without bytes (it could not be told from the end) and for more
    /// than 16 descriptors; `BrokenPipe` when the other end is closed; EMSGSIZE when the message is larger
    /// than the socket's buffer.
    pub fn send(&self, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(parts, fds, libc::MSG_NOSIGNAL)
    }

    /// As [`send`](Self::send), but does not wait: `false` means that the socket is full.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn try_send(&self, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        match self.send_with(parts, fds, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the next message, and waits for it.
    ///
    /// Its bytes go to the front of `buffer`, its descriptors (at most 16) to the end of `fds`.
    ///
    /// # Errors
    ///
    /// `InvalidData` when the message was longer than `buffer` or had more than 16 descriptors, and
    /// EMFILE when they did not fit into the descriptor table of this process; the message and those
    /// of its descriptors that did arrive are gone. `InvalidData` also when it had no bytes at all,
    /// of which the kernel lets us know only while the other end is open: an empty message that is
    /// read after the sender has closed its end looks like the end, and is reported as such.
    pub fn recv(&self, buffer: &mut [u8], fds: &mut Vec<PrivateFd>) -> io::Result<Received> {
        loop {
            match self.try_recv(buffer, fds)? {
                Received::Empty => self.wait_readable()?,
                received => return Ok(received),
            }
        }
    }

    /// As [`recv`](Self::recv), but does not wait: [`Received::Empty`] when there is nothing.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&self, buffer: &mut [u8], fds: &mut Vec<PrivateFd>) -> io::Result<Received> {
        self.receive(fds, |socket, arrived_fds| calls::receive(socket, buffer, arrived_fds))
    }

    /// The next message, whole, as long as it is not longer than `len_max`. Waits for it.
    pub(crate) fn recv_whole(&self, len_max: usize, fds: &mut Vec<PrivateFd>) -> io::Result<(Received, Vec<u8>)> {
        let mut bytes = Vec::new();
        loop {
            // No more memory is asked for than the message has: a large piece that was never used before would have to
            // be mapped.
            let room = self.next_len()?.clamp(1, len_max);
            match self.try_recv_into(&mut bytes, room, fds)? {
                Received::Empty => {}
                received => return Ok((received, bytes)),
            }
        }
    }

    /// As [`try_recv`](Self::try_recv), but what `bytes` held is replaced by the message, of at most `room` bytes.
    ///
    /// Memory is reserved for the longest message, but only what the message fills is ever touched.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn try_recv_into(&self, bytes: &mut Vec<u8>, room: usize, fds: &mut Vec<PrivateFd>) -> io::Result<Received> {
        // Not under the registry's lock.
        bytes.clear();
        bytes.reserve(room);
        self.receive(fds, |socket, arrived_fds| calls::receive_into(socket, bytes, room, arrived_fds))
    }

    fn receive(
        &self,
        fds: &mut Vec<PrivateFd>,
        mut take: impl FnMut(BorrowedFd<'_>, &mut Vec<OwnedFd>) -> io::Result<Arrived>,
    ) -> io::Result<Received> {
        let mut arrived_fds = Vec::new();
        // Held across the call: a fork in between would copy what has arrived, unregistered.
        let mut registry = Registry::lock();
        let arrived = loop {
            match take(self.fd.as_fd(), &mut arrived_fds) {
                Ok(arrived) => break arrived,
                Err(error) => match error.kind() {
                    // ECONNRESET: the peer died with unread input. What it sent is still to come.
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset => {}
                    io::ErrorKind::WouldBlock => return Ok(Received::Empty),
                    _ => return Err(error),
                },
            }
        };
        if arrived.too_large {
            return Err(invalid("a message was cut: it is too long, or has too many descriptors"));
        }
        if arrived.table_full {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        if arrived.len == 0 {
            return self.nothing(!arrived_fds.is_empty());
        }
        let mut adopted = Vec::with_capacity(arrived_fds.len());
        let mut failure = None;
        for fd in arrived_fds {
            match registry.adopt(fd) {
                Ok(fd) => adopted.push(fd),
                Err(error) => failure = Some(error),
            }
        }
        // Before `adopted` can be dropped, which takes the lock again.
        drop(registry);
        match failure {
            Some(error) => Err(error),
            None => {
                fds.append(&mut adopted);
                Ok(Received::Message(arrived.len))
            }
        }
    }

    /// Zero bytes: the end, or a message that should not have been sent.
    fn nothing(&self, with_descriptors: bool) -> io::Result<Received> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let hung_up = match poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) => fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)),
            // Then the end is likelier: nobody who uses this type sends such a message.
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

    /// Waits without poll(2), and says how long the next message is; 0 at the end. A peek takes neither the message nor
    /// its descriptors.
    fn next_len(&self) -> io::Result<usize> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
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
                "a message needs at least one byte: an empty one could not be told from the end",
            ));
        }
        loop {
            match calls::send(self.fd.as_fd(), parts, fds, flags) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
