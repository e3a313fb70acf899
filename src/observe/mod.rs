//! What a pool shows of itself. Pure: values that the engine fills, and what is made of them.
//!
//! - [`stats`]: a snapshot, always there.
//!
//! Also called: metrics, introspection, telemetry.

pub(crate) mod stats;
