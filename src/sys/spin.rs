//! How long either side of a road looks for what it waits for before it sleeps.
//!
//! To look takes a processor, and to be woken takes time. Both sides learn what pays: longer when something came while
//! they looked or soon after they fell asleep, shorter when nothing did.

use std::hint::spin_loop;
use std::time::Duration;
use std::time::Instant;

/// The longest look, in nanoseconds: about what it takes to be woken.
pub(crate) const LONGEST_NS: u64 = 50_000;
const LONGEST: Duration = Duration::from_nanos(LONGEST_NS);
/// The shortest look: what a parent takes that hands over one task after the other.
const SHORTEST: Duration = Duration::from_micros(5);
/// Nothing comes sooner than this. Each look takes the word that is looked at away from the side that is about to change
/// it: a round trip of 400 ns became one of 280 when the first looks were left out.
const HEAD_START: Duration = Duration::from_nanos(150);
/// Looks between two looks at the clock.
const LOOKS: u32 = 32;

/// How long the next look is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdaptiveSpin(Duration);

impl AdaptiveSpin {
    pub(crate) fn long() -> Self {
        Self(LONGEST)
    }

    pub(crate) fn short() -> Self {
        Self(SHORTEST)
    }

    pub(crate) fn time(self) -> Duration {
        self.0
    }

    /// It came while somebody looked for it.
    pub(crate) fn was_rewarded(&mut self) {
        self.0 = (self.0 * 2).min(LONGEST);
    }

    /// It came after a sleep of so long. A short one is one that looking on would have spared.
    pub(crate) fn was_followed_by(&mut self, sleep: Duration) {
        self.0 = if sleep < LONGEST { self.0 * 2 } else { self.0 / 2 }.clamp(SHORTEST, LONGEST);
    }
}

/// Looks for about so long, unless it is found before; says whether it was.
pub(crate) fn look(time: Duration, mut found: impl FnMut() -> bool) -> bool {
    if time.is_zero() {
        return false;
    }
    let began = Instant::now();
    while began.elapsed() < HEAD_START {
        spin_loop();
    }
    loop {
        for _ in 0..LOOKS {
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
    fn patience_stays_within_its_bounds() {
        let mut spin = AdaptiveSpin::long();
        spin.was_rewarded();
        assert_eq!(spin.time(), LONGEST);
        (0..10).for_each(|_| spin.was_followed_by(LONGEST));
        assert_eq!(spin.time(), SHORTEST);
        spin.was_followed_by(SHORTEST);
        assert_eq!(spin.time(), 2 * SHORTEST);
    }

    #[test]
    fn a_look_ends() {
        assert!(!look(Duration::ZERO, || unreachable!("there is no time to look")));
        let mut looks = 0;
        assert!(!look(SHORTEST, || {
            looks += 1;
            false
        }));
        assert!(looks >= LOOKS);
        assert!(look(LONGEST, || true));
    }
}
