//! Where a re-executed process leaves `main`: the marker in its environment, and [`init`].
//!
//! A program that is executed again runs its `main` again. The marker tells it that it is a child;
//! [`init`], called first in `main`, reads it, runs the child's life and never returns.
//!
//! The marker is `START_METHODS_CHILD=<protocol version>:<process id of the parent>:<depth>`, and is
//! believed only if descriptor 3 is the control socket it speaks of.
//!
//! # Invariants
//!
//! - A marker is removed before any code of the user's runs, so that programs started by a child
//!   do not take themselves for children.
//! - A marker that does not fit the process is stale: the program runs as if it were not there.

use std::env;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::os::fd::RawFd;
use std::panic::catch_unwind;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::getppid;

use crate::birth::boot::depth;
use crate::birth::boot::set_depth;
use crate::birth::born;
use crate::birth::signals;
use crate::message::PROTOCOL;
use crate::settings::Environment;
use crate::sys::calls;
use crate::sys::fd::LOWEST;
use crate::sys::fd::PrivateFd;
use crate::sys::socket::Socket;
use crate::sys::wait;

/// The environment variable that tells a re-executed program what it is.
const MARKER: &str = "START_METHODS_CHILD";

/// Where a re-executed child finds its control socket.
pub(crate) const CONTROL: RawFd = LOWEST;

/// Where it finds its end of the lifeline.
pub(crate) const LIFELINE: RawFd = CONTROL + 1;

static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// Makes this program one that can start itself again: call it first in `main`.
///
/// In the first process it only notes that it was called. In a process that [`StartMethod::Spawn`]
/// or [`StartMethod::Forkserver`] has executed, it runs the entry and never returns: the process
/// exits with the entry's exit code, after running its exit handlers. Calling it again does
/// nothing.
///
/// Before it is called, do nothing that a child should not repeat: everything before it runs in
/// every child as well.
///
/// [`StartMethod::Spawn`]: crate::StartMethod::Spawn
/// [`StartMethod::Forkserver`]: crate::StartMethod::Forkserver
///
/// # Examples
///
/// ```
/// start_methods::init();
/// // From here on this is the first process.
/// assert!(start_methods::initialized());
/// ```
pub fn init() {
    if INITIALIZED.swap(true, Ordering::Relaxed) {
        return;
    }
    let Some(value) = env::var_os(MARKER) else {
        return;
    };
    match judge(&value) {
        Verdict::Stale { depth } => {
            remove_marker();
            // If the marker is ours after all (a wrapper that did not exec stands in between),
            // this is what keeps parent and child from starting each other for ever.
            set_depth(depth);
        }
        Verdict::Orphan => calls::exit_now(0),
        Verdict::OtherProtocol(version) => {
            refuse_and_exit(format!(
                "the parent has version {version} of the protocol and this program version \
                 {PROTOCOL}: both must be built with the same version of start_methods"
            ));
        }
        Verdict::Child => {
            remove_marker();
            run_child()
        }
    }
}

/// Whether [`init`] was called in this process, or in the one it was forked from.
#[must_use]
pub fn initialized() -> bool {
    INITIALIZED.load(Ordering::Relaxed)
}

/// Makes [`init`] run before the test harness, in a file of tests that has no `main` of its own.
///
/// For tests only: code before `main` runs without std's protection against a closed standard
/// stream or a stack overflow. A program calls [`init`] in `main`.
///
/// # Examples
///
/// ```
/// start_methods::test_init!();
/// # fn main() { assert!(start_methods::initialized()); }
/// ```
#[macro_export]
macro_rules! test_init {
    () => {
        const _: () = {
            extern "C" fn init_before_main() {
                $crate::init();
            }

            #[used]
            #[unsafe(link_section = ".init_array")]
            static INIT_BEFORE_MAIN: extern "C" fn() = init_before_main;
        };
    };
}

/// For the first call that would start a process: is `main` in order?
///
/// In a child whose `main` came here without [`init`], this tells the parent, and ends the
/// process. Going on would run the parent's program again in every child, for ever.
pub(crate) fn check_initialized() -> bool {
    if initialized() {
        return true;
    }
    let Some(value) = env::var_os(MARKER) else {
        return false;
    };
    match judge(&value) {
        Verdict::Stale { .. } => false,
        Verdict::Orphan => calls::exit_now(0),
        Verdict::Child | Verdict::OtherProtocol(_) => {
            refuse_and_exit("main() reached Pool::new before init()".to_owned())
        }
    }
}

