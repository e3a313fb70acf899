//! Dead children that could not be reaped when they were dropped, because a tracer held them.
//!
//! A debugger, or a task that traces its sibling, may hold a dead process for any time: until it has seen the end, the
//! parent cannot reap. Nothing waits for that. The child is remembered here, and later starts and drops try again.
//!
//! # Invariants
//!
//! - Nothing here waits.
//! - Only children of this process are here: a forked child has a list of its own.

use std::sync::Mutex;

use crate::child::handle::Handle;
use crate::sys::process;
use crate::sys::process::PerProcess;

static STATE: PerProcess<Mutex<Vec<Handle>>> = PerProcess::new();

/// Remembers a dead child.
pub(crate) fn remember(child: Handle) {
    process::lock(STATE.get()).push(child);
}

/// Reaps those that can be reaped by now.
pub(crate) fn reap() {
    process::lock(STATE.get()).retain(|child| matches!(child.reap(), Ok(None)));
}
