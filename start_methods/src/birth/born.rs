//! What a new process does, whatever its start method: read the boot message, set itself up, send its hello, run the
//! entry.
//!
//! ```text
//!  exec ──▶ entry::init ──┐
//!              (lifeline) ├──▶ run: Boot ─▶ session, name, settings ─▶ Hello ─▶ entry
//!  fork ──▶ after_fork ───┘              └─▶ Refused
//! ```
//!
//! # Invariants
//!
//! - No code of the user's runs before the hello is sent.
//! - The settings are applied last: everything that a limit could forbid has been done, and the hello has been encoded.
//!   Descriptors that are open stay usable, whatever their numbers.
//! - Any failure before the hello is reported as a refusal and ends the process. If the parent is dead, the process
//!   ends silently.

use std::ffi::CString;
use std::io;
use std::io::IoSlice;
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
use nix::unistd::chdir;
use nix::unistd::setsid;

use crate::birth::boot::Birth;
use crate::birth::boot::Entry;
use crate::birth::boot::set_depth;
use crate::birth::function::entry_at;
use crate::birth::leave::Origin;
use crate::birth::leave::run_and_leave;
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
use crate::sys::environ;
use crate::sys::failpoint::failpoint;
use crate::sys::fd::PrivateFd;
use crate::sys::fd::Registry;
use crate::sys::image;
use crate::sys::image::Snapshot;
use crate::sys::socket::Received;
use crate::sys::socket::Socket;
use crate::sys::unshared;

/// The exit code of a process that has refused to run.
pub(crate) const EXIT_REFUSED: u8 = 112;

/// Runs the process, from the boot message to the exit code.
pub(crate) fn run(control: Socket) -> u8 {
    failpoint!("at_birth");
    let hello = message::encode(&Hello { build_id: image::build_id() });
    let (entry, birth) = match receive_boot(control) {
        Ok(born) => born,
        Err((control, reason)) => {
            refuse(&control, reason);
            return EXIT_REFUSED;
        }
    };
    failpoint!("before_hello");
    if birth.control.send(&[IoSlice::new(&hello)], &[]).is_err() {
        // The parent has closed its end: there is no process to report to.
        return 0;
    }
    failpoint!("after_hello");
    entry(birth)
}

/// Ties this process to its parent. Comes before everything else: until it is done, a parent that is killed would leave
/// this process behind if a signal stops it.
pub(crate) fn arm_lifeline(control: &Socket, lifeline: PrivateFd) -> Result<(), ()> {
    lifeline::arm(lifeline).map_err(|error| refuse(control, format!("arming the lifeline failed: {error}")))
}

/// Reports to the parent why this process will not run.
pub(crate) fn refuse(control: &Socket, reason: impl Into<Refusal>) {
    let message = message::encode(&Refused { reason: reason.into() });
    // Fails if the socket is full or the parent is dead. Then the parent has only the exit code.
    let _result = control.try_send(&[IoSlice::new(&message)], &[]);
}

/// Receives the boot message and applies it.
fn receive_boot(control: Socket) -> Result<(Entry, Birth), (Socket, Refusal)> {
    let mut fds = Vec::new();
    let boot = match control.recv_whole(MESSAGE_MAX, &mut fds) {
        Ok((Received::Message(_), bytes)) => message::decode::<BootMessage>(&bytes),
        // The parent died, or dropped this child, before it sent anything.
        Ok((Received::Closed | Received::Empty, _)) => calls::exit_now(0),
        Err(error) => return Err((control, format!("reading the boot message failed: {error}").into())),
    };
    let boot = match boot {
        Ok(boot) => boot,
        Err(error) => return Err((control, format!("the boot message is unusable: {error}").into())),
    };
    match set_up(&boot) {
        Ok(entry) => {
            let BootMessage { payload, method, .. } = boot;
            Ok((entry, Birth { control, payload, fds, method }))
        }
        Err(reason) => Err((control, reason)),
    }
}

/// Sets the process up as the boot message describes.
fn set_up(boot: &BootMessage) -> Result<Entry, Refusal> {
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
    lead_a_session();
    let name: Vec<u8> = boot.name.bytes().take_while(|byte| *byte != 0).collect();
    let name = CString::new(name).expect("it ends before the first zero");
    prctl::set_name(&name).map_err(|error| format!("naming the process failed: {error}"))?;
    forbid_core().map_err(|error| format!("limiting core dumps failed: {error}"))?;
    set_depth(boot.depth);
    let address = boot.entry.resolve_code().map_err(|error| format!("the entry was not found: {error}"))?;
    apply_settings(&boot.settings)?;
    Ok(entry_at(address))
}

