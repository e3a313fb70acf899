//! Unusual host programs: SIGCHLD ignored, children reaped by other code, standard streams closed, stale environments,
//! forks by other code.

#![expect(unsafe_code, reason = "dispositions, raw forks and closed streams are the subject")]

use std::env;
use std::ffi::c_int;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
use start_methods::Exit;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::forkserver;

use crate::Case;
use crate::audit::fds;
use crate::each;
use crate::helper::SOON;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::inner;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::start_ready;
use crate::helper::succeed;
use crate::helper::until_message;
use crate::once;

pub(crate) const CASES: &[Case] = &[
    each("sigchld_ignored", sigchld_ignored),
    each("a_thief_of_children", a_thief_of_children),
    each("standard_streams_closed", standard_streams_closed),
    each("a_foreign_copy_starts_anew", a_foreign_copy_starts_anew),
    each("what_a_fork_has_copied_is_dead", what_a_fork_has_copied_is_dead),
    once("a_stale_marker_is_ignored", a_stale_marker_is_ignored),
    once("an_interrupted_terminal_ends_no_forked_child", an_interrupted_terminal_ends_no_forked_child),
];

pub(crate) const INNER: &[Case] =
    &[each("without_standard_streams", without_standard_streams), once("after_a_stale_marker", after_a_stale_marker)];

/// Ignores a signal in this process.
pub(crate) fn ignore(signal: c_int) {
    // SAFETY: no handler is installed.
    let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
    assert_ne!(before, libc::SIG_ERR);
}

/// The mask of the two signals that the C library reserves: sigaction(3) refuses them, and posix_spawn(3) ignores them
/// in the child of a program with threads.
pub(crate) fn of_the_c_library() -> u64 {
    (32..libc::SIGRTMIN()).map(|signal| 1_u64 << (signal - 1)).sum()
}

/// Installs a handler for this signal in this process.
pub(crate) fn handle(signal: c_int) {
    extern "C" fn do_nothing(_: c_int) {}
    // SAFETY: the handler does nothing.
    let before = unsafe { libc::signal(signal, do_nothing as *const () as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
}

fn known_or_unknown(exit: Exit, expected: i32) {
    match exit {
        Exit::Known(status) => assert_eq!(status.code(), Some(expected)),
        Exit::Unknown => {}
    }
}

fn sigchld_ignored(method: StartMethod) {
    ignore(libc::SIGCHLD);
    for expected in 0..20 {
        let child = start_ready(method, &Boot::new(exit_with).payload(&[expected]));
        let exit = child.wait_timeout(SOON).unwrap().unwrap();
        known_or_unknown(exit, expected.into());
        assert_eq!(child.try_wait().unwrap(), Some(exit));
    }
    // In the child the disposition is reset, so the status of a grandchild is known.
    fn run_true(_: Birth) -> u8 {
        u8::from(!Command::new("true").status().unwrap().success())
    }
    known_or_unknown(start_ready(method, &Boot::new(run_true)).wait().unwrap(), 0);
}

fn a_thief_of_children(method: StartMethod) {
    let stop = Arc::new(AtomicBool::new(false));
    let starter = Starter::new(method).unwrap();
    starter.settle().unwrap();
    let thief = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: waitpid with a null status writes nothing.
                unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            }
        })
    };
    for expected in 0..50 {
        let child = starter.start(&Boot::new(exit_with).payload(&[expected])).unwrap();
        child.wait_hello(SOON).unwrap();
        known_or_unknown(child.wait_timeout(SOON).unwrap().unwrap(), expected.into());
        child.kill().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    thief.join().unwrap();
}

fn standard_streams_closed(method: StartMethod) {
    succeed(inner(&format!("without_standard_streams::{method}")));
}

fn without_standard_streams(method: StartMethod) {
    fn look(birth: Birth) -> u8 {
        let open = fds();
        assert_eq!(open[&0], "/dev/null");
        assert!(open.contains_key(&1) && open.contains_key(&2));
        send_text(&birth.control, "ok");
        0
    }
    let streams: Vec<c_int> = (0..3).map(|fd| nix::unistd::dup(borrowed(fd)).unwrap()).map(raw).collect();
    for fd in 0..3 {
        nix::unistd::close(fd).unwrap();
    }
    let child = start_methods::start(method, &Boot::new(look));
    let said = child.as_ref().ok().map(|child| {
        let hello = child.wait_hello(SOON);
        (hello.is_ok(), receive_text(child.control()), code(child.wait().unwrap()))
    });
    forkserver::stop();
    drop(child);
    let left: Vec<_> = fds().into_keys().filter(|fd| *fd < 3).collect();
    // The streams are restored before anything can fail: a panic message needs them.
    for (fd, saved) in streams.into_iter().enumerate() {
        // SAFETY: both numbers are ours in this process with one thread.
        unsafe { libc::dup2(saved, c_int::try_from(fd).unwrap()) };
        nix::unistd::close(saved).unwrap();
    }
    assert_eq!(said, Some((true, "ok".to_owned(), Some(0))));
    assert_eq!(left, [], "no descriptor of this crate took the number of a stream");
}

