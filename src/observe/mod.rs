//! What a pool shows of itself. Pure: values that the engine fills, and what is made of them.
//!
//! ```text
//!   stats                    a snapshot, always there
//!   event ── hook            what happens, told one by one
//!   record ◀─ recorder ◀─ times ◀─ stamp        what a timeline is made of
//!      └──▶ timeline ──▶ svg, trace, report     and how it is looked at
//! ```
//!
//! Also called: metrics, introspection, telemetry, tracing.

pub(crate) mod event;
pub(crate) mod hook;
pub(crate) mod record;
pub(crate) mod recorder;
pub(crate) mod report;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod stamp;
pub(crate) mod stats;
mod svg;
pub(crate) mod timeline;
pub(crate) mod times;
mod trace;
