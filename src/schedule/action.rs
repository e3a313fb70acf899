//! What the schedule tells the engine to do.

use crate::schedule::worker_id::WorkerId;
use crate::work::batch::Span;
use crate::work::unbegun::FrameNumber;

/// What the engine must do next.
#[derive(Debug)]
pub(crate) enum Action {
    /// Start one more worker process.
    Start,
    /// Send this work to the worker.
    Send(WorkerId, Span, FrameNumber),
    /// Tell the worker to exit once it has run what it holds.
    Stop(WorkerId),
    /// Take back what the worker has not read.
    Recall(WorkerId),
    /// Too many starts have failed in a row: give the pool up.
    Break,
}
