//! The lifeline: a pipe by which the kernel kills the children of a process that has died.
//!
//! The parent holds the only write end and never writes. Each child has its own open file description of the read end,
//! for which it requests SIGKILL at any event (`F_SETOWN`, `F_SETSIG`, `O_ASYNC`). The only possible event is the
//! hang-up at the parent's death. It works for a child that is busy or stopped, through a fork server, and whichever
//! thread of the parent started the child: the parent-death signal of prctl(2) fails in each of these cases.
//!
//! The child inherits the descriptor, and *both* sides arm it at once: the process that forks the child, so that a
//! child that is stopped before its first step is tied by the time its process id is known; and the child, because the
//! process that forked it may have died before arming it.
//!
//! Also called: parent-death signal, PR_SET_PDEATHSIG, orphan prevention, kill on parent exit.
//!
//! # Invariants
//!
//! - Only one process has the write end: it is registered, and closed on exec.
//! - Each child has its own open file description. The recipient of the signal is a property of the description, so the
//!   next sibling would take over a shared one. Only the child and, for a moment, the process that forks it hold it:
//!   the description is gone with the child, and signals no other process.
//! - The pipe exists as long as this process holds a [`Child`](crate::Child) that uses it.

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

/// What a start was doing when it could not create the pipe.
pub(crate) const MAKING: &str = "making the lifeline pipe";

/// What a start was doing when it could not tie a child to its lifeline.
pub(crate) const ARMING: &str = "arming a lifeline";

/// What a start was doing when it could not open a lifeline, which it does through /proc.
pub(crate) const OPENING: &str = "opening a lifeline in /proc/self/fd";

static STATE: PerProcess<State> = PerProcess::new();

// One static for both: a start opens `current` before it forks, so the child finds the cell initialized when it arms.
#[derive(Debug, Default)]
struct State {
    /// The pipe whose write end shows this process's children that it is alive; gone when no child needs it.
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
    /// This process's lifeline; created if there is none.
    pub(crate) fn get() -> io::Result<Arc<Self>> {
        // Held until the pipe is stored: concurrent starts share one pipe.
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

    /// The read end for one child to inherit, with a number of at least `lowest`.
    pub(crate) fn open(&self, lowest: RawFd) -> io::Result<PrivateFd> {
        let path = format!("/proc/self/fd/{}", self.read.as_raw_fd());
        let mut registry = Registry::lock();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        registry.adopt_from(open(path.as_str(), flags, Mode::empty())?, lowest)
    }
}

/// In the process that has forked `pid`: ties the child to the lifeline that it inherited.
pub(crate) fn arm_for(pid: u32, lifeline: PrivateFd) -> io::Result<()> {
    match calls::signal_on_event(lifeline.as_fd(), pid, libc::SIGKILL) {
        // It has ended and has been reaped by other code.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        result => result?,
    }
    fcntl(&lifeline, FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// In the child: ties this process to the lifeline that it inherited.
///
/// Exits at once if the parent is already dead.
pub(crate) fn arm(own: PrivateFd) -> io::Result<()> {
    calls::signal_on_event(own.as_fd(), std::process::id(), libc::SIGKILL)?;
    fcntl(&own, FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK))?;
    // The parent may have died before either side had armed the description: then no signal will follow.
    if wait::hung_up(own.as_fd(), Duration::ZERO)? {
        calls::exit_now(0);
    }
    STATE.get().armed.set(own).expect("a process arms its lifeline once");
    Ok(())
}
