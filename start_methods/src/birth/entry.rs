//! [`init`], where a re-executed process leaves `main`, and the marker in its environment.
//!
//! A program that is executed again runs its `main` again. The marker shows that it is a child; [`init`], called first
//! in `main`, reads it, runs the entry and never returns.
//!
//! The marker is `START_METHODS_CHILD=<protocol version>:<process id of the parent>:<depth>:<copy>`. It counts only if
//! descriptor 3 is a control socket made by that parent.
//!
//! A program may have several copies of this crate, of different versions. `<copy>` names the one that has started the
//! child, by the place of its [`CrateCopy`] in the program. Whichever copy's `init` comes first hands the child over to
//! the right one, before it compares versions.
//!
//! # Invariants
//!
//! - A marker that does not fit the process is stale: the program runs as if there were none.
//! - The marker is removed before any code of the user's runs, unless threads of the user's run already. Programs that
//!   a child starts find it stale: they do not have its control socket.

use std::env;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::getppid;

use crate::birth::boot::depth;
use crate::birth::boot::set_depth;
use crate::birth::born;
use crate::birth::function::CrateCopy;
use crate::birth::function::init_of_copy_at;
use crate::birth::leave::Origin;
use crate::birth::leave::run_and_leave;
use crate::birth::signals;
use crate::message::PROTOCOL;
use crate::settings::Environment;
use crate::sys::calls;
use crate::sys::environ;
use crate::sys::faults;
use crate::sys::fd::LOWEST;
use crate::sys::fd::PrivateFd;
use crate::sys::image;
use crate::sys::image::ImageRef;
use crate::sys::socket::Socket;
use crate::sys::threads;
use crate::sys::wait;

/// The environment variable that marks a re-executed program as a child.
const MARKER: &str = "START_METHODS_CHILD";

/// The descriptor of a re-executed child's control socket.
pub(crate) const CONTROL: RawFd = LOWEST;

/// The descriptor of its end of the lifeline.
pub(crate) const LIFELINE: RawFd = CONTROL + 1;

static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// This copy of the crate, for others.
static THIS_COPY: CrateCopy = CrateCopy::new(init_by_another_copy);

extern "C" fn init_by_another_copy() {
    init();
}

/// Lets this program start itself again as a child: call it first in `main`.
///
/// In the first process it only records that it was called. In a process that [`StartMethod::Spawn`] or
/// [`StartMethod::Forkserver`] has executed, it runs the entry and never returns: the process exits with the entry's
/// exit code, after running its exit handlers. A second call does nothing.
///
/// Everything in `main` before this call runs in every child as well. In a program with several versions of this crate,
/// each has its own `init`, and all must be called; their order does not matter.
///
/// [`StartMethod::Spawn`]: crate::StartMethod::Spawn
/// [`StartMethod::Forkserver`]: crate::StartMethod::Forkserver
///
/// # Examples
///
/// ```
/// start_methods::init();
/// // Only the first process gets here.
/// assert!(start_methods::initialized());
/// ```
pub fn init() {
    if INITIALIZED.swap(true, Ordering::Relaxed) {
        return;
    }
    faults::note();
    threads::note_before_init();
    let Some(value) = env::var_os(MARKER) else {
        return;
    };
    match check_marker(&value) {
        MarkerState::Stale { depth } => {
            remove_marker();
            // The marker may be ours after all (a wrapper that did not exec is in between). Then this depth prevents
            // parent and child from starting each other for ever.
            set_depth(depth);
        }
        // Does not return, unless the marker is stale for that copy. Then it has removed it.
        MarkerState::OtherCopy(init_there) => init_there(),
        MarkerState::Orphan => calls::exit_now(0),
        MarkerState::OtherProtocol(version) => {
            refuse_and_exit(format!(
                "the parent has version {version} of the protocol and this program version \
                 {PROTOCOL}: both must be built with the same version of start_methods"
            ));
        }
        MarkerState::Child => {
            remove_marker();
            run_child()
        }
    }
}

/// Whether [`init`] was called in this process, or in the process that it was forked from.
///
/// # Examples
///
/// ```
/// assert!(!start_methods::initialized());
/// start_methods::init();
/// assert!(start_methods::initialized());
/// ```
#[must_use]
pub fn initialized() -> bool {
    INITIALIZED.load(Ordering::Relaxed)
}

