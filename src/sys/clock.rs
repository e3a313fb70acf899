//! Monotonic clocks: one that all processes share, and a coarse one that is cheap to read.

#![expect(unsafe_code, reason = "one call of libc, whose safe wrapper takes twice the time")]

use std::time::Duration;

use nix::time::ClockId;
use nix::time::clock_gettime;

/// Nanoseconds since a fixed moment, by a clock that all processes of this machine share and that never jumps:
/// CLOCK_MONOTONIC, see clock_gettime(2).
pub(crate) fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every system has this clock");
    u64::try_from(Duration::from(time).as_nanos()).expect("centuries have passed")
}

/// A time that changes every few milliseconds: CLOCK_MONOTONIC_COARSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    seconds: libc::time_t,
    nanos: libc::c_long,
}

/// The coarse time. Reading it takes a fifth of the time that the exact clock takes, if the call is direct: a safe wrapper
/// moves the result in wider pieces than the kernel writes it in, which stalls the processor for as long again.
#[inline]
pub(crate) fn tick() -> Tick {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which is here. Linux has this clock since 2.6.32, so the call cannot fail; if
    // it did, the time would be zero.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    Tick { seconds: time.tv_sec, nanos: time.tv_nsec }
}
