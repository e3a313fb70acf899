//! A bare forked process: fork, run, exit. The minimal worker, as a limit for the others.

#![expect(unsafe_code, reason = "fork has no safe wrapper")]

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use nix::unistd::fork;

/// A forked copy of this process that runs one function.
#[must_use = "a child that is not waited for stays a zombie"]
pub(crate) struct Forked {
    pub(crate) pid: Pid,
}

impl Forked {
    /// Forks. `body` must be safe to run after a fork in a process with threads: it takes no locks.
    pub(crate) fn run(body: impl FnOnce()) -> anyhow::Result<Self> {
        // SAFETY: the copy runs `body` and exits. glibc keeps its allocator usable in the copy; all callers in the
        // benches only allocate, compute, and read and write their own memory and sockets.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child }),
            ForkResult::Child => {
                // `body` may spin; it must not do so forever after the parent was killed.
                let died = set_pdeathsig(Signal::SIGKILL).is_err() || catch_unwind(AssertUnwindSafe(body)).is_err();
                // SAFETY: ends the process without running the exit handlers that it copied from the parent.
                unsafe { libc::_exit(i32::from(died)) }
            }
        }
    }

    pub(crate) fn wait(self) -> anyhow::Result<()> {
        waitpid(self.pid, None)?;
        Ok(())
    }
}
