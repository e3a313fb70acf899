//! The fork server: one small daemon for each process that makes pools, shared by all of them.
//!
//! It starts with the first pool that needs it, has one thread, and forks a worker when it is asked to. It ends with
//! this process at the latest, however this process ends.

use crate::error::PoolError;

/// Runs `f` once in the fork server, before it serves: what it loads is shared, copy on write, by all workers.
///
/// Say it before the first pool is made; several functions run in order. `f` must not leave threads behind. Named
/// `set_forkserver_preload` in CPython, which ignores failures; here a panic in `f` is an error of the first pool.
///
/// # Errors
///
/// [`PoolError::Start`]: the fork server is running already, and it is too late.
///
/// # Examples
///
/// ```
/// use std::sync::OnceLock;
///
/// static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     procpool::forkserver::preload(|| {
///         TABLE.get_or_init(|| (0..1000).map(|x| x * x).collect());
///     })?;
///     let pool = procpool::Pool::new(2)?;
///     let there = pool.apply((30usize,), |i| TABLE.get().map(|table| table[i]))?;
///     assert_eq!(there, Some(900));
///     Ok(())
/// }
/// ```
#[doc(alias = "set_forkserver_preload")]
pub fn preload(f: fn()) -> Result<(), PoolError> {
    Ok(start_methods::forkserver::preload(f)?)
}

/// Ends the fork server, if it runs, and reaps it. The next pool that needs one starts a new one.
///
/// Workers that it has forked go on; how they end may then be unknown. For programs that count their children.
pub fn stop() {
    start_methods::forkserver::stop();
}

/// The process id of the fork server, if it runs.
#[must_use]
pub fn pid() -> Option<u32> {
    start_methods::forkserver::pid()
}
