//! How many workers there should be. Pure.
//!
//! A pool keeps as many as it was asked for, unless it was told to let go of those that have nothing to do. Then it
//! keeps what the work has asked for lately: it grows at once when there is more to do than workers to do it, and
//! shrinks one by one as they sit idle.

use std::time::Duration;
use std::time::Instant;

/// How many workers a pool may have, and when it has fewer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    most: usize,
    least: usize,
    idle_timeout: Option<Duration>,
    wanted: usize,
}

impl Size {
    /// Always `processes`.
    pub(crate) fn fixed(processes: usize) -> Self {
        Self { most: processes, least: processes, idle_timeout: None, wanted: processes }
    }

    /// Up to `most` and no fewer than `least`; a worker that has been idle for so long is one too many.
    pub(crate) fn elastic(least: usize, most: usize, idle_timeout: Duration) -> Self {
        Self { most, least: least.min(most), idle_timeout: Some(idle_timeout), wanted: most }
    }

    /// The most that there may be.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// How many there should be now.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Whether more would be allowed.
    pub(crate) fn can_grow(&self) -> bool {
        self.wanted < self.most
    }

    /// The pool's size is another from now on.
    pub(crate) fn resize(&mut self, processes: usize) {
        self.most = processes;
        self.wanted = processes;
        match self.idle_timeout {
            Some(_) => self.least = self.least.min(processes),
            None => self.least = processes,
        }
    }

    /// There is work for so many.
    pub(crate) fn grow_to(&mut self, workers: usize) {
        self.wanted = self.wanted.max(workers.min(self.most));
    }

    /// Whether fewer would be allowed, as soon as somebody has been idle for long enough.
    pub(crate) fn can_shrink(&self) -> bool {
        self.idle_timeout.is_some() && self.wanted > self.least
    }

    /// When a worker that is idle since then is one too many; never, if none is.
    pub(crate) fn idle_until(&self, since: Instant) -> Option<Instant> {
        match self.can_shrink() {
            true => since.checked_add(self.idle_timeout?),
            false => None,
        }
    }

    /// One has been idle for too long.
    pub(crate) fn shrink(&mut self) {
        self.wanted = self.wanted.saturating_sub(1).max(self.least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

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
        let mut size = Size::elastic(1, 3, PATIENCE);
        let now = Instant::now();
        for left in [2, 1] {
            assert_eq!(size.idle_until(now), Some(now + PATIENCE));
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
        let mut size = Size::elastic(2, 8, PATIENCE);
        size.resize(1);
        assert_eq!((size.wanted(), size.idle_until(Instant::now())), (1, None));
    }
}
