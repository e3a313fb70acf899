//! The processes that this one has started and that have not ended, and those that nobody holds any more.
//!
//! A detached process is kept here, with its lifeline, until it has ended; it is reaped by the next start, drop or question.

use std::sync::Arc;
use std::sync::Weak;

use parking_lot::Mutex;
use parking_lot::MutexGuard;

use super::running::Running;
use crate::sys::generation::PerGeneration;

/// Of this process: those of its parent are the parent's, and so is their lock.
static CHILDREN: PerGeneration<Mutex<Vec<Known>>> = PerGeneration::new();

#[derive(Debug)]
enum Known {
    /// A handle holds it.
    Held(Weak<Running>),
    Detached(Arc<Running>),
}

impl Known {
    /// Whether it may be forgotten. Asks the system only about those that nobody holds.
    fn is_over(&self) -> bool {
        match self {
            Known::Held(running) => running.strong_count() == 0,
            Known::Detached(running) => has_ended(running),
        }
    }

    /// The process, unless it has ended.
    fn living(&self) -> Option<Arc<Running>> {
        let running = match self {
            Known::Held(running) => running.upgrade(),
            Known::Detached(running) => Some(Arc::clone(running)),
        };
        running.filter(|running| !has_ended(running))
    }
}

/// Whether a process is over: it has ended, or is a child of the process of which this is a forked copy.
fn has_ended(running: &Running) -> bool {
    !running.is_here() || running.has_ended()
}

/// What is taken off the list because it is over, and the list. In this order: the lock is released before the others are
/// dropped, which closes descriptors.
fn swept() -> (Vec<Known>, MutexGuard<'static, Vec<Known>>) {
    let mut children = CHILDREN.here().get_or_init(Mutex::default).lock();
    let (over, others) = std::mem::take(&mut *children).into_iter().partition(Known::is_over);
    *children = others;
    (over, children)
}

/// A process was started.
pub(super) fn add(running: &Arc<Running>) {
    let (_over, mut children) = swept();
    children.push(Known::Held(Arc::downgrade(running)));
}

/// Keeps a process whose handle is dropped.
pub(super) fn detach(running: Arc<Running>) {
    let (_over, mut children) = swept();
    if !running.has_ended() {
        children.retain(|known| !matches!(known, Known::Held(held) if held.as_ptr() == Arc::as_ptr(&running)));
        children.push(Known::Detached(running));
    }
}

/// The handle of a process is dropped: those that were let go before and have ended are reaped.
pub(super) fn sweep() {
    let (_over, _children) = swept();
}

/// The processes that have not ended, in the order in which they were started or let go. Those that have are reaped.
pub(super) fn living() -> Vec<Arc<Running>> {
    let (_over, children) = swept();
    children.iter().filter_map(Known::living).collect()
}
