//! What a pool and its handles show while they work.

use crate::api::pool::Pool;
use crate::api::results::AsyncResult;
use crate::observe::stats::Stats;
use crate::observe::timeline::Timeline;

impl Pool {
    /// A snapshot: what each worker is doing, what is queued, and totals since the pool was built.
    ///
    /// It needs no settings, takes about a microsecond, and may be called at any time and from any thread; the pool works
    /// on meanwhile. On a pool that was joined, the totals are the last ones and there are no workers. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(2)?;
    /// pool.map(0..100u64, |x| x * x)?;
    /// for worker in pool.stats().workers {
    ///     println!("worker {} (process {}): {:?}, {} items", worker.lane, worker.pid, worker.state, worker.items_done);
    /// }
    /// assert_eq!(pool.stats().totals.items_done, 100);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.call().backend.stats()
    }

    /// What the pool has done so far: to be looked at as a picture, a trace, or a report.
    ///
    /// For a pool that is built with [`record`](crate::PoolBuilder::record); of any other, it is empty. It may be called at
    /// any time, also on a pool that was joined, and copies the record. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::builder().processes(2).record(100_000).build()?;
    /// pool.map(0..100u64, |x| x * x)?;
    /// println!("{}", pool.timeline().report(5));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        Timeline::new(self.call().backend.records())
    }
}

/// How far a call has come, from [`AsyncResult::progress`].
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// let pool = procpool::Pool::new(2)?;
/// let squares = pool.map_async(0..10u64, |x| x * x);
/// squares.wait();
/// assert_eq!(squares.progress().done, 10);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Items that have an outcome, errors included.
    pub done: u64,
    /// All items of the call.
    pub total: u64,
}

impl<T> AsyncResult<T> {
    /// How many items of the call have an outcome, and how many it has. Does not wait.
    ///
    /// Of a call that was refused, both are 0. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use std::time::Duration;
    ///
    /// let squares = pool.map_async(0..1000u64, |x| x * x);
    /// while !squares.wait_timeout(Duration::from_millis(100)) {
    ///     let progress = squares.progress();
    ///     println!("{} of {}", progress.done, progress.total);
    /// }
    /// assert_eq!(squares.progress().total, 1000);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn progress(&self) -> Progress {
        let (done, total) = match self.place() {
            Ok((backend, job)) => backend.counts(job),
            Err(_) => (0, 0),
        };
        Progress { done, total }
    }
}