/// The environment for a program that is to be a child of this process.
pub(crate) fn child_environment(wanted: &Environment) -> impl Iterator<Item = (OsString, OsString)> {
    let marker = format!("{PROTOCOL}:{}:{}", std::process::id(), depth() + 1);
    wanted.applied_to(env::vars_os()).filter(|(name, _)| name != MARKER).chain([(MARKER.into(), marker.into())])
}

/// What a marker is worth.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing: it was inherited from somebody who left it in the environment.
    Stale { depth: u32 },
    /// It was true, but the parent is dead.
    Orphan,
    /// The parent is of another version.
    OtherProtocol(u16),
    /// This process is a child, and its control socket is at [`CONTROL`].
    Child,
}

/// Never trusts a number in the environment: the socket itself must bear the marker out.
fn judge(value: &OsStr) -> Verdict {
    let Marker { version, parent, depth } = match parse_marker(value) {
        // With more rights than the caller's, the environment is not ours to believe.
        Some(marker) if !calls::is_secure_execution() => marker,
        _ => return Verdict::Stale { depth: 0 },
    };
    let stale = Verdict::Stale { depth };
    let control = calls::borrow(CONTROL);
    if !calls::is_unix_seqpacket(control) {
        return stale;
    }
    // For a socketpair the "peer" is the process that made it.
    let maker = getsockopt(&control, PeerCredentials).map(|credentials| credentials.pid());
    if maker != Ok(parent) {
        return stale;
    }
    if getppid().as_raw() != parent {
        let hung_up = wait::hung_up(control, Duration::ZERO).unwrap_or(false);
        // The grandchild of a program that never called init() has all of this too, and a
        // parent that lives.
        return if hung_up { Verdict::Orphan } else { stale };
    }
    if version == PROTOCOL { Verdict::Child } else { Verdict::OtherProtocol(version) }
}

/// What a marker says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) version: u16,
    pub(crate) parent: i32,
    pub(crate) depth: u32,
}

/// Three numbers; pure.
pub(crate) fn parse_marker(value: &OsStr) -> Option<Marker> {
    let mut numbers = value.to_str()?.split(':');
    let version = numbers.next()?.parse().ok()?;
    let parent = numbers.next()?.parse().ok().filter(|parent| *parent > 0)?;
    let depth = numbers.next()?.parse().ok()?;
    numbers.next().is_none().then_some(Marker { version, parent, depth })
}

fn remove_marker() {
    // init() comes first in main(), or before it: this process has one thread.
    calls::change_env(OsStr::new(MARKER), None);
}

/// Runs a child that has just been executed. See [`born::live`].
fn run_child() -> ! {
    // Whatever the parent leaked into us; before anything here opens a descriptor.
    if calls::close_from(LIFELINE + 1).is_err() {
        close_one_by_one();
    }
    // Before main, std has not looked after them yet.
    if born::open_standard_streams().is_err() {
        calls::exit_now(born::EXIT_REFUSED);
    }
    signals::ignore_what_a_child_ignores();
    let [Ok(control), Ok(lifeline)] = [CONTROL, LIFELINE].map(|number| PrivateFd::adopt(calls::own(number))) else {
        calls::exit_now(born::EXIT_REFUSED)
    };
    let control = Socket::from_fd(control);
    if born::tie(&control, lifeline).is_err() {
        calls::exit_now(born::EXIT_REFUSED);
    }
    let code = catch_unwind(|| born::live(control)).unwrap_or_else(|payload| {
        // The payload's destructor is somebody's code and may panic again.
        std::mem::forget(payload);
        calls::EXIT_PANICKED
    });
    std::process::exit(code.into())
}

/// For kernels without close_range(2).
fn close_one_by_one() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    // Collected first: closing while reading would skip some. The directory's own descriptor is
    // closed by then, and closing its number again harms nobody.
    let numbers: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > LIFELINE)
        .collect();
    for number in numbers {
        calls::close(number);
    }
}

/// Tells the parent why this program will not be its child.
fn refuse_and_exit(reason: String) -> ! {
    if let Ok(control) = PrivateFd::adopt(calls::own(CONTROL)) {
        born::refuse(&Socket::from_fd(control), reason);
    }
    calls::exit_now(born::EXIT_REFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_three_numbers() {
        let marker = Marker { version: 1, parent: 4711, depth: 2 };
        assert_eq!(parse_marker(OsStr::new("1:4711:2")), Some(marker));
        for garbled in ["", ":", "1", "1:2", "1::2", ":1:2", "1:0:1", "1:-1:1", "1:x:1", "99999:1:1", "1:2:3:"] {
            assert_eq!(parse_marker(OsStr::new(garbled)), None, "{garbled:?}");
        }
    }
}
