//! The life of a new process, whatever its start method: read the boot message, put the process
//! in order, say hello, run the entry.
//!
//! ```text
//!  exec ──▶ entry::init ──┐
//!              (lifeline) ├──▶ live: Boot ─▶ group, name, settings ─▶ Hello ─▶ entry
//!  fork ──▶ after_fork ───┘              └─▶ Refused
//! ```
//!
//! # Invariants
//!
//! - Nothing of the user's runs before the hello is sent.
//! - The settings come last: what a limit may forbid has been done, and the hello has been put into
//!   bytes. Descriptors that are open stay usable, whatever numbers they have.
//! - Whatever goes wrong before it is reported as a refusal, and ends the process; if there is
//!   nobody left to tell (the parent is dead), it ends silently.

use std::ffi::CString;
use std::io;
use std::io::IoSlice;
use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::fcntl::open;
use nix::sys::prctl;
use nix::sys::resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use nix::unistd::chdir;
use nix::unistd::setpgid;

use crate::birth::boot::Birth;
use crate::birth::boot::Entry;
use crate::birth::boot::set_depth;
use crate::birth::function::entry_at;
use crate::birth::signals;
use crate::child::lifeline;
use crate::message;
use crate::message::BootMessage;
use crate::message::Hello;
use crate::message::MESSAGE_MAX;
use crate::message::Refusal;
use crate::message::Refused;
use crate::settings::Limit;
use crate::settings::Resource;
use crate::settings::Settings;
use crate::sys::calls;
use crate::sys::failpoint::failpoint;
use crate::sys::fd::PrivateFd;
use crate::sys::fd::Registry;
use crate::sys::image;
use crate::sys::socket::Received;
use crate::sys::socket::Socket;

/// The exit code of a process that refused to run.
pub(crate) const EXIT_REFUSED: u8 = 112;

/// From the boot message to the exit code.
pub(crate) fn live(control: Socket) -> u8 {
    failpoint!("at_birth");
    let hello = message::encode(&Hello { build_id: image::build_id() });
    let (entry, birth) = match come_up(control) {
        Ok(born) => born,
        Err((control, reason)) => {
            refuse(&control, reason);
            return EXIT_REFUSED;
        }
    };
    failpoint!("before_hello");
    if birth.control.send(&[IoSlice::new(&hello)], &[]).is_err() {
        // There is nobody who could be told: the parent has closed its end.
        return 0;
    }
    failpoint!("after_hello");
    let code = entry(birth);
    // What is left in the buffer would be lost: a forked child leaves by _exit.
    let _result = io::stdout().flush();
    code
}

/// Ties this process to the life of its parent, before all else: until that is done, a parent that is killed and a
/// signal that stops this process are one too many.
pub(crate) fn tie(control: &Socket, lifeline: PrivateFd) -> Result<(), ()> {
    lifeline::arm(lifeline).map_err(|error| refuse(control, format!("arming the lifeline failed: {error}")))
}

/// Tells the parent why this process will not run.
pub(crate) fn refuse(control: &Socket, reason: impl Into<Refusal>) {
    let message = message::encode(&Refused { reason: reason.into() });
    // A full socket or a dead parent: it then sees the exit code only.
    let _result = control.try_send(&[IoSlice::new(&message)], &[]);
}

/// Reads the boot message and does as it says.
fn come_up(control: Socket) -> Result<(Entry, Birth), (Socket, Refusal)> {
    let mut fds = Vec::new();
    let boot = match control.recv_whole(MESSAGE_MAX, &mut fds) {
        Ok((Received::Message(_), bytes)) => message::decode::<BootMessage>(&bytes),
        // The parent died, or gave this child up, before it sent anything.
        Ok((Received::Closed | Received::Empty, _)) => calls::exit_now(0),
        Err(error) => return Err((control, format!("reading the boot message failed: {error}").into())),
    };
    let boot = match boot {
        Ok(boot) => boot,
        Err(error) => return Err((control, format!("the boot message is unusable: {error}").into())),
    };
    match obey(&boot) {
        Ok(entry) => {
            let BootMessage { payload, method, .. } = boot;
            Ok((entry, Birth { control, payload, fds, method }))
        }
        Err(reason) => Err((control, reason)),
    }
}

