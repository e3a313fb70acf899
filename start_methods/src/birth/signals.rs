//! Signal handling around a fork: all signals are blocked across it, then reset in the child as after an exec, up to and
//! including what std installs before `main`.
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
use crate::sys::faults;

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

/// What a terminal sends to the group in its foreground.
const FROM_TERMINALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGHUP];

/// In a forked child that has left its parent's process group: resets all dispositions to those of a child that has just
/// been executed, then empties the mask.
pub(crate) fn reset_in_child() {
    // To ignore a signal discards it if it is pending: it arrived between the fork and the new group, for the parent.
    for signal in FROM_TERMINALS {
        calls::set_disposition(signal, Disposition::Ignore);
    }
    for signal in 1..=libc::SIGRTMAX() {
        calls::set_disposition(signal, Disposition::Default);
    }
    dispose_as_in_a_child();
    SigSet::empty().thread_set_mask().expect("the arguments are valid");
}

/// Handles faults as std does (see [`faults`]). Ignores SIGPIPE, as every Rust program does: writing to a closed pipe is an error and does not end the process. And
/// SIGTTOU, so that a process group in the background can still write to the terminal, if it has one.
pub(crate) fn dispose_as_in_a_child() {
    faults::handle_in_child();
    calls::set_disposition(libc::SIGPIPE, Disposition::Ignore);
    calls::set_disposition(libc::SIGTTOU, Disposition::Ignore);
}
