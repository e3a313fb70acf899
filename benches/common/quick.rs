//! Whether a bench measures, or only shows that it runs.

use std::env;

/// Whether this run shall only show that it runs. Figures of a build without optimization mean nothing anyway.
pub(crate) fn is_quick() -> bool {
    cfg!(debug_assertions) || env::var_os("PROCPOOL_BENCH_QUICK").is_some_and(|value| value == "1")
}

/// The size of something: as it should be, or as small as it can be.
pub(crate) fn sized<T>(full: T, quick: T) -> T {
    if is_quick() { quick } else { full }
}
