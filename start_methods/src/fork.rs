//! Start method *fork*: a copy of the calling process, refused while foreign threads exist.
//!
//! # Invariants
//!
//! - The registry is locked and all signals are blocked across the fork, so that the child knows
//!   every descriptor it must close, and no handler of the parent's runs in it.
//! - The child waits for its boot message, and so cannot have ended when its pidfd is opened.

use std::io;
use std::io::Write;
use std::os::fd::AsRawFd;

use nix::unistd::setpgid;

use crate::boot::Boot;
use crate::born;
use crate::child::Child;
use crate::error::StartError;
use crate::fd::PrivateFd;
use crate::fd::Registry;
use crate::message::Stage;
use crate::method::StartMethod;
use crate::signals::Blocked;
use crate::socket::Socket;
use crate::sys;
use crate::threads::ForeignThreads;
use crate::threads::Hold;

/// Forks this process into `boot`'s entry.
pub(crate) fn start(boot: &Boot<'_>, foreign: ForeignThreads) -> Result<Child, StartError> {
    let parcel = boot.prepare(StartMethod::Fork)?;
    let (ours, theirs) = Socket::pair().map_err(StartError::system("making a control socket"))?;
    let (pid, pidfd) = {
        let hold = Hold::acquire(foreign)?;
        if foreign == ForeignThreads::Refuse {
            // What is in the buffer now would be written by the child as well. A thread we know
            // nothing of may hold the lock of the stream; but there is none.
            let _result = io::stdout().flush();
        }
        fork_waiting(&hold, theirs).map_err(|(stage, error)| match stage {
            Stage::Pidfd => StartError::system("opening a pidfd")(error),
            _ => StartError::system("fork")(error),
        })?
    };
    let child = Child::direct(pid, ours, pidfd, parcel.lifeline.clone());
    parcel.send(child.control())?;
    Ok(child)
}

/// Forks a child that waits at `control` for its boot message, and opens its pidfd.
///
/// When the second fails the child is reaped before this returns.
pub(crate) fn fork_waiting(hold: &Hold, control: Socket) -> Result<(u32, PrivateFd), (Stage, io::Error)> {
    let control = control.into_fd();
    let pid = {
        let registry = Registry::lock();
        let _blocked = Blocked::all();
        sys::fork(hold, || born::after_fork(&registry, control.as_raw_fd())).map_err(|error| (Stage::Fork, error))?
    };
    // Parent and child both do it, so that whoever acts next finds it done.
    let group = sys::pid_t(pid);
    let _result = setpgid(group, group);
    drop(control);
    let pidfd = {
        let mut registry = Registry::lock();
        sys::pidfd_open(pid).and_then(|fd| registry.adopt(fd))
    };
    match pidfd {
        Ok(pidfd) => Ok((pid, pidfd)),
        Err(error) => {
            // The other end of its socket closes with our return and the child ends by itself; but
            // then it would be a zombie nobody knows. It is ours and alive: its id is its own.
            let _result = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
            let _result = sys::reap_pid(pid);
            Err((Stage::Pidfd, error))
        }
    }
}
