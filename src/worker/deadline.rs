//! The deadline of the running item, as its function can read it.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::sys::clock;

/// When the running item began, by CLOCK_MONOTONIC. It may have begun a little later: see [`is_wanted`].
static BEGAN_NS: AtomicU64 = AtomicU64::new(0);
/// The time limit of the items that run; 0 for none.
static LIMIT_NS: AtomicU64 = AtomicU64::new(0);
/// Whether a function has asked for its deadline.
static IS_WANTED: AtomicBool = AtomicBool::new(false);

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
    // Relaxed, here and below: each number stands alone. A thread that asks while an item ends may see either.
    let limit = LIMIT_NS.load(Ordering::Relaxed);
    if limit == 0 {
        return None;
    }
    IS_WANTED.store(true, Ordering::Relaxed);
    instant(BEGAN_NS.load(Ordering::Relaxed).saturating_add(limit))
}

/// A moment of CLOCK_MONOTONIC, or one a little earlier; `None` beyond the range of the clock.
fn instant(ns: u64) -> Option<Instant> {
    /// The same moment by both clocks, or a later one by the second.
    static BASE: OnceLock<(Instant, u64)> = OnceLock::new();
    let (base, base_ns) = *BASE.get_or_init(|| (Instant::now(), clock::monotonic_ns()));
    match ns.checked_sub(base_ns) {
        Some(after) => base.checked_add(Duration::from_nanos(after)),
        None => base.checked_sub(Duration::from_nanos(base_ns - ns)),
    }
}

/// Whether functions of this worker ask for their deadline. If not, the moment at which an item began need not be exact:
/// an earlier one, which takes no reading of the clock, is good enough for the first answer.
pub(crate) fn is_wanted() -> bool {
    IS_WANTED.load(Ordering::Relaxed)
}

/// The time limit of the items that run, until this is dropped.
pub(crate) struct Limit(());

impl Limit {
    /// A limit of centuries is none.
    pub(crate) fn new(timeout: Duration) -> Self {
        LIMIT_NS.store(u64::try_from(timeout.as_nanos()).unwrap_or(0), Ordering::Relaxed);
        Self(())
    }

    /// An item begins, or began at this moment of CLOCK_MONOTONIC.
    #[inline]
    #[expect(clippy::unused_self, reason = "an item has a beginning as long as it has a limit")]
    pub(crate) fn item_began(&self, ns: u64) {
        BEGAN_NS.store(ns, Ordering::Relaxed);
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        LIMIT_NS.store(0, Ordering::Relaxed);
    }
}
