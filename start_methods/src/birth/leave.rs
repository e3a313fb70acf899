//! The end of a child: the one place where a process that has run its entry leaves.
//!
//! # Invariants
//!
//! - A forked child runs no exit handler: those registered before the fork are its parent's.
//! - A panic of the entry ends here, whatever its payload does.

use std::io;
use std::io::Write;
use std::panic::UnwindSafe;
use std::panic::catch_unwind;

use crate::sys::calls;

/// How a child came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Executed,
    Forked,
}

/// Runs the child, and ends the process with the code that `run` returns.
pub(crate) fn run_and_leave(origin: Origin, run: impl FnOnce() -> u8 + UnwindSafe) -> ! {
    let code = catch_unwind(run).unwrap_or_else(|payload| {
        // Not dropped: the payload's destructor is foreign code and may panic again.
        std::mem::forget(payload);
        calls::EXIT_PANICKED
    });
    // `_exit` would discard the buffers.
    let _result = io::stdout().flush();
    calls::flush_c_stdout();
    match origin {
        Origin::Executed => std::process::exit(code.into()),
        Origin::Forked => calls::exit_now(code),
    }
}
