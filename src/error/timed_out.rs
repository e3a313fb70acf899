//! The error of a wait with a limit.

use std::error::Error;
use std::fmt;

/// The error of [`next_timeout`](crate::Imap::next_timeout): the next result did not arrive in time. It is not lost.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use procpool::{Pool, TimedOut};
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// let pool = Pool::new(1)?;
/// let slow: fn(u64) -> u64 = |millis| {
///     std::thread::sleep(Duration::from_millis(millis));
///     millis
/// };
/// let mut results = pool.imap([500], slow);
/// assert!(matches!(results.next_timeout(Duration::from_millis(1)), Err(TimedOut)));
/// assert_eq!(results.next().transpose()?, Some(500));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the next result is not there yet; ask again")
    }
}

impl Error for TimedOut {}
