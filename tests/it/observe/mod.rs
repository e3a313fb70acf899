//! What a pool shows of itself: snapshots, events, progress, pictures.

crate::harness::modules![progress, stats];
