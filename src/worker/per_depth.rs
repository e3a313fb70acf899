//! A static that each worker writes once, although a worker that is forked from a worker inherits what that one has written.

use std::sync::OnceLock;

use start_methods::DEPTH_MAX;

use crate::sys::owner_process::OwnerProcess;

const PLACES: usize = DEPTH_MAX as usize + 1;

/// What a worker has written, by the depth of its nesting. No lock is held to read it, so that no forked copy finds one held.
#[derive(Debug)]
pub(super) struct PerDepth<T>([OnceLock<(OwnerProcess, T)>; PLACES]);

impl<T> PerDepth<T> {
    pub(super) const fn new() -> Self {
        Self([const { OnceLock::new() }; PLACES])
    }

    /// Writes it; only the first value of a process counts.
    pub(super) fn set(&self, value: T) {
        let place = self.place().expect("a process is not nested more deeply than it may be");
        place.get_or_init(|| (OwnerProcess::here(), value));
    }

    /// What this process has written; `None` if it has not, or is a forked copy of the one that has.
    pub(super) fn get(&self) -> Option<&T> {
        let (owner, value) = self.place()?.get()?;
        owner.is_here().then_some(value)
    }

    fn place(&self) -> Option<&OnceLock<(OwnerProcess, T)>> {
        self.0.get(start_methods::depth() as usize)
    }
}
