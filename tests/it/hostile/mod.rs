//! Tasks that damage their own process, or attack the parent through it.

crate::harness::modules![descriptors, hostile, hygiene, rogue, spoilt, stamps];
