//! One value for each generation of processes, so that a child never waits for a lock of its parent.
//!
//! A forked child begins with a copy of its parent's statics, and of their locks in whatever state they were. A process
//! that this crate starts is of the next generation, and uses another place than its parent: one that nobody has touched.
//! A copy that a task forks itself is of the same generation, and shares the place with the original.
//!
//! Also called: fork safety.

use std::sync::OnceLock;

use start_methods::DEPTH_MAX;
use start_methods::depth;

const GENERATIONS: usize = DEPTH_MAX as usize + 1;

/// A value of this process, and of its ancestors, which only they use.
#[derive(Debug)]
pub(crate) struct PerGeneration<T>([OnceLock<T>; GENERATIONS]);

impl<T> PerGeneration<T> {
    pub(crate) const fn new() -> Self {
        Self([const { OnceLock::new() }; GENERATIONS])
    }

    /// The place of this generation.
    pub(crate) fn here(&self) -> &OnceLock<T> {
        // No process of ours is deeper. The depth of a process with a stale marker is whatever that says.
        let generation = usize::try_from(depth()).map_or(GENERATIONS - 1, |depth| depth.min(GENERATIONS - 1));
        &self.0[generation]
    }
}