/// Calls [`init`] before `main`, for a program whose `main` cannot begin with it: an attribute like `#[tokio::main]`
/// has put a runtime with threads around it. Write it once, outside of all functions.
///
/// A child then runs none of `main`, but its entry runs in a constructor of this program. There, std has not installed
/// its handler for stack overflows: an overflow is a plain SIGSEGV. Constructors of libraries that are linked
/// *statically* (C++ objects, the crate `ctor`) may not have run yet, and then never do in a child; those of shared
/// libraries have. If that matters, call [`init`] in `main`.
///
/// # Examples
///
/// ```standalone_crate
/// start_methods::init_before_main!();
///
/// fn main() {
///     assert!(start_methods::initialized());
/// }
/// ```
#[macro_export]
macro_rules! init_before_main {
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

/// Whether `main` has called [`init`], checked before anything is started.
///
/// In a child whose `main` got here without [`init`], this reports the error to the parent and ends the process.
/// Continuing would run the parent's program again in every child, for ever.
pub(crate) fn check_initialized() -> bool {
    if initialized() {
        return true;
    }
    let Some(value) = env::var_os(MARKER) else {
        return false;
    };
    match check_marker(&value) {
        MarkerState::Stale { .. } => false,
        MarkerState::Orphan => calls::exit_now(0),
        MarkerState::Child | MarkerState::OtherProtocol(_) | MarkerState::OtherCopy(_) => {
            refuse_and_exit("main() reached Pool::new before init()".to_owned())
        }
    }
}

/// The environment for executing a child of this process.
pub(crate) fn child_environment(wanted: &Environment) -> impl Iterator<Item = (OsString, OsString)> {
    let marker = own_marker(std::process::id(), depth() + 1);
    wanted.applied_to(env::vars_os()).filter(|(name, _)| name != MARKER).chain([(MARKER.into(), marker.into())])
}

/// The marker that this copy of the crate writes.
pub(crate) fn own_marker(parent: u32, depth: u32) -> String {
    format!("{PROTOCOL}:{parent}:{depth}:{}", hex(&own_place()))
}

/// The place of [`THIS_COPY`]; empty if it cannot be named, which no other copy takes for its own.
fn own_place() -> Vec<u8> {
    let place = image::locate(&raw const THIS_COPY as usize);
    place.and_then(|place| postcard::to_allocvec(&place).ok()).unwrap_or_default()
}

/// The `init` of the other copy of this crate that `place` names. `None` for this copy, and for all that is not a copy
/// of this crate in this build of the program.
fn init_of_other_copy(place: &[u8]) -> Option<extern "C" fn()> {
    if place == own_place() {
        return None;
    }
    let place: ImageRef = postcard::from_bytes(place).ok()?;
    let address = place.resolve_data(size_of::<CrateCopy>(), align_of::<CrateCopy>()).ok()?;
    init_of_copy_at(address)
}

/// The meaning of a marker in this process.
#[derive(Debug)]
enum MarkerState {
    /// None: it was inherited from a process that left it in the environment.
    Stale { depth: u32 },
    /// It is valid, but the parent is dead.
    Orphan,
    /// Another copy of this crate in this program has started this process. This is its `init`.
    OtherCopy(extern "C" fn()),
    /// The parent has another protocol version.
    OtherProtocol(u16),
    /// This process is a child, and its control socket is at [`CONTROL`].
    Child,
}

/// Checks a marker. Does not trust the environment: the control socket must confirm it.
fn check_marker(value: &OsStr) -> MarkerState {
    let Marker { version, parent, depth, copy } = match parse_marker(value) {
        // With more rights than the caller has, the environment is not trusted.
        Some(marker) if !calls::is_secure_execution() => marker,
        _ => return MarkerState::Stale { depth: 0 },
    };
    let stale = MarkerState::Stale { depth };
    let control = calls::borrow(CONTROL);
    if !calls::is_unix_seqpacket(control) {
        return stale;
    }
    // For a socketpair, the "peer" is the process that created it.
    let maker = getsockopt(&control, PeerCredentials).map(|credentials| credentials.pid());
    if maker != Ok(parent) {
        return stale;
    }
    if getppid().as_raw() != parent {
        let hung_up = wait::hung_up(control, Duration::ZERO).unwrap_or(false);
        // A grandchild, started by a child that never called init(), has this socket and marker too, but its parent is
        // alive.
        return if hung_up { MarkerState::Orphan } else { stale };
    }
    match init_of_other_copy(&copy) {
        Some(init_there) => MarkerState::OtherCopy(init_there),
        // A parent of another build is told by the boot message.
        None if version == PROTOCOL => MarkerState::Child,
        None => MarkerState::OtherProtocol(version),
    }
}

/// The content of a marker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) version: u16,
    pub(crate) parent: i32,
    pub(crate) depth: u32,
    /// The place of the copy of this crate that wrote it.
    pub(crate) copy: Vec<u8>,
}

