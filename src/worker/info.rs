//! What a task can ask of the worker in which it runs: its place in the pool, and how much it has done.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::per_depth::PerDepth;
use crate::transport::control::Lane;

/// What does not change while the worker lives.
#[derive(Debug)]
struct Identity {
    lane: Lane,
    pool: String,
}

/// The worker that this process is.
static IDENTITY: PerDepth<Identity> = PerDepth::new();

/// How many items have ended here.
static ITEMS_DONE: AtomicU64 = AtomicU64::new(0);

/// The worker in which a function runs; see [`worker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// The place of this worker in its pool: 0 for the first, and in a pool of `n` workers below `n`.
    ///
    /// It never changes, and a replacement takes the index of the worker that it replaces. It may do so a little before
    /// that one has ended, so what only one process may have at a time (a port, a file) needs a lock or a second
    /// attempt. A pool that [shrinks](crate::Pool::resize) keeps any of its workers, with the indices that they have.
    pub index: usize,
    /// How many workers of the pool had this index before: 0 until the first is replaced.
    pub generation: u64,
    /// How many items have ended in this worker. The running one is not counted.
    pub items_done: u64,
    /// The [name](crate::PoolBuilder::name) of the pool.
    pub pool: &'static str,
}

/// The worker that this process is: in tasks, initializers and finalizers, on any thread. `None` in any other process: in
/// the one that made the pool, in a fork server, and in a process that a task has forked.
///
/// With the index, each worker can have a device, a port or a file of its own. CPython has `current_process()._identity`,
/// whose numbers are never used again.
///
/// # Examples
///
/// ```
/// use procpool::Pool;
///
/// /// The device of this worker, of two.
/// fn device(_item: u32) -> Option<usize> {
///     procpool::worker().map(|worker| worker.index % 2)
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(4)?;
///     let devices = pool.map(0..100, device)?;
///     assert!(devices.iter().all(|device| matches!(device, Some(0 | 1))));
///     assert_eq!(procpool::worker(), None);
///     Ok(())
/// }
/// ```
#[must_use]
#[doc(alias = "current_process")]
pub fn worker() -> Option<WorkerInfo> {
    let Identity { lane, pool } = IDENTITY.get()?;
    Some(WorkerInfo {
        index: lane.index as usize,
        generation: lane.generation,
        // Relaxed: a number that stands alone.
        items_done: ITEMS_DONE.load(Ordering::Relaxed),
        pool,
    })
}

/// This process is a worker from now on.
pub(super) fn begin(lane: Lane, pool: String) {
    ITEMS_DONE.store(0, Ordering::Relaxed);
    IDENTITY.set(Identity { lane, pool });
}

/// An item has ended. On the worker's thread only, which alone writes the count: no atomic step that adds is needed.
#[inline]
pub(super) fn item_done() {
    ITEMS_DONE.store(ITEMS_DONE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
