//! What the indices know of one worker. Pure.

use std::time::Instant;

/// Where the indices have a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) is_busy: bool,
    pub(super) is_starting: bool,
    pub(super) ready: Option<Instant>,
    /// Its ticket in the line of idle workers.
    pub(super) idle: Option<i64>,
    pub(super) light: Option<u64>,
    pub(super) stocked: Option<Instant>,
    pub(super) lone: Option<Instant>,
    pub(super) check: Option<Instant>,
}
