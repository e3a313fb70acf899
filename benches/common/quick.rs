//! Whether a bench measures, or only proves that it runs (`PROCPOOL_BENCH_QUICK=1`).

use std::env;

/// Whether this run only proves that the bench runs. So does a build without optimization, whose figures mean nothing.
pub(crate) fn is_quick() -> bool {
    cfg!(debug_assertions) || env::var_os("PROCPOOL_BENCH_QUICK").is_some_and(|value| value == "1")
}

/// A size: `full` to measure, `quick` to prove that the bench runs.
pub(crate) fn sized<T>(full: T, quick: T) -> T {
    if is_quick() { quick } else { full }
}
