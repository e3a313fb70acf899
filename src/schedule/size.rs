//! The number of workers that a pool should have. Pure.
//!
//! A pool keeps the number it was built with, unless it has an idle timeout. Then it keeps as many as its recent work has
//! needed: it grows at once when there is more work than workers, and shrinks one by one as workers stay idle.
//!
//! Also called: autoscaling, elastic pool.

use std::time::Duration;
use std::time::Instant;

/// The bounds on the number of workers, and the number wanted now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    max: usize,
    min: usize,
    idle_timeout: Option<Duration>,
    wanted: usize,
}

impl Size {
    /// Always `processes`.
    pub(crate) fn fixed(processes: usize) -> Self {
        Self { max: processes, min: processes, idle_timeout: None, wanted: processes }
    }

    /// From `min` to `max`. A worker that has been idle for `idle_timeout` is one too many.
    pub(crate) fn elastic(min: usize, max: usize, idle_timeout: Duration) -> Self {
        Self { max, min: min.min(max), idle_timeout: Some(idle_timeout), wanted: max }
    }

    /// The most workers that there may be.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// How many workers there should be now.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Whether more workers are allowed than are wanted now.
    pub(crate) fn can_grow(&self) -> bool {
        self.wanted < self.max
    }

    /// Changes the size of the pool.
    pub(crate) fn resize(&mut self, processes: usize) {
        self.max = processes;
        self.wanted = processes;
        match self.idle_timeout {
            Some(_) => self.min = self.min.min(processes),
            None => self.min = processes,
        }
    }

    /// There is work for this many workers.
    pub(crate) fn grow_to(&mut self, workers: usize) {
        self.wanted = self.wanted.max(workers.min(self.max));
    }

    /// Whether fewer workers are allowed, once one has been idle for long enough.
    pub(crate) fn can_shrink(&self) -> bool {
        self.idle_timeout.is_some() && self.wanted > self.min
    }

    /// When a worker that has been idle since `since` is one too many; `None` if it never is.
    pub(crate) fn idle_until(&self, since: Instant) -> Option<Instant> {
        match self.can_shrink() {
            true => since.checked_add(self.idle_timeout?),
            false => None,
        }
    }

    /// A worker has been idle for too long.
    pub(crate) fn shrink(&mut self) {
        self.wanted = self.wanted.saturating_sub(1).max(self.min);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn a_fixed_size_neither_shrinks_nor_grows() {
        let mut size = Size::fixed(3);
        assert_eq!(size.idle_until(Instant::now()), None);
        size.grow_to(9);
        assert_eq!((size.wanted(), size.can_grow()), (3, false));
        size.resize(5);
        assert_eq!((size.wanted(), size.idle_until(Instant::now())), (5, None));
    }

    #[test]
    fn an_elastic_one_moves_between_its_bounds() {
        let mut size = Size::elastic(1, 3, IDLE_TIMEOUT);
        let now = Instant::now();
        for left in [2, 1] {
            assert_eq!(size.idle_until(now), Some(now + IDLE_TIMEOUT));
            size.shrink();
            assert_eq!(size.wanted(), left);
        }
        assert_eq!(size.idle_until(now), None);
        size.grow_to(2);
        assert_eq!((size.wanted(), size.can_grow()), (2, true));
        size.grow_to(100);
        assert_eq!((size.wanted(), size.can_grow()), (3, false));
    }

    #[test]
    fn its_bounds_follow_when_it_is_resized() {
        let mut size = Size::elastic(2, 8, IDLE_TIMEOUT);
        size.resize(1);
        assert_eq!((size.wanted(), size.idle_until(Instant::now())), (1, None));
    }
}
