//! The units of work: functions, items in batches, and jobs with their results.

pub(crate) mod batch;
pub(crate) mod function;
pub(crate) mod group;
pub(crate) mod jobs;
pub(crate) mod progress;
pub(crate) mod shape;
pub(crate) mod task;
pub(crate) mod unbegun;