/// Parses three numbers and a string of bytes. Pure.
pub(crate) fn parse_marker(value: &OsStr) -> Option<Marker> {
    let mut fields = value.to_str()?.split(':');
    let version = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok().filter(|parent| *parent > 0)?;
    let depth = fields.next()?.parse().ok()?;
    let copy = from_hex(fields.next()?)?;
    fields.next().is_none().then_some(Marker { version, parent, depth, copy })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| Some(u8::try_from(char::from(digit).to_digit(16)?).expect("below 16"));
    let (pairs, rest) = (text.as_bytes().chunks_exact(2), text.len() % 2);
    let bytes = pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect::<Option<Vec<u8>>>()?;
    (rest == 0).then_some(bytes)
}

fn remove_marker() {
    // A thread that code before `init` has started may be reading the environment. Then the marker stays, and is stale
    // for every program that inherits it.
    if threads::is_only_thread() {
        environ::remove(OsStr::new(MARKER));
    }
}

/// Runs a child that has just been executed. See [`born::run`].
fn run_child() -> ! {
    // Before `main`, std has not opened closed standard streams yet.
    if born::open_standard_streams().is_err() {
        calls::exit_now(born::EXIT_REFUSED);
    }
    signals::dispose_as_in_a_child();
    let [Ok(control), Ok(lifeline)] = [CONTROL, LIFELINE].map(|number| PrivateFd::adopt(calls::own(number))) else {
        calls::exit_now(born::EXIT_REFUSED)
    };
    let control = Socket::from_fd(control);
    if born::arm_lifeline(&control, lifeline).is_err() {
        calls::exit_now(born::EXIT_REFUSED);
    }
    run_and_leave(Origin::Executed, || born::run(control))
}

/// Reports to the parent why this program does not run as its child.
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
    fn a_marker_is_three_numbers_and_the_place_of_a_copy() {
        let marker = |copy| Some(Marker { version: 1, parent: 4711, depth: 2, copy });
        assert_eq!(parse_marker(OsStr::new("1:4711:2:0aff")), marker(vec![0x0a, 0xff]));
        assert_eq!(parse_marker(OsStr::new("1:4711:2:")), marker(Vec::new()));
        let numbers = ["", ":", "1", "1:2", "1::2:", ":1:2:", "1:0:1:", "1:-1:1:", "1:x:1:", "99999:1:1:", "1:2:3"];
        let places = ["1:2:3::", "1:2:3:0", "1:2:3:0g", "1:2:3:é"];
        for garbled in numbers.into_iter().chain(places) {
            assert_eq!(parse_marker(OsStr::new(garbled)), None, "{garbled:?}");
        }
    }

    #[test]
    fn only_another_copy_is_called() {
        extern "C" fn init_there() {}
        static OTHER: CrateCopy = CrateCopy::new(init_there);
        static NO_COPY: [usize; 3] = [usize::MAX; 3];
        let place = |address: usize| postcard::to_allocvec(&image::locate(address).unwrap()).unwrap();

        let found = init_of_other_copy(&place(&raw const OTHER as usize));
        assert!(found.is_some_and(|found| std::ptr::fn_addr_eq(found, init_there as extern "C" fn())));
        assert!(init_of_other_copy(&place(&raw const NO_COPY as usize)).is_none());
        assert!(init_of_other_copy(&own_place()).is_none());
        assert!(init_of_other_copy(&[]).is_none() && init_of_other_copy(&[7; 40]).is_none());
    }
}
