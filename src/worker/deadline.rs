//! The deadline of the running item, as its function can read it.

use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

/// The deadline of the item that this worker runs.
static DEADLINE: Mutex<Option<Instant>> = Mutex::new(None);

/// When the item that runs here will be stopped: in a worker, during an item of a call with a
/// [`timeout`](crate::Pool::timeout). `None` at any other time, and in any other process.
///
/// At that moment the worker is killed, without a warning to the task. A task that would rather end by itself asks
/// now and then, and leaves itself time to return:
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use procpool::Pool;
///
/// /// Improves a guess until it is good, or until there is no more time.
/// fn root(square: f64) -> f64 {
///     let enough = procpool::deadline().map(|deadline| deadline - Duration::from_millis(100));
///     let mut guess = square;
///     while (guess * guess - square).abs() > 1e-9 && enough.is_none_or(|enough| Instant::now() < enough) {
///         guess = (guess + square / guess) / 2.0;
///     }
///     guess
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     let roots = pool.timeout(Duration::from_secs(10)).map([2.0, 9.0], root)?;
///     assert!((roots[1] - 3.0).abs() < 1e-6);
///     Ok(())
/// }
/// ```
///
/// From any thread of the worker. Named `soft_timeout` in billiard, which raises an exception in the task instead.
#[must_use]
pub fn deadline() -> Option<Instant> {
    *DEADLINE.lock()
}

/// The time limit of a running item, until this is dropped.
pub(crate) struct Limit {
    is_limited: bool,
}

/// Begins an item with this time limit.
pub(crate) fn begin(timeout: Option<Duration>) -> Limit {
    if let Some(timeout) = timeout {
        *DEADLINE.lock() = Instant::now().checked_add(timeout);
    }
    Limit { is_limited: timeout.is_some() }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if self.is_limited {
            *DEADLINE.lock() = None;
        }
    }
}
