//! Dead children that could not be reaped when they were dropped, because a tracer held them.
//!
//! A debugger, or a task that traces its sibling, may hold a dead process for any time: until it has seen the end, the
//! parent cannot reap. Nothing waits for that. The child is remembered here, and later starts and drops try again.
//!
//! # Invariants
//!
//! - Nothing here waits.
//! - Only children of this process are here: a forked child has a list of its own.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::Mutex;

use crate::sys::calls;
use crate::sys::fd::PrivateFd;
use crate::sys::process;
use crate::sys::process::PerProcess;

static STATE: PerProcess<Mutex<Vec<Arc<PrivateFd>>>> = PerProcess::new();

/// Remembers a dead child.
pub(crate) fn remember(pidfd: Arc<PrivateFd>) {
    process::lock(STATE.get()).push(pidfd);
}

/// Reaps those that can be reaped by now.
pub(crate) fn reap() {
    process::lock(STATE.get()).retain(|pidfd| matches!(calls::reap_pidfd(pidfd.as_fd()), Ok(None)));
}
