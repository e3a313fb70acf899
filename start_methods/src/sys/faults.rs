//! SIGSEGV and SIGBUS in a child: the same end by every start method.
//!
//! std installs a handler for both in every Rust program, before `main`. It recognises a stack overflow by the address,
//! reports it and aborts; for any other fault it restores the default and returns, and the fault, repeated, ends the
//! process. A child must differ from that in one respect: a signal that was *sent*, by raise(3) or kill(2), is not
//! repeated, and std's handler would swallow it. So a child has a handler of its own, which passes faults on to std's.
//!
//! A forked child resets all handlers, since those of the parent are not meant for it. std's is known by what [`note`]
//! found at the beginning of `main`, and stays. It needs nothing that a fork does not copy: the alternate signal stack,
//! and what std knows of the thread that forks.
//!
//! Also called: guard page, sigaltstack.
//!
//! # Invariants
//!
//! - The handler neither allocates nor locks, and std's is called only for faults.

#![expect(unsafe_code, reason = "a signal handler, and a call of the one that was there before")]

use std::ffi::c_int;
use std::ffi::c_void;
use std::mem;
use std::ptr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// What std installs a handler for.
const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// A handler with SA_SIGINFO.
type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// The address of std's handler, the same for both signals; 0 if it is not known.
// Relaxed: it is stored while the process has one thread, at the beginning of `main`.
static OF_STD: AtomicUsize = AtomicUsize::new(0);

/// To be called first in `main`: the handler that is installed now is std's.
///
/// Before `main` there is none yet, and in a program whose `main` is not Rust's there never is.
pub(crate) fn note() {
    let handlers = SIGNALS.map(installed);
    if handlers[0] == handlers[1]
        && let Some(handler) = handlers[0]
    {
        OF_STD.store(handler, Ordering::Relaxed);
    }
}

/// Installs the child's handler if std has one. For a child before its entry, which has one thread.
pub(crate) fn handle_in_child() {
    if OF_STD.load(Ordering::Relaxed) == 0 {
        return;
    }
    // SAFETY: sigaction is plain data; all zeroes is an empty mask and no flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_fault as Handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    for signal in SIGNALS {
        // SAFETY: `on_fault` has the type that SA_SIGINFO wants, and calls nothing that is not async-signal-safe.
        let _result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

/// The address of the handler with SA_SIGINFO of a signal, if it has one.
fn installed(signal: c_int) -> Option<usize> {
    // SAFETY: sigaction is plain data.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: without a new action the call only fills `action`, which is ours.
    let result = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    let is_handler = result == 0 && action.sa_flags & libc::SA_SIGINFO != 0;
    (is_handler && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction)).then_some(action.sa_sigaction)
}

unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo that is valid until this returns.
    let was_sent = unsafe { (*info).si_code } <= 0;
    let of_std = OF_STD.load(Ordering::Relaxed);
    if was_sent {
        // SAFETY: SIG_DFL runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // Blocked while this handler runs: it ends the process when this returns.
        // SAFETY: raise(3) is async-signal-safe and has no preconditions.
        unsafe { libc::raise(signal) };
        return;
    }
    // SAFETY: the address is that of a handler that was installed with SA_SIGINFO, and so has this type.
    let of_std = unsafe { mem::transmute::<usize, Handler>(of_std) };
    // SAFETY: the arguments are the kernel's, as std's handler expects them.
    unsafe { of_std(signal, info, context) };
}
