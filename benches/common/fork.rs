//! A bare process: fork, run, exit. The least that a worker can be.

#![expect(unsafe_code, reason = "fork has no safe wrapper")]

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use nix::unistd::fork;

/// A forked copy of this process that runs one function, to be waited for.
#[must_use = "a child that nobody waits for becomes a zombie"]
pub(crate) struct Forked {
    pub(crate) pid: Pid,
}

impl Forked {
    /// `body` must be content with what survives a fork beside threads: no locks, and little memory.
    pub(crate) fn run(body: impl FnOnce()) -> anyhow::Result<Self> {
        // SAFETY: the copy runs `body` and exits. glibc keeps its allocator usable in the copy; all callers in the
        // benches do no more than allocate, compute, and read and write memory and sockets of their own.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child }),
            ForkResult::Child => {
                // It may spin, and must not do so for ever when this process is killed.
                let died = set_pdeathsig(Signal::SIGKILL).is_err() || catch_unwind(AssertUnwindSafe(body)).is_err();
                // SAFETY: ends the process, without running handlers that belong to the parent.
                unsafe { libc::_exit(i32::from(died)) }
            }
        }
    }

    pub(crate) fn wait(self) -> anyhow::Result<()> {
        waitpid(self.pid, None)?;
        Ok(())
    }
}
