//! Start method *spawn*: this program, executed afresh, told by its environment what it is.
//!
//! # Invariants
//!
//! - What is executed is /proc/self/exe, the very file this process runs, even if it was deleted or
//!   replaced since.
//! - Nothing is inherited but the environment (as the boot changes it), the arguments, standard output and error, the
//!   control socket as descriptor 3 and the lifeline as descriptor 4.
//! - The child waits for its boot message, and so cannot have ended when its pidfd is opened.

use std::env;
use std::ffi::CString;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::spawn::PosixSpawnAttr;
use nix::spawn::PosixSpawnFileActions;
use nix::spawn::PosixSpawnFlags;
use nix::spawn::posix_spawn;
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::birth::boot::Boot;
use crate::birth::entry;
use crate::child::child::Child;
use crate::child::lifeline;
use crate::child::lifeline::ARMING;
use crate::child::lifeline::OPENING;
use crate::error::StartError;
use crate::method::StartMethod;
use crate::settings::Environment;
use crate::sys::calls;
use crate::sys::failpoint::fault;
use crate::sys::fd;
use crate::sys::fd::PrivateFd;
use crate::sys::socket;
use crate::sys::socket::Socket;

/// How often a program that somebody has open for writing is tried again.
const BUSY_RETRIES: u32 = 3;

/// Executes `executable`, by default this program, into `boot`'s entry.
pub(crate) fn start(boot: &Boot<'_>, method: StartMethod, executable: Option<&Path>) -> Result<Child, StartError> {
    let prepared = boot.prepare(method)?;
    let (ours, theirs) = Socket::pair().map_err(StartError::system(socket::MAKING))?;
    // Above the numbers that it and the control socket will have in the child.
    let lifeline = prepared.lifeline.open(entry::LIFELINE + 1).map_err(StartError::system(OPENING))?;
    let program = executable.unwrap_or(Path::new("/proc/self/exe"));
    let pid = execute(program, boot.environment(), &theirs, &lifeline)
        .map_err(StartError::system("executing the program"))?;
    drop(theirs);
    let pid = pid.as_raw().unsigned_abs();
    let armed = lifeline::arm_for(pid, lifeline).map_err(|error| (ARMING, error));
    let pidfd = armed.and_then(|()| fd::open_pidfd(pid).map_err(|error| (fd::OPENING_PIDFD, error)));
    let pidfd = match pidfd {
        Ok(pidfd) => pidfd,
        Err((doing, error)) => {
            give_up(pid, ours, &error);
            return Err(StartError::system(doing)(error));
        }
    };
    let child = Child::direct(pid, ours, pidfd, prepared.lifeline.clone());
    prepared.send(child.control())?;
    Ok(child)
}

/// Ends and reaps a child for which there is no pidfd.
fn give_up(pid: u32, control: Socket, error: &io::Error) {
    if error.raw_os_error() == Some(libc::ESRCH) {
        // It has ended and somebody else has reaped it: the id may be another's by now.
        return;
    }
    // It is ours and not reaped, so the id is its own. The kill comes first: without it, a
    // program that does not look at its control socket would keep us waiting.
    let _result = nix::sys::signal::kill(calls::pid_t(pid), nix::sys::signal::Signal::SIGKILL);
    drop(control);
    let _result = calls::reap_pid(pid);
}

/// posix_spawn(3) of the child.
fn execute(program: &Path, environment: &Environment, control: &Socket, lifeline: &PrivateFd) -> io::Result<Pid> {
    fault!("execute");
    let mut actions = PosixSpawnFileActions::init()?;
    // Also clears the close-on-exec flag, when the number is right already.
    let control = control.as_fd().as_raw_fd();
    actions.add_dup2(control, entry::CONTROL)?;
    actions.add_dup2(lifeline.as_raw_fd(), entry::LIFELINE)?;
    actions.add_open(0, "/dev/null", OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty())?;

    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETPGROUP,
    )?;

    let arguments = arguments();
    let environment = strings_of(environment);
    let mut retries = 0;
    loop {
        match posix_spawn(program, &actions, &attributes, &arguments, &environment) {
            // Another thread may be between fork and exec with a copy of a descriptor that was
            // open for writing: that passes in a moment, and there is no event for it.
            Err(Errno::ETXTBSY) if retries < BUSY_RETRIES => {
                retries += 1;
                thread::sleep(Duration::from_millis(10));
            }
            result => return Ok(result?),
        }
    }
}

/// This program's own, so that `ps` shows the child as what it is.
fn arguments() -> Vec<CString> {
    let mut arguments: Vec<_> = env::args_os().map(|argument| c_string(&argument)).collect();
    if arguments.is_empty() {
        arguments.push(c"child".to_owned());
    }
    arguments
}

fn strings_of(environment: &Environment) -> Vec<CString> {
    entry::child_environment(environment)
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            c_string(&name)
        })
        .collect()
}

fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).expect("the boot was checked, and all else came in as C strings")
}
