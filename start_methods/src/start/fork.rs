//! Start method *fork*: a copy of the calling process, refused while foreign threads exist.
//!
//! # Invariants
//!
//! - Across the fork the registry is locked and all signals are blocked: the child knows every descriptor that it must
//!   close, and no handler of the parent's runs in it.
//! - The child waits for its boot message, so it cannot have ended when its pidfd is opened.
//! - A start returns only when no child holds a descriptor of this process any more, or after a short timeout
//!   ([`Births`]).

use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::birth::boot::Boot;
use crate::birth::born;
use crate::birth::born::Kept;
use crate::birth::signals::Blocked;
use crate::child::child::Child;
use crate::child::handle::Handle;
use crate::child::lifeline;
use crate::child::lifeline::ARMING;
use crate::child::lifeline::Lifeline;
use crate::child::lifeline::MAKING;
use crate::error::StartError;
use crate::message::Stage;
use crate::method::StartMethod;
use crate::sys::calls;
use crate::sys::fd;
use crate::sys::fd::LOWEST;
use crate::sys::fd::PrivateFd;
use crate::sys::fd::Registry;
use crate::sys::image;
use crate::sys::socket;
use crate::sys::socket::Socket;
use crate::sys::threads::ForeignThreads;
use crate::sys::threads::Hold;
use crate::sys::wait;

/// How long to wait for the first steps of the children.
const BIRTH_TIMEOUT: Duration = Duration::from_millis(100);

/// A pipe by which forked children report that they have closed their copies of this process's descriptors: each then
/// closes its copy of the write end.
///
/// Until it does, a child has a copy of this process's ends of its own lifeline and of those of its siblings. If it were
/// stopped at that moment, it would outlive this process, and so would its siblings. Dropping this waits until all children have closed it, for a moment
/// at most.
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
        // Our own copy first: while it is open the pipe cannot hang up.
        drop(self.write.take());
        let _in_time = wait::hung_up(self.read.as_fd(), BIRTH_TIMEOUT);
    }
}

/// A pipe that shows the end of a child where there are no pidfds: the child has the only write end.
pub(crate) struct Sentinel {
    read: PrivateFd,
    write: PrivateFd,
}

impl Sentinel {
    /// `None` if this system has pidfds.
    pub(crate) fn unless_pidfds() -> io::Result<Option<Self>> {
        if !lacks_pidfds() {
            return Ok(None);
        }
        let (read, write) = fd::pipe(OFlag::empty())?;
        Ok(Some(Self { read, write }))
    }
}

/// Whether this system has no pidfds. Where it has some that cannot be used for signals, they still show the end.
pub(crate) fn lacks_pidfds() -> bool {
    // Any other error is that of the start as well.
    fd::open_pidfd(std::process::id()).is_err_and(|error| fd::is_refusal(&error))
}

/// Forks this process into `boot`'s entry.
pub(crate) fn start(boot: &Boot<'_>, foreign: ForeignThreads, births: &Births) -> Result<Child, StartError> {
    let prepared = boot.prepare(StartMethod::Fork)?;
    let (ours, theirs) = Socket::pair().map_err(StartError::system(socket::MAKING))?;
    let (lifeline, their_end) = Lifeline::new(LOWEST).map_err(StartError::system(MAKING))?;
    let sentinel = Sentinel::unless_pidfds().map_err(StartError::system("making a pipe"))?;
    let handle = {
        let hold = Hold::acquire(foreign)?;
        if foreign == ForeignThreads::Refuse {
            // The child would also write what is in the buffer now. Only without foreign threads: one of them could
            // hold the lock of the stream.
            let _result = io::stdout().flush();
        }
        fork_waiting(&hold, theirs, their_end, births.write.as_ref(), sentinel).map_err(
            |(stage, error)| match stage {
                Stage::Pidfd => StartError::system(fd::OPENING_PIDFD)(error),
                Stage::Lifeline => StartError::system(ARMING)(error),
                _ => StartError::system("fork")(error),
            },
        )?
    };
    let child = Child::direct(handle, ours, lifeline);
    prepared.send(child.control())?;
    Ok(child)
}

/// Forks a child that waits at `control` for its boot message, arms its `lifeline`, and opens its pidfd, unless there is
/// a `sentinel`.
///
/// The child closes its copy of `born` once it has no other descriptor of this process. If a step after the fork fails,
/// the child is reaped before this returns.
pub(crate) fn fork_waiting(
    hold: &Hold,
    control: Socket,
    lifeline: PrivateFd,
    born: Option<&PrivateFd>,
    sentinel: Option<Sentinel>,
) -> Result<Handle, (Stage, io::Error)> {
    let control = control.into_fd();
    // Before the fork, and before anything is locked: it waits for the lock of the dynamic loader, which the child must
    // not need.
    let images = image::snapshot(hold.foreign());
    let pid = {
        // Held across the fork: a descriptor opened or closed in between would be missing from, or stale in, the copy
        // by which the child closes them.
        let registry = Registry::lock();
        // Until the child has reset its handlers: a handler of the parent's must not run in it.
        let _blocked = Blocked::all();
        let kept = Kept {
            control: control.as_raw_fd(),
            lifeline: lifeline.as_raw_fd(),
            born: born.map(AsRawFd::as_raw_fd),
            sentinel: sentinel.as_ref().map(|sentinel| sentinel.write.as_raw_fd()),
        };
        let child_main = || born::after_fork(&registry, images, &kept);
        calls::fork(hold, child_main).map_err(|error| (Stage::Fork, error))?
    };
    let armed = lifeline::arm_for(pid, lifeline).map_err(|error| (Stage::Lifeline, error));
    drop(control);
    let open = |()| match sentinel {
        Some(sentinel) => Ok(Handle::of_pipe(pid, sentinel.read)),
        None => Ok(Handle::of_pidfd(pid, fd::open_pidfd(pid).map_err(|error| (Stage::Pidfd, error))?)),
    };
    match armed.and_then(open) {
        Ok(handle) => Ok(handle),
        Err(failure) => {
            // The child would end by itself once our return closes its socket, but it would stay a zombie that no code
            // knows of. It is our child and not reaped, so its id cannot have been reused.
            let _result = nix::sys::signal::kill(calls::pid_t(pid), nix::sys::signal::Signal::SIGKILL);
            wait::reap_killed(pid);
            Err(failure)
        }
    }
}
