//! What a pool shows of itself: snapshots, events, progress, pictures.

crate::harness::modules![events, progress, stats, timeline];
