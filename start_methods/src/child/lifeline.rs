//! The lifeline: a pair of sockets by which the kernel kills a child whose parent has died.
//!
//! Each child has a pair of its own. The parent keeps one end and never writes. The child has the other end, for which
//! it requests SIGKILL at any event (`F_SETOWN`, `F_SETSIG`, `O_ASYNC`). The only possible event is the hang-up: at the
//! parent's death, or when the parent cuts the lifeline. It works for a child that is busy or stopped, through a fork
//! server, and whichever thread of the parent started the child: the parent-death signal of prctl(2) fails in each of
//! these cases. And it needs no permission of the parent's, which may have dropped the right to signal its children:
//! whether the kernel may send the signal is decided by the rights of the process that requested it.
//!
//! The child inherits the descriptor, and *both* sides arm it at once: the process that forks the child, so that a
//! child that is stopped before its first step is tied by the time its process id is known; and the child, because the
//! process that forked it may have died before arming it.
//!
//! Also called: parent-death signal, PR_SET_PDEATHSIG, orphan prevention, kill on parent exit.
//!
//! # Invariants
//!
//! - Only one process has the parent's end: forks close their copies ([`UnsharedFd`]), and so does exec.
//! - Only the child and, for a moment, the process that forks it hold the child's end: it is gone with the child, and
//!   signals no other process.
//! - Once the parent has cut the lifeline, by dropping it at the latest, copies of the parent's end are worthless.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::time::Duration;

use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::sys::socket::Shutdown;
use nix::sys::socket::shutdown;

use crate::sys::calls;
use crate::sys::failpoint::fault;
use crate::sys::fd::PrivateFd;
use crate::sys::process::PerProcess;
use crate::sys::unshared::UnsharedFd;
use crate::sys::wait;

/// What a start was doing when it could not create the pair.
pub(crate) const MAKING: &str = "making a lifeline";

/// What a start was doing when it could not tie a child to its lifeline.
pub(crate) const ARMING: &str = "arming a lifeline";

/// This process's end of its parent's lifeline: it must stay open, and no child may keep it.
static ARMED: PerProcess<OnceLock<PrivateFd>> = PerProcess::new();

/// The parent's end. Dropping it kills the child.
#[derive(Debug)]
pub(crate) struct Lifeline {
    end: UnsharedFd,
}

impl Lifeline {
    /// A new lifeline, and the child's end of it, which has a number of at least `lowest`.
    pub(crate) fn new(lowest: RawFd) -> io::Result<(Self, PrivateFd)> {
        fault!("lifeline");
        // In a forked child `arm` finds the cell initialized.
        ARMED.get();
        let (end, theirs) = UnsharedFd::pair(lowest)?;
        if let Some(end) = end.get() {
            // The child can send nothing: what its messages carried would be closed with this end, and the close of a
            // descriptor of its choice may wait. To be read from, this end is not needed.
            shutdown(end.as_raw_fd(), Shutdown::Read)?;
        }
        Ok((Self { end }, theirs))
    }

    /// Has the kernel kill the child, even one that this process may not signal. Nothing happens the second time, and
    /// in a forked copy of this process.
    pub(crate) fn cut(&self) {
        if let Some(end) = self.end.get() {
            // Not by closing it: another process may hold a copy. Fails if the child's end is closed already.
            let _result = shutdown(end.as_raw_fd(), Shutdown::Both);
        }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.cut();
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
    ARMED.get().set(own).expect("a process arms its lifeline once");
    Ok(())
}
