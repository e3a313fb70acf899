//! The settings of a pool that the schedule follows.

use std::time::Duration;

use crate::schedule::size::Size;
use crate::work::unbegun::Grain;

/// How many workers a pool keeps, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolPolicy {
    pub(crate) size: Size,
    /// Maximum items that one worker may be sent in its life.
    pub(crate) tasks_max: Option<u64>,
    /// Maximum age of a worker.
    pub(crate) age_max: Option<Duration>,
    pub(crate) grain: Grain,
    /// How many workers can run at the same time.
    pub(crate) processors: usize,
}
