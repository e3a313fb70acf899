//! Signal handling around a fork: all signals are blocked across it, then reset in the child as after an exec.
//!
//! # Invariants
//!
//! - Between the fork and [`reset_in_child`] no handler of the parent's runs in the child: all signals are blocked, and
//!   the handlers are removed before the signals are unblocked.
//! - The functions for the child neither allocate nor lock.

use nix::sys::signal::SigSet;
use nix::sys::signal::SigmaskHow;

use crate::sys::calls;
use crate::sys::calls::Disposition;

/// Blocks all signals in this thread until it is dropped.
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
        self.before.thread_set_mask().expect("a mask that was in force is valid");
    }
}

/// In a forked child: resets all dispositions to the default, except SIGPIPE and SIGTTOU, then empties the mask.
pub(crate) fn reset_in_child() {
    for signal in 1..=libc::SIGRTMAX() {
        calls::set_disposition(signal, Disposition::Default);
    }
    ignore_what_a_child_ignores();
    SigSet::empty().thread_set_mask().expect("the arguments are valid");
}

/// Ignores SIGPIPE, as every Rust program does: writing to a closed pipe is an error and does not end the process. And
/// SIGTTOU, so that a process group in the background can still write to the terminal.
pub(crate) fn ignore_what_a_child_ignores() {
    calls::set_disposition(libc::SIGPIPE, Disposition::Ignore);
    calls::set_disposition(libc::SIGTTOU, Disposition::Ignore);
}
