//! Monotonic clocks: one that all processes share, and a coarse one that is cheap to read.

use std::time::Duration;

use nix::time::ClockId;
use nix::time::clock_gettime;

/// Nanoseconds since a fixed moment, by a clock that all processes of this machine share and that never jumps:
/// CLOCK_MONOTONIC, see clock_gettime(2).
pub(crate) fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every system has this clock");
    u64::try_from(Duration::from(time).as_nanos()).expect("centuries have passed")
}

/// A time that changes every few milliseconds, and is cheaper to read than the exact one: CLOCK_MONOTONIC_COARSE.
pub(crate) fn tick() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("Linux has this clock").into()
}
