//! Adaptive spinning: how long either side of a link polls for news before it sleeps.
//!
//! Spinning occupies a CPU, and waking a sleeper takes time. Both sides learn which is cheaper: they spin longer when
//! news arrived while they spun or soon after they fell asleep, and shorter when nothing arrived.
//!
//! Also called: busy waiting, spin-then-park.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// The longest spin, in nanoseconds: about as long as a wake-up takes.
pub(crate) const SPIN_MAX_NS: u64 = 50_000;
const SPIN_MAX: Duration = Duration::from_nanos(SPIN_MAX_NS);
/// The shortest spin: the time that a parent takes between two calls that it makes one after the other.
const SPIN_MIN: Duration = Duration::from_micros(5);
/// Nothing arrives sooner than this. Each poll takes the cache line away from the side that is about to write it: a
/// round trip of 400 ns became one of 280 when the first polls were left out.
const HEAD_START: Duration = Duration::from_nanos(150);
/// Polls between two reads of the clock.
const POLLS: u32 = 32;

/// The length of the next spin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdaptiveSpin(Duration);

impl AdaptiveSpin {
    /// Begins with the longest spin.
    pub(crate) fn long() -> Self {
        Self(SPIN_MAX)
    }

    /// Begins with the shortest spin.
    pub(crate) fn short() -> Self {
        Self(SPIN_MIN)
    }

    pub(crate) fn duration(self) -> Duration {
        self.0
    }

    /// News arrived while this side spun.
    pub(crate) fn found_while_spinning(&mut self) {
        self.0 = (self.0 * 2).min(SPIN_MAX);
    }

    /// News arrived after a sleep of this length. A longer spin would have spared a short sleep.
    pub(crate) fn found_after_sleep(&mut self, sleep: Duration) {
        self.0 = if sleep < SPIN_MAX { self.0 * 2 } else { self.0 / 2 }.clamp(SPIN_MIN, SPIN_MAX);
    }
}

/// An adaptive spin of several threads. They may overwrite each other's lessons, which are hints.
#[derive(Debug)]
pub(crate) struct SharedSpin(AtomicU64);

impl SharedSpin {
    /// Begins with the longest spin.
    pub(crate) fn long() -> Self {
        Self(AtomicU64::new(SPIN_MAX_NS))
    }

    // Relaxed, in both: the number stands alone.
    pub(crate) fn get(&self) -> AdaptiveSpin {
        AdaptiveSpin(Duration::from_nanos(self.0.load(Ordering::Relaxed)))
    }

    pub(crate) fn set(&self, spin: AdaptiveSpin) {
        self.0.store(u64::try_from(spin.0.as_nanos()).unwrap_or(SPIN_MAX_NS), Ordering::Relaxed);
    }
}

/// Polls `found` for about `time`, or until it returns true. Returns whether it did.
pub(crate) fn spin_until(time: Duration, mut found: impl FnMut() -> bool) -> bool {
    if time.is_zero() {
        return false;
    }
    let began = Instant::now();
    while began.elapsed() < HEAD_START {
        spin_loop();
    }
    loop {
        for _ in 0..POLLS {
            if found() {
                return true;
            }
            spin_loop();
        }
        if began.elapsed() >= time {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spin_stays_within_its_bounds() {
        let mut spin = AdaptiveSpin::long();
        spin.found_while_spinning();
        assert_eq!(spin.duration(), SPIN_MAX);
        (0..10).for_each(|_| spin.found_after_sleep(SPIN_MAX));
        assert_eq!(spin.duration(), SPIN_MIN);
        spin.found_after_sleep(SPIN_MIN);
        assert_eq!(spin.duration(), 2 * SPIN_MIN);
    }

    #[test]
    fn spinning_ends() {
        assert!(!spin_until(Duration::ZERO, || unreachable!("there is no time to poll")));
        let mut polls = 0;
        assert!(!spin_until(SPIN_MIN, || {
            polls += 1;
            false
        }));
        assert!(polls >= POLLS);
        assert!(spin_until(SPIN_MAX, || true));
    }
}
