//! Clocks that processes share, and a cheap one.

use std::time::Duration;

use nix::time::ClockId;
use nix::time::clock_gettime;

/// The time since some fixed moment, by the clock that all processes of this machine have in common, and that never
/// jumps: CLOCK_MONOTONIC, see clock_gettime(2).
pub(crate) fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every system has this clock");
    u64::try_from(Duration::from(time).as_nanos()).expect("centuries have passed")
}

/// A number that stays the same for a few milliseconds at most, and takes less time to ask for than the time does:
/// CLOCK_MONOTONIC_COARSE.
pub(crate) fn tick() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("Linux has this clock").into()
}
