//! The fork server: one small daemon for each process that makes pools, shared by all pools of the process.
//!
//! It starts with the first pool that needs it, has one thread, and forks workers on request. It ends with this process
//! at the latest, however this process ends.
//!
//! Also called: zygote, template process.

use crate::error::PoolError;

/// Runs `f` once in the fork server when it starts. All workers share what it loads, copy on write.
///
/// Call it before the first pool is made. Several functions run in the order of the calls. `f` must not leave threads
/// behind. Named `set_forkserver_preload` in CPython, which ignores failures; here a panic in `f` is an error of the
/// first pool.
///
/// # Errors
///
/// [`PoolError::Start`] with [`StartError::AlreadyRunning`](crate::StartError::AlreadyRunning) if the fork server runs
/// already, or with [`StartError::FunctionNotFound`](crate::StartError::FunctionNotFound) if `f` is in no loaded image
/// of this program.
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
/// For programs that count their children. Workers that it has forked go on, but their exit status may then be unknown.
/// Not in CPython.
///
/// # Examples
///
/// ```
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = procpool::Pool::new(1)?;
///     pool.close();
///     pool.join()?;
///     procpool::forkserver::stop();
///     assert_eq!(procpool::forkserver::pid(), None);
///     Ok(())
/// }
/// ```
pub fn stop() {
    start_methods::forkserver::stop();
}

/// The process id of the fork server; `None` if it does not run.
///
/// Not in CPython.
///
/// # Examples
///
/// ```
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     assert_eq!(procpool::forkserver::pid(), None);
///     let _pool = procpool::Pool::new(1)?;
///     assert!(procpool::forkserver::pid().is_some());
///     Ok(())
/// }
/// ```
#[must_use]
pub fn pid() -> Option<u32> {
    start_methods::forkserver::pid()
}
