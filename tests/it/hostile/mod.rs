//! Tasks that attack or damage the process that they run in, and the parent through it.

crate::harness::modules![descriptors, hostile, hygiene, rogue, spoilt];
