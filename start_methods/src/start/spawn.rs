//! Start method *spawn*: executes this program again, with an environment that marks it as a child.
//!
//! # Invariants
//!
//! - The executed file is /proc/self/exe, the file that this process runs, even if it was deleted or replaced since.
//! - The child inherits only the environment (as the boot changes it), the arguments, standard output and error, the
//!   control socket as descriptor 3 and the lifeline as descriptor 4. Everything else is closed between fork and exec,
//!   and never in the executed program: there, code that runs before `init` may have opened descriptors of its own.
//! - The child waits for its boot message, so it cannot have ended when its pidfd is opened.

use std::env;
use std::ffi::CString;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::FdFlag;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
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
use crate::child::handle::Handle;
use crate::child::lifeline;
use crate::child::lifeline::ARMING;
use crate::child::lifeline::Lifeline;
use crate::child::lifeline::MAKING;
use crate::error::StartError;
use crate::method::StartMethod;
use crate::settings::Environment;
use crate::sys::calls;
use crate::sys::environ;
use crate::sys::failpoint::fault;
use crate::sys::fd;
use crate::sys::fd::PrivateFd;
use crate::sys::socket;
use crate::sys::socket::Socket;
use crate::sys::wait;

/// Retries while the program is open for writing (ETXTBSY).
const BUSY_RETRIES: u32 = 3;

/// Executes `executable`, by default this program, into `boot`'s entry.
pub(crate) fn start(boot: &Boot<'_>, method: StartMethod, executable: Option<&Path>) -> Result<Child, StartError> {
    // Before the program is executed: what executes it (valgrind) may not be able to follow.
    fd::open_pidfd(std::process::id()).map_err(StartError::system(fd::OPENING_PIDFD))?;
    let prepared = boot.prepare(method)?;
    let (ours, theirs) = Socket::pair().map_err(StartError::system(socket::MAKING))?;
    // The number of their end is above those of both descriptors in the child: neither dup2 can overwrite it.
    let (lifeline, their_end) = Lifeline::new(entry::LIFELINE + 1).map_err(StartError::system(MAKING))?;
    let (program, executing) = match executable {
        Some(path) => (path, "executing the program"),
        None => (Path::new("/proc/self/exe"), "executing /proc/self/exe"),
    };
    let pid = execute(program, boot.environment(), &theirs, &their_end).map_err(StartError::system(executing))?;
    drop(theirs);
    let pid = pid.as_raw().unsigned_abs();
    let armed = lifeline::arm_for(pid, their_end).map_err(|error| (ARMING, error));
    let pidfd = armed.and_then(|()| fd::open_pidfd(pid).map_err(|error| (fd::OPENING_PIDFD, error)));
    let pidfd = match pidfd {
        Ok(pidfd) => pidfd,
        Err((doing, error)) => {
            kill_and_reap(pid, (ours, lifeline), &error);
            return Err(StartError::system(doing)(error));
        }
    };
    let child = Child::direct(Handle::of_pidfd(pid, pidfd), ours, lifeline);
    prepared.send(child.control())?;
    Ok(child)
}

/// Kills and reaps a child that has no pidfd.
fn kill_and_reap(pid: u32, ties: (Socket, Lifeline), error: &io::Error) {
    if error.raw_os_error() == Some(libc::ESRCH) {
        // It has ended and other code has reaped it: its id may have been reused.
        return;
    }
    // It is our child and not reaped, so its id cannot have been reused. Kill first: a program that does not read its
    // control socket would not end by itself, and the wait would not return.
    let _result = nix::sys::signal::kill(calls::pid_t(pid), nix::sys::signal::Signal::SIGKILL);
    // Cuts the lifeline, in case the program has more rights than this one and cannot be signalled.
    drop(ties);
    wait::reap_killed(pid);
}

/// Executes the child with posix_spawn(3).
fn execute(program: &Path, environment: &Environment, control: &Socket, lifeline: &PrivateFd) -> io::Result<Pid> {
    fault!("execute");
    let mut actions = PosixSpawnFileActions::init()?;
    // dup2 also clears the close-on-exec flag if the number is right already.
    let control = control.as_fd().as_raw_fd();
    actions.add_dup2(control, entry::CONTROL)?;
    actions.add_dup2(lifeline.as_raw_fd(), entry::LIFELINE)?;
    close_the_rest(&mut actions)?;
    actions.add_open(0, "/dev/null", OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty())?;

    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    let flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
    let session = PosixSpawnFlags::from_bits_retain(libc::POSIX_SPAWN_SETSID.into());
    // Before 2.26, glibc cannot start a session. A group is enough for a child of this process: it is killed when this
    // process ends, so its group is not orphaned before.
    attributes
        .set_flags(flags | session)
        .or_else(|_| attributes.set_flags(flags | PosixSpawnFlags::POSIX_SPAWN_SETPGROUP))?;

    let arguments = arguments();
    let environment = environment_strings(environment);
    let mut retries = 0;
    loop {
        match posix_spawn(program, &actions, &attributes, &arguments, &environment) {
            // Another thread may be between fork and exec, with a copy of a descriptor that was open for writing. That
            // lasts a moment, and there is no event for its end.
            Err(Errno::ETXTBSY) if retries < BUSY_RETRIES => {
                retries += 1;
                thread::sleep(Duration::from_millis(10));
            }
            result => return Ok(result?),
        }
    }
}

/// Closes in the child, before the exec, what this process has open without close-on-exec.
fn close_the_rest(actions: &mut PosixSpawnFileActions) -> io::Result<()> {
    const FIRST: RawFd = entry::LIFELINE + 1;
    match calls::add_close_from(actions, FIRST) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
        result => return result,
    }
    // What another thread opens between here and the fork is missing from the list.
    for number in inheritable(FIRST)? {
        actions.add_close(number)?;
    }
    Ok(())
}

/// The open descriptors from `first` on that an executed program would inherit.
fn inheritable(first: RawFd) -> io::Result<Vec<RawFd>> {
    let flags = |number| fcntl(calls::borrow(number), FcntlArg::F_GETFD).map(FdFlag::from_bits_retain);
    let entries = fs::read_dir("/proc/self/fd")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers
        .filter(|number| *number >= first)
        .filter(|number| flags(*number).is_ok_and(|flags| !flags.contains(FdFlag::FD_CLOEXEC)))
        .collect())
}

/// The arguments of this program, so that `ps` shows the child as the same program.
fn arguments() -> Vec<CString> {
    let mut arguments: Vec<_> = env::args_os().map(|argument| c_string(&argument)).collect();
    if arguments.is_empty() {
        arguments.push(c"child".to_owned());
    }
    arguments
}

fn environment_strings(environment: &Environment) -> Vec<CString> {
    entry::child_environment(environment).map(|(name, value)| environ::entry_of(name, &value)).collect()
}

fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).expect("an argument was a C string before")
}
