//! The progress of a worker, as far as time limits depend on it.

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
