//! The road over a socket: one datagram for each frame, blobs by SCM_RIGHTS.
//!
//! A pair of AF_UNIX SOCK_SEQPACKET sockets, apart from the control socket. The parent keeps **both** ends:
//!
//! - What the worker has not read, the parent can read from the worker's own end. The kernel hands each datagram to
//!   exactly one reader, so each order is either read or recalled, and after a death it is known exactly which had
//!   never arrived. (While the worker lives, it may read one between two that are recalled.)
//! - The worker's end stays open when the worker dies, so there is no ECONNRESET, which this kind of socket reports
//!   *before* the data that is already queued.
//!
//! The end of the road does not tell of the worker's death, then; the pidfd does. The worker, whose only copies of
//! the parent's end are in the parent, sees the end of the road when the parent is gone.

use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use start_methods::PrivateFd;
use start_methods::Socket;

use crate::transport::Attached;
use crate::transport::Attachment;
use crate::transport::Note;
use crate::transport::Received;
use crate::transport::Sent;
use crate::transport::frame::FRAME_MAX;

/// The parent's side.
#[derive(Debug)]
pub(crate) struct Road {
    ours: Socket,
    theirs: Socket,
}

/// The worker's side.
#[derive(Debug)]
pub(crate) struct WorkerRoad(Socket);

impl Road {
    pub(crate) fn new() -> io::Result<Self> {
        let (ours, theirs) = Socket::pair()?;
        Ok(Self { ours, theirs })
    }

    /// What the worker must be given at its birth.
    pub(crate) fn worker_end(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }

    /// Readable when there are answers.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }

    pub(crate) fn send(&self, head: &[u8], body: &[u8], attached: Attachment<'_>) -> io::Result<Sent> {
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        match self.ours.try_send(&parts, attached.as_slice())? {
            true => Ok(Sent::Taken),
            false => Ok(Sent::Full),
        }
    }

    /// The next answer, if one is there.
    ///
    /// # Errors
    ///
    /// `ConnectionAborted`: a task has shut the socket down. Others: what came is no frame.
    pub(crate) fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<Option<Received>> {
        let mut fds = Vec::new();
        match self.ours.try_recv_into(buffer, FRAME_MAX, &mut fds)? {
            start_methods::Received::Message(len) => Ok(Some(Received { len, attached: only(fds)? })),
            start_methods::Received::Empty => Ok(None),
            // Both ends are open here, so this is no death.
            start_methods::Received::Closed => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Takes back every order that the worker has not read, oldest first.
    pub(crate) fn recall(&self) -> io::Result<Vec<Note>> {
        let mut unread = Vec::new();
        let mut buffer = Vec::new();
        while let Some(Received { attached, .. }) = try_recv(&self.theirs, &mut buffer)? {
            unread.push(Note { frame: buffer.clone(), attached: attached.map(Attached::Fd) });
        }
        Ok(unread)
    }
}

fn try_recv(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<Option<Received>> {
    let mut fds = Vec::new();
    match socket.try_recv_into(buffer, FRAME_MAX, &mut fds)? {
        start_methods::Received::Message(len) => Ok(Some(Received { len, attached: only(fds)? })),
        start_methods::Received::Empty | start_methods::Received::Closed => Ok(None),
    }
}

fn only(mut fds: Vec<PrivateFd>) -> io::Result<Option<PrivateFd>> {
    let attached = fds.pop();
    match fds.is_empty() {
        true => Ok(attached),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "a frame with more than one descriptor")),
    }
}

impl WorkerRoad {
    pub(crate) fn from_fd(fd: PrivateFd) -> Self {
        Self(Socket::from_fd(fd))
    }

    /// Waits for the next order; `None` when the parent is gone.
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut fds = Vec::new();
        match self.0.recv(buffer, &mut fds)? {
            start_methods::Received::Message(len) => Ok(Some(Received { len, attached: only(fds)? })),
            start_methods::Received::Empty | start_methods::Received::Closed => Ok(None),
        }
    }

    /// Waits until the parent's side has taken the answer.
    pub(crate) fn send(&self, head: &[u8], body: &[u8], attached: Attachment<'_>) -> io::Result<()> {
        self.0.send(&[IoSlice::new(head), IoSlice::new(body)], attached.as_slice())
    }
}