fn borrowed(fd: c_int) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: the standard streams are open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

fn raw(fd: std::os::fd::OwnedFd) -> c_int {
    std::os::fd::IntoRawFd::into_raw_fd(fd)
}

/// A copy of the process made by a fork of other code.
fn a_foreign_copy_starts_anew(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    starter.settle().unwrap();
    let child = starter.start(&Boot::new(until_message)).unwrap();
    child.wait_hello(SOON).unwrap();
    let server = forkserver::pid();

    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Child => {
            let result = std::panic::catch_unwind(|| {
                let own = starter.start(&Boot::new(exit_with).payload(&[8])).unwrap();
                own.wait_hello(SOON).unwrap();
                assert_eq!(code(own.wait().unwrap()), Some(8));
                assert_ne!(forkserver::pid(), server.or(Some(0)), "it has its own server");
                forkserver::stop();
            });
            drop(child);
            // SAFETY: _exit has no preconditions.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
        ForkResult::Parent { child: copy } => {
            assert_eq!(waitpid(copy, None).unwrap(), WaitStatus::Exited(copy, 0));
        }
    }

    assert_eq!(forkserver::pid(), server, "the parent's server still runs");
    send_text(child.control(), "enough");
    assert_eq!(code(child.wait().unwrap()), Some(5), "the parent's child was not affected");
}

/// In a child that this crate has forked, the parent's objects are invalid.
fn what_a_fork_has_copied_is_dead(method: StartMethod) {
    static INHERITED: Mutex<Option<Child>> = Mutex::new(None);
    fn drop_it(_: Birth) -> u8 {
        let Some(inherited) = INHERITED.lock().unwrap().take() else {
            return 0;
        };
        let before = fds();
        let used = std::panic::catch_unwind(|| inherited.try_wait());
        assert!(used.is_err(), "its number means another file here");
        drop(inherited);
        assert_eq!(fds(), before, "dropping it closes nothing");
        1
    }
    *INHERITED.lock().unwrap() = Some(start_ready(method, &Boot::new(until_message)));

    let exit = start_ready(method, &Boot::new(drop_it)).wait().unwrap();

    assert_eq!(code(exit), Some(i32::from(method == StartMethod::Fork)));
    let child = INHERITED.lock().unwrap().take().unwrap();
    send_text(child.control(), "enough");
    assert_eq!(code(child.wait().unwrap()), Some(5), "it was not affected");
}

fn a_stale_marker_is_ignored() {
    let own = std::process::id();
    for marker in ["", "garbage", "1", "1:1", "1:1:1", &format!("1:{own}:1"), "77:1:1"] {
        let mut command = inner("after_a_stale_marker");
        command.env("START_METHODS_CHILD", marker);
        succeed(command);
    }
}

fn after_a_stale_marker() {
    assert!(start_methods::initialized());
    assert_eq!(env::var_os("START_METHODS_CHILD"), None);
    for method in StartMethod::ALL {
        assert_eq!(code(start_ready(method, &Boot::new(exit_with).payload(&[3])).wait().unwrap()), Some(3));
    }
}

/// Calls the code at this address.
pub(crate) fn run_at(address: usize) {
    // SAFETY: not sound, and meant to fault: the caller's process ends here.
    let code = unsafe { std::mem::transmute::<usize, extern "C" fn()>(address) };
    code();
}

/// As if Ctrl-C were pressed all the time: the parent handles it, and no child is interrupted on its way to its own group.
fn an_interrupted_terminal_ends_no_forked_child() {
    handle(libc::SIGINT);
    let script = format!("while kill -s INT -- -{}; do :; done", nix::unistd::getpgrp());
    let mut terminal = Command::new("sh").args(["-c", &script]).process_group(0).spawn().unwrap();
    for _ in 0..50 {
        drop(start_ready(StartMethod::Fork, &Boot::new(until_message)));
    }
    assert_eq!(terminal.try_wait().unwrap(), None, "it cannot send signals");
    terminal.kill().unwrap();
    terminal.wait().unwrap();
}
