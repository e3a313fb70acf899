//! The lifeline: a pipe by which the kernel itself kills the children of a process that has died.
//!
//! The parent holds the only write end and never writes. Each child has an opening of the read end
//! of its own, for which it gets SIGKILL when something happens (`F_SETOWN`, `F_SETSIG`, `O_ASYNC`),
//! and the one thing that can happen is the hang-up at the parent's death. It works for a child that
//! is busy or stopped, through a fork server, and whichever thread of the parent made the child: the
//! parent death signal of prctl(2) fails in each of those.
//!
//! The child is born with the descriptor, and *both* sides arm it at once: whoever makes the child, so
//! that one that is stopped before it can do anything is tied already when anybody knows of it, and
//! the child, whose maker may have died before it could.
//!
//! # Invariants
//!
//! - The write end is in one process only: it is registered, and closed on exec.
//! - A child has an open file description to itself: the owner of the signal is a property of the
//!   description, and one that is shared would be taken over by the next sibling. It is held by the
//!   child and, for a moment, its maker: so it is gone with the child, and signals nobody else.
//! - The pipe lives as long as any child of this process that nobody has let go of.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::Weak;
use std::time::Duration;

use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::fcntl::open;
use nix::sys::stat::Mode;

use crate::sys::calls;
use crate::sys::failpoint::fault;
use crate::sys::fd;
use crate::sys::fd::PrivateFd;
use crate::sys::fd::Registry;
use crate::sys::process;
use crate::sys::process::PerProcess;
use crate::sys::wait;

/// What a start was doing when it could not make the pipe.
pub(crate) const MAKING: &str = "making the lifeline pipe";

/// What a start was doing when it could not tie a child to its lifeline.
pub(crate) const ARMING: &str = "arming a lifeline";

/// What a start was doing when it could not open a lifeline, which goes by way of /proc.
pub(crate) const OPENING: &str = "opening a lifeline in /proc/self/fd";

static STATE: PerProcess<State> = PerProcess::new();

// One static for both, so that the fork of a child, which opens `current` beforehand, finds the cell initialized.
#[derive(Debug, Default)]
struct State {
    /// The pipe whose write end shows this process's children that it lives; gone when no child needs it.
    current: Mutex<Weak<Lifeline>>,
    /// The read end of the parent's pipe that this process was started with: it must stay open, and no child may keep
    /// it.
    armed: OnceLock<PrivateFd>,
}

/// The parent's side: both ends of the pipe, for as long as there are children.
#[derive(Debug)]
pub(crate) struct Lifeline {
    read: PrivateFd,
    _write: PrivateFd,
}

impl Lifeline {
    /// This process's lifeline; made when there is none.
    pub(crate) fn get() -> io::Result<Arc<Self>> {
        let mut slot = process::lock(&STATE.get().current);
        if let Some(lifeline) = slot.upgrade() {
            return Ok(lifeline);
        }
        fault!("pipe");
        let (read, write) = fd::pipe(OFlag::empty())?;
        let lifeline = Arc::new(Self { read, _write: write });
        *slot = Arc::downgrade(&lifeline);
        Ok(lifeline)
    }

    /// What one child is to be born with, numbered `lowest` or higher.
    pub(crate) fn open(&self, lowest: RawFd) -> io::Result<PrivateFd> {
        let path = format!("/proc/self/fd/{}", self.read.as_raw_fd());
        let mut registry = Registry::lock();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        registry.adopt_from(open(path.as_str(), flags, Mode::empty())?, lowest)
    }
}

/// In the maker of a child: ties the child to what it was born with.
pub(crate) fn arm_for(pid: u32, lifeline: PrivateFd) -> io::Result<()> {
    match calls::signal_on_event(lifeline.as_fd(), pid, libc::SIGKILL) {
        // It has ended, and somebody else has reaped it.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        result => result?,
    }
    fcntl(&lifeline, FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// In the child: ties this process to what it was born with.
///
/// Ends the process at once if the parent is dead already.
pub(crate) fn arm(own: PrivateFd) -> io::Result<()> {
    calls::signal_on_event(own.as_fd(), std::process::id(), libc::SIGKILL)?;
    fcntl(&own, FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK))?;
    // The parent may have died before anybody had done this: then no signal will come any more.
    if wait::hung_up(own.as_fd(), Duration::ZERO)? {
        calls::exit_now(0);
    }
    STATE.get().armed.set(own).expect("a process is born once");
    Ok(())
}
