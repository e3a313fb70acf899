//! Monotonic clocks: one that all processes share, and a coarse one that is cheap to read.
//!
//! The calls are direct: a safe wrapper moves the result in wider pieces than the kernel writes it in, which stalls the
//! processor for as long as reading the coarse clock takes.

#![expect(unsafe_code, reason = "calls of libc, whose safe wrapper takes much longer")]

/// Nanoseconds since a fixed moment, by a clock that all processes of this machine share and that never jumps:
/// CLOCK_MONOTONIC, see clock_gettime(2).
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    let time = read(libc::CLOCK_MONOTONIC);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// A time that changes every few milliseconds: CLOCK_MONOTONIC_COARSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick {
    seconds: libc::time_t,
    nanos: libc::c_long,
}

/// The coarse time. Reading it takes a fifth of the time that the exact clock takes.
#[inline]
pub(crate) fn tick() -> Tick {
    let time = read(libc::CLOCK_MONOTONIC_COARSE);
    Tick { seconds: time.tv_sec, nanos: time.tv_nsec }
}

#[inline]
fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which is here.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(result, 0, "Linux has these clocks");
    time
}