/// Puts the process in order.
fn obey(boot: &BootMessage) -> Result<Entry, Refusal> {
    #[cfg(all(feature = "failpoints", debug_assertions))]
    crate::sys::failpoint::call_it(&boot.name);
    failpoint!("at_birth");
    let own_build = image::build_id();
    if boot.pointer_width != usize::BITS || boot.build_id != own_build {
        return Err(format!(
            "the parent runs build {} and this process build {}: both must be the same program, \
             from the same build",
            hex(&boot.build_id),
            hex(&own_build)
        )
        .into());
    }
    // Fails for one who leads its group already, which is what we want.
    let _result = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    let name: Vec<u8> = boot.name.bytes().take_while(|byte| *byte != 0).collect();
    let name = CString::new(name).expect("it ends before the first zero");
    prctl::set_name(&name).map_err(|error| format!("naming the process failed: {error}"))?;
    forbid_core().map_err(|error| format!("limiting core dumps failed: {error}"))?;
    set_depth(boot.depth);
    let address = boot.entry.resolve_code().map_err(|error| format!("the entry was not found: {error}"))?;
    apply(&boot.settings)?;
    Ok(entry_at(address))
}

/// A core dump of a child may show the parent's secrets, and thousands of children fill a disk.
fn forbid_core() -> nix::Result<()> {
    limit(Resource::CoreSize, Limit { soft: 0, hard: None })
}

/// Makes of this process what the user wants it to be.
fn apply(settings: &Settings) -> Result<(), Refusal> {
    let environment = &settings.environment;
    if let Some(name) = environment.invalid_variable() {
        // Our parent has looked for them as well.
        return Err(format!("the boot message is unusable: no variable is called {name:?}").into());
    }
    // A program that was executed has its environment, and there is nothing to do. A forked child has one thread.
    if environment.is_cleared() {
        calls::clear_env();
    }
    environment.changes().for_each(|(name, value)| calls::change_env(name, value));
    if let Some(path) = &settings.directory {
        chdir(path.as_os_str()).map_err(|errno| Refusal::Directory { path: path.clone(), errno: errno as i32 })?;
    }
    for (&resource, &wanted) in &settings.limits {
        limit(resource, wanted).map_err(|errno| Refusal::Limit { resource, limit: wanted, errno: errno as i32 })?;
    }
    Ok(())
}

fn limit(resource: Resource, limit: Limit) -> nix::Result<()> {
    let resource = match resource {
        Resource::OpenFiles => resource::Resource::RLIMIT_NOFILE,
        Resource::CoreSize => resource::Resource::RLIMIT_CORE,
        Resource::CpuTime => resource::Resource::RLIMIT_CPU,
        Resource::AddressSpace => resource::Resource::RLIMIT_AS,
    };
    let (_, hard) = getrlimit(resource)?;
    setrlimit(resource, limit.soft, limit.hard.unwrap_or(hard))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

/// In a child that has just been forked: becomes a process of its own.
///
/// `registry` is the parent's, held by the fork. All signals are blocked. Until the signals are
/// reset, nothing here allocates or waits for a lock. When `born` is closed, nothing of the parent's is left here.
pub(crate) fn after_fork(registry: &Registry, control: RawFd, lifeline: RawFd, born: Option<RawFd>) -> u8 {
    registry.close_all_in_child(&[control, lifeline, born.unwrap_or(control)]);
    signals::reset_in_child();
    // The parent's numbers live on; their former owners are dead with the parent's epoch.
    let [Ok(control), Ok(lifeline)] = [control, lifeline].map(|number| PrivateFd::adopt(calls::own(number))) else {
        return EXIT_REFUSED;
    };
    let control = Socket::from_fd(control);
    if tie(&control, lifeline).is_err() {
        return EXIT_REFUSED;
    }
    born.into_iter().for_each(calls::close);
    let _result = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    if let Err(error) = stdin_from_null().and_then(|()| open_standard_streams()) {
        refuse(&control, format!("opening /dev/null failed: {error}"));
        return EXIT_REFUSED;
    }
    live(control)
}

/// Puts /dev/null in the place of standard input. Needs no free number but 0 itself.
fn stdin_from_null() -> io::Result<()> {
    calls::close(0);
    open_null().map(|_number| ())
}

/// Makes sure that 0, 1 and 2 are open: what is opened next must not become an output stream.
pub(crate) fn open_standard_streams() -> io::Result<()> {
    for stream in 0..3 {
        if fcntl(calls::borrow(stream), FcntlArg::F_GETFD) == Err(Errno::EBADF) {
            // The lowest free number is taken, and those below are open.
            open_null()?;
        }
    }
    Ok(())
}

fn open_null() -> io::Result<RawFd> {
    // O_CLOEXEC is not for the standard streams.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    Ok(open("/dev/null", flags, Mode::empty())?.into_raw_fd())
}
