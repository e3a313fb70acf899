//! [`Handle`]: how a process is addressed, by its pidfd or, where there are no pidfds, by its id.
//!
//! Some surroundings have no pidfds: valgrind, gVisor, filters of system calls. There, a child of this process is
//! addressed by its process id, and its end is seen by a pipe whose write end only the child has.
//!
//! # Invariants
//!
//! - A process id is used only for a child of this process that this process has not reaped: until then the kernel does
//!   not give the id to another process. The caller excludes a reap meanwhile.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;

use crate::sys::calls;
use crate::sys::fd::PrivateFd;

/// A started process.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pid: u32,
    end: Arc<PrivateFd>,
    kind: Kind,
}

/// What the descriptor of a [`Handle`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pidfd,
    /// The read end of a pipe, which hangs up when the child ends, or closes its end; or later, if the child has forked
    /// a process that keeps a copy.
    Pipe,
}

impl Handle {
    pub(crate) fn of_pidfd(pid: u32, pidfd: PrivateFd) -> Self {
        Self { pid, end: Arc::new(pidfd), kind: Kind::Pidfd }
    }

    /// Only for a child of this process.
    pub(crate) fn of_pipe(pid: u32, read: PrivateFd) -> Self {
        Self { pid, end: Arc::new(read), kind: Kind::Pipe }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Readable, or hung up, once the process has ended.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    pub(crate) fn is_open_here(&self) -> bool {
        self.end.is_open_here()
    }

    /// The pidfd, if it is one.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        (self.kind == Kind::Pidfd).then(|| self.end())
    }

    /// Reaps a child of this process; `None` if it still runs. Returns the status word of wait(2).
    pub(crate) fn reap(&self) -> io::Result<Option<i32>> {
        match self.pidfd() {
            Some(pidfd) => calls::reap_pidfd(pidfd),
            None => calls::reap_pid(self.pid),
        }
    }

    /// Signals a child of this process by its id. Does nothing if other code has reaped it.
    pub(crate) fn signal_by_id(&self, signal: Signal) -> io::Result<()> {
        match calls::is_unreaped_child(self.pid)? {
            true => Ok(kill(calls::pid_t(self.pid), signal)?),
            false => Ok(()),
        }
    }
}
