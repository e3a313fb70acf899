//! How far a worker has come with its next item.

use std::time::Instant;

/// How far a worker has come with its next item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has not begun anything.
    Waits,
    /// It obeys an order that comes before the item.
    Prepares,
    /// It runs the item, by its own word since then.
    Runs { since: Option<Instant> },
}
