//! Start method *fork*: a copy of the calling process, refused while foreign threads exist.
//!
//! # Invariants
//!
//! - The registry is locked and all signals are blocked across the fork, so that the child knows
//!   every descriptor it must close, and no handler of the parent's runs in it.
//! - The child waits for its boot message, and so cannot have ended when its pidfd is opened.
//! - Whoever has started children waits, before anybody else learns of them, until none of them holds a descriptor of
//!   this process's any more ([`Births`]).

use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::setpgid;

use crate::birth::boot::Boot;
use crate::birth::born;
use crate::birth::signals::Blocked;
use crate::child::child::Child;
use crate::child::lifeline;
use crate::child::lifeline::ARMING;
use crate::child::lifeline::OPENING;
use crate::error::StartError;
use crate::message::Stage;
use crate::method::StartMethod;
use crate::sys::calls;
use crate::sys::fd;
use crate::sys::fd::LOWEST;
use crate::sys::fd::PrivateFd;
use crate::sys::fd::Registry;
use crate::sys::socket;
use crate::sys::socket::Socket;
use crate::sys::threads::ForeignThreads;
use crate::sys::threads::Hold;
use crate::sys::wait;

/// How long a child may take to its first steps before it is let go on its own.
const BIRTH_TIMEOUT: Duration = Duration::from_millis(100);

/// The pipe by which children that were forked tell that they have let go of what is this process's alone: each closes
/// its copy of the write end then.
///
/// Until it does, a child has a copy of the very end of the lifeline by which our death would be told: if it were
/// stopped then, it would outlive us, and its siblings with it. Dropping this waits until all have done it, a moment at
/// most: nobody need know their numbers before.
#[derive(Debug)]
pub(crate) struct Births {
    read: PrivateFd,
    write: Option<PrivateFd>,
}

impl Births {
    pub(crate) fn new() -> Result<Self, StartError> {
        let (read, write) = fd::pipe(OFlag::empty()).map_err(StartError::system("making a pipe"))?;
        Ok(Self { read, write: Some(write) })
    }
}

impl Drop for Births {
    fn drop(&mut self) {
        drop(self.write.take());
        let _in_time = wait::hung_up(self.read.as_fd(), BIRTH_TIMEOUT);
    }
}

/// Forks this process into `boot`'s entry.
pub(crate) fn start(boot: &Boot<'_>, foreign: ForeignThreads, births: &Births) -> Result<Child, StartError> {
    let prepared = boot.prepare(StartMethod::Fork)?;
    let (ours, theirs) = Socket::pair().map_err(StartError::system(socket::MAKING))?;
    let lifeline = prepared.lifeline.open(LOWEST).map_err(StartError::system(OPENING))?;
    let (pid, pidfd) = {
        let hold = Hold::acquire(foreign)?;
        if foreign == ForeignThreads::Refuse {
            // What is in the buffer now would be written by the child as well. A thread we know
            // nothing of may hold the lock of the stream; but there is none.
            let _result = io::stdout().flush();
        }
        fork_waiting(&hold, theirs, lifeline, births.write.as_ref()).map_err(|(stage, error)| match stage {
            Stage::Pidfd => StartError::system(fd::OPENING_PIDFD)(error),
            Stage::Lifeline => StartError::system(ARMING)(error),
            _ => StartError::system("fork")(error),
        })?
    };
    let child = Child::direct(pid, ours, pidfd, prepared.lifeline.clone());
    prepared.send(child.control())?;
    Ok(child)
}

/// Forks a child that waits at `control` for its boot message, arms its `lifeline`, and opens its pidfd.
///
/// The child closes its copy of `born` when it has nothing of this process any more. When something of that fails the
/// child is reaped before this returns.
pub(crate) fn fork_waiting(
    hold: &Hold,
    control: Socket,
    lifeline: PrivateFd,
    born: Option<&PrivateFd>,
) -> Result<(u32, PrivateFd), (Stage, io::Error)> {
    let control = control.into_fd();
    let pid = {
        let registry = Registry::lock();
        let _blocked = Blocked::all();
        let kept = born.map(AsRawFd::as_raw_fd);
        let child_main = || born::after_fork(&registry, control.as_raw_fd(), lifeline.as_raw_fd(), kept);
        calls::fork(hold, child_main).map_err(|error| (Stage::Fork, error))?
    };
    let armed = lifeline::arm_for(pid, lifeline).map_err(|error| (Stage::Lifeline, error));
    // Parent and child both do it, so that whoever acts next finds it done.
    let group = calls::pid_t(pid);
    let _result = setpgid(group, group);
    drop(control);
    let pidfd = armed.and_then(|()| fd::open_pidfd(pid).map_err(|error| (Stage::Pidfd, error)));
    match pidfd {
        Ok(pidfd) => Ok((pid, pidfd)),
        Err(failure) => {
            // The other end of its socket closes with our return and the child ends by itself; but
            // then it would be a zombie nobody knows. It is ours and alive: its id is its own.
            let _result = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
            let _result = calls::reap_pid(pid);
            Err(failure)
        }
    }
}