/// A core dump of a child may contain the parent's secrets, and thousands of children fill a disk.
fn forbid_core() -> nix::Result<()> {
    limit(Resource::CoreSize, Limit { soft: 0, hard: None })
}

/// Applies the user's settings to this process.
fn apply_settings(settings: &Settings) -> Result<(), Refusal> {
    let environment = &settings.environment;
    if let Some(name) = environment.invalid_variable() {
        // The parent has checked this too.
        return Err(format!("the boot message is unusable: a variable cannot be called {name:?}").into());
    }
    // An executed program already has its environment: there are no changes.
    if !environment.is_unchanged() {
        environ::replace(environment.applied_to(environ::variables()));
    }
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

/// The numbers of the descriptors that a forked child keeps of its parent's.
pub(crate) struct Kept {
    pub(crate) control: RawFd,
    pub(crate) lifeline: RawFd,
    /// Closing it shows the parent that nothing of it is left here.
    pub(crate) born: Option<RawFd>,
    /// Its closing shows the parent that this process has ended.
    pub(crate) sentinel: Option<RawFd>,
}

/// Runs in a child that has just been forked, and makes it independent of its parent.
///
/// `registry` is the parent's, locked by the forking thread. All signals are blocked. Until the signals are reset,
/// nothing here allocates; up to the entry, nothing waits for a lock that a thread of the parent may have held at the
/// fork (the loader's, the environment's, those of std).
pub(crate) fn after_fork(registry: &Registry, images: Snapshot, kept: &Kept) -> u8 {
    let &Kept { control, lifeline, born, sentinel } = kept;
    // First: until then this process gets the signals that a terminal sends to its parent's group.
    lead_a_session();
    // Then this: it holds the ends by whose closing others detect the parent's death. The handlers of fork(2) have done
    // it already, unless the C library runs none.
    unshared::close_all_in_child();
    registry.close_all_in_child(&[control, lifeline, born.unwrap_or(control), sentinel.unwrap_or(control)]);
    calls::forget_c_stdout();
    signals::reset_in_child();
    image::inherit(images);
    // The numbers are still open; their owners, copied from the parent, became invalid with the parent's epoch.
    let [Ok(control), Ok(lifeline)] = [control, lifeline].map(|number| PrivateFd::adopt(calls::own(number))) else {
        return EXIT_REFUSED;
    };
    let control = Socket::from_fd(control);
    if arm_lifeline(&control, lifeline).is_err() {
        return EXIT_REFUSED;
    }
    born.into_iter().for_each(calls::close);
    // Open until this process ends, and closed in the processes that it forks or executes.
    sentinel.into_iter().for_each(|number| std::mem::forget(PrivateFd::adopt(calls::own(number))));
    if let Err(error) = stdin_from_null().and_then(|()| open_standard_streams()) {
        refuse(&control, format!("opening /dev/null failed: {error}"));
        return EXIT_REFUSED;
    }
    run_and_leave(Origin::Forked, || run(control))
}

/// Makes this process the leader of a session and of a process group, both of its own.
///
/// A group alone would not do. That of a server's child is tied to the rest of the session by the server only. When the
/// server dies the group is orphaned, and the kernel sends SIGHUP to all of it if one of its members is stopped.
fn lead_a_session() {
    // Fails for a process that leads a group already: it leads its session too, or comes from a C library that cannot
    // execute a program in a new one (see `spawn`).
    let _result = setsid();
}

/// Replaces standard input by /dev/null. Needs no free descriptor number but 0 itself.
fn stdin_from_null() -> io::Result<()> {
    calls::close(0);
    open_null().map(|_number| ())
}

/// Ensures that 0, 1 and 2 are open, so that no descriptor opened later becomes an output stream.
pub(crate) fn open_standard_streams() -> io::Result<()> {
    for stream in 0..3 {
        if fcntl(calls::borrow(stream), FcntlArg::F_GETFD) == Err(Errno::EBADF) {
            // Takes the lowest free number, which is `stream`: those below are open.
            open_null()?;
        }
    }
    Ok(())
}

fn open_null() -> io::Result<RawFd> {
    // Without O_CLOEXEC: programs that the child executes inherit the standard streams.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    Ok(open("/dev/null", flags, Mode::empty())?.into_raw_fd())
}
