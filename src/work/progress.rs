//! The progress of a worker, as far as the parent can see it.

use std::time::Duration;
use std::time::Instant;

/// How far a worker has come with its next item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has begun nothing.
    Waits,
    /// It carries out an order that was sent before the item.
    Prepares,
    /// It runs the item. It has written down itself since when; `None` if it has not.
    Runs { since: Option<Instant> },
}

/// How long an item has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunTime {
    pub(crate) at_most: Duration,
    /// It is no less either.
    pub(crate) is_exact: bool,
}
