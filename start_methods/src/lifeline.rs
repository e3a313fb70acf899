//! The lifeline: a pipe by which the kernel itself kills the children of a process that has died.
//!
//! The parent holds the only write end and never writes. Each child opens the read end anew, asks
//! for SIGKILL when something happens on it (`F_SETOWN`, `F_SETSIG`, `O_ASYNC`), and the one thing
//! that can happen is the hang-up at the parent's death. It works for a child that is busy or
//! stopped, through a fork server, and whichever thread of the parent made the child: the parent
//! death signal of prctl(2) fails in each of those.
//!
//! # Invariants
//!
//! - The write end is in one process only: it is registered, and closed on exec.
//! - A child arms its own open file description: the owner of the signal is a property of the
//!   description, and one that is shared would be taken over by the next sibling.
//! - The pipe lives as long as any child of this process that nobody has let go of.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::fcntl::open;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

use crate::fd::PrivateFd;
use crate::fd::Registry;
use crate::process;
use crate::sys;

/// The parent's side: both ends of the pipe, for as long as there are children.
#[derive(Debug)]
pub(crate) struct Lifeline {
    read: PrivateFd,
    _write: PrivateFd,
}

impl Lifeline {
    /// This process's lifeline; made when there is none.
    pub(crate) fn get() -> io::Result<Arc<Self>> {
        let mut slot = process::lock(&process::current().lifeline);
        if let Some(lifeline) = slot.upgrade() {
            return Ok(lifeline);
        }
        let (read, write) = {
            let mut registry = Registry::lock();
            registry.adopt_pair(pipe2(OFlag::O_CLOEXEC)?)?
        };
        let lifeline = Arc::new(Self { read, _write: write });
        *slot = Arc::downgrade(&lifeline);
        Ok(lifeline)
    }

    /// The end that goes to a child.
    pub(crate) fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// In the child: ties this process to the read end that its parent has sent.
///
/// Ends the process at once if the parent is dead already.
pub(crate) fn arm(received: PrivateFd) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", received.as_raw_fd());
    let own = {
        let mut registry = Registry::lock();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        registry.adopt(open(path.as_str(), flags, Mode::empty())?)?
    };
    drop(received);
    sys::own_signal_of(own.as_fd(), libc::SIGKILL)?;
    fcntl(&own, FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK))?;
    // The parent may have died before the line above: then no signal will come any more.
    let mut fds = [PollFd::new(own.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO)?;
    if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
        sys::exit_now(0);
    }
    process::current().armed.set(own).expect("a process is born once");
    Ok(())
}
