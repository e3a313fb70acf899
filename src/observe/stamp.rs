//! Stamps: how far a worker was, and when.

/// How many records a worker had done at a moment, by its own account. A hint.
///
/// Between two stamps, a worker has run the records by which they differ; if they do not differ, it was idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) done: u64,
    /// By CLOCK_MONOTONIC.
    pub(crate) ns: u64,
}
