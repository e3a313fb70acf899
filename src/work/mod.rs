//! The units of work: functions, items in batches, and jobs with what has come back for them.

pub(crate) mod batch;
pub(crate) mod function;
pub(crate) mod jobs;
pub(crate) mod progress;
pub(crate) mod task;
pub(crate) mod unbegun;
