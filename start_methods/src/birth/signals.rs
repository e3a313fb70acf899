//! Signals around a birth: blocked while the child is not yet itself, then as after a fresh start.
//!
//! # Invariants
//!
//! - Between the fork and [`reset_in_child`] no handler of the parent's runs in the child: all
//!   signals are blocked, and the handlers are gone before the mask is.
//! - The functions for the child neither allocate nor lock.

use nix::sys::signal::SigSet;
use nix::sys::signal::SigmaskHow;

use crate::sys::calls;
use crate::sys::calls::Disposition;

/// All signals are blocked in this thread until this is dropped.
pub(crate) struct Blocked {
    before: SigSet,
}

impl Blocked {
    pub(crate) fn all() -> Self {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("the arguments are valid");
        Self { before }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.before.thread_set_mask().expect("it was the mask before");
    }
}

/// In a forked child: default dispositions but for SIGPIPE and SIGTTOU, then an empty mask.
pub(crate) fn reset_in_child() {
    for signal in 1..=libc::SIGRTMAX() {
        calls::set_disposition(signal, Disposition::Default);
    }
    ignore_what_a_child_ignores();
    SigSet::empty().thread_set_mask().expect("the arguments are valid");
}

/// SIGPIPE, as every Rust program: a write to a closed pipe is an error and not the end. SIGTTOU,
/// because a process group in the background may still write to the terminal.
pub(crate) fn ignore_what_a_child_ignores() {
    calls::set_disposition(libc::SIGPIPE, Disposition::Ignore);
    calls::set_disposition(libc::SIGTTOU, Disposition::Ignore);
}
