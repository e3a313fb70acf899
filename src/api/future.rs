//! Several handles at once, and a handle that cancels: what `concurrent.futures` has beside the future itself.
//!
//! The handles of a call to [`wait`](wait()) or [`as_completed`] form a [`Group`], in which each job notes that it has
//! finished. If all are of one pool, the thread that waits drives that pool, as it does in `get`; otherwise the
//! background thread of each pool drives, and this thread sleeps.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use crate::api::results::AsyncResult;
use crate::driver::Backend;
use crate::driver::Completion;
use crate::driver::DrivenBy;
use crate::driver::Group;
use crate::error::TaskError;
use crate::error::TimedOut;
use crate::work::batch::JobId;

/// A job of a backend, and its place in the group.
type Place = (JobId, usize);

/// Handles that are waited for together.
struct Waiting {
    group: Arc<Group>,
    /// The jobs of each backend.
    pools: Vec<(Arc<dyn Backend>, Vec<Place>)>,
    /// Completions that were taken out of the group and not returned.
    taken: VecDeque<Completion>,
}

impl Waiting {
    fn new<'h, T: 'h>(handles: impl Iterator<Item = &'h AsyncResult<T>>) -> Self {
        let mut waiting = Self { group: Arc::default(), pools: Vec::new(), taken: VecDeque::new() };
        // By address: a backend is one object for all handles of its pool.
        let mut pools: BTreeMap<usize, usize> = BTreeMap::new();
        for (index, handle) in handles.enumerate() {
            match handle.place() {
                Ok((backend, job)) => {
                    let pool = *pools.entry(Arc::as_ptr(backend).cast::<()>().addr()).or_insert_with(|| {
                        waiting.pools.push((Arc::clone(backend), Vec::new()));
                        waiting.pools.len() - 1
                    });
                    waiting.pools[pool].1.push((job, index));
                }
                Err(log) => waiting.group.push(Completion { index, has_failed: log.has_failed() }),
            }
        }
        waiting.join();
        waiting
    }

    fn join(&self) {
        let driven_by = if self.pools.len() == 1 { DrivenBy::Waiter } else { DrivenBy::Background };
        for (backend, places) in &self.pools {
            if backend.join_group(places, &self.group, driven_by).is_err() {
                // A forked copy: each handle has that error as its result.
                for &(_, index) in places {
                    self.group.push(Completion { index, has_failed: true });
                }
            }
        }
    }

    /// The next completion; `None` once the deadline has passed.
    fn next(&mut self, deadline: Option<Instant>) -> Option<Completion> {
        if self.taken.is_empty() {
            if !self.group.has_news() {
                self.wait(deadline);
            }
            self.taken.extend(self.group.take());
        }
        self.taken.pop_front()
    }

    fn wait(&self, deadline: Option<Instant>) {
        match self.pools.as_slice() {
            [(backend, _)] => {
                // A forked copy was noted when the group was joined.
                drop(backend.wait_group(&self.group, deadline));
            }
            _ => self.group.wait(deadline),
        }
    }

    /// Takes the handles that are not finished out of the group. They are still held.
    fn leave(&self) {
        for (backend, places) in &self.pools {
            let jobs: Vec<JobId> = places.iter().map(|&(job, _)| job).collect();
            backend.leave_group(&jobs, &self.group);
        }
    }
}

/// What [`wait`](wait()) waits for.
///
/// Named `return_when` in CPython's `concurrent.futures`.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// use procpool::Until;
///
/// let handles = [7u64, 8].map(|x| pool.apply_async((x,), |x| x + 1));
/// let (done, _) = procpool::wait(&handles, Until::FirstDone, None);
/// assert!(!done.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Until {
    /// One handle has its result. Named `FIRST_COMPLETED` in CPython.
    #[doc(alias = "FIRST_COMPLETED")]
    FirstDone,
    /// One handle has an error, or all have their results. A cancelled call is no error, as in CPython, where this is
    /// `FIRST_EXCEPTION`.
    #[doc(alias = "FIRST_EXCEPTION")]
    FirstError,
    /// All handles have their results. Named `ALL_COMPLETED` in CPython.
    #[doc(alias = "ALL_COMPLETED")]
    All,
}

/// Waits for several handles, which may be of several pools; returns the positions of those that have their results,
/// and of the others, each in order.
///
/// With a `timeout` it returns when that has passed at the latest; zero does not wait. Nothing is cancelled, and no
/// value is decoded: a value that cannot be decoded is no error here, but the result of its [`get`](AsyncResult::get).
/// Without handles it returns at once.
///
/// Named `wait` in CPython's `concurrent.futures`.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// use std::time::Duration;
///
/// use procpool::Until;
///
/// let handles: Vec<_> = [6u32, 0, 3].into_iter().map(|x| pool.apply_async((x,), |x| 12 / x)).collect();
/// let (done, pending) = procpool::wait(&handles, Until::All, Some(Duration::from_secs(60)));
/// assert_eq!((done, pending), (vec![0, 1, 2], vec![]));
/// assert!(handles[1].get().is_err());
/// # Ok(())
/// # }
/// ```
#[doc(alias = "select")]
#[doc(alias = "wait_any")]
pub fn wait<'h, T: 'h>(
    handles: impl IntoIterator<Item = &'h AsyncResult<T>>,
    until: Until,
    timeout: Option<Duration>,
) -> (Vec<usize>, Vec<usize>) {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut count = 0;
    let mut waiting = Waiting::new(handles.into_iter().inspect(|_| count += 1));
    let mut is_done = vec![false; count];
    let mut left = count;
    let mut has_failed = false;
    loop {
        // First everything that is known, so that `FirstDone` returns all that are done.
        while let Some(completion) = waiting.next(Some(Instant::now())) {
            is_done[completion.index] = true;
            left -= 1;
            has_failed |= completion.has_failed;
        }
        let is_enough = match until {
            Until::FirstDone => left < count,
            Until::FirstError => has_failed,
            Until::All => false,
        };
        if is_enough || left == 0 || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
        waiting.wait(deadline);
    }
    waiting.leave();
    (0..count).partition(|&index| is_done[index])
}

/// Yields handles as they get their results, the first one first, each with its position; they may be of several pools.
///
/// Each handle is yielded once. Those that have their results already come first, in order. An error is a result, as
/// for [`get`](AsyncResult::get), which does not wait then. It takes the same time for each handle however many there
/// are; many small tasks are still quicker as one [`imap_unordered`](crate::Pool::imap_unordered).
///
/// Named `as_completed` in CPython's `concurrent.futures`.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// fn wait(millis: u64) -> u64 {
///     std::thread::sleep(std::time::Duration::from_millis(millis));
///     millis
/// }
///
/// let handles = [200, 0].map(|millis| pool.apply_async((millis,), wait));
/// for (index, handle) in procpool::as_completed(handles) {
///     println!("handle {index}: {}", handle.get()?); // handle 1 before handle 0
/// }
/// # Ok(())
/// # }
/// ```
#[doc(alias = "FuturesUnordered")]
pub fn as_completed<T>(handles: impl IntoIterator<Item = AsyncResult<T>>) -> AsCompleted<T> {
    let handles: Vec<_> = handles.into_iter().map(Some).collect();
    let waiting = Waiting::new(handles.iter().flatten());
    AsCompleted { left: handles.len(), handles, waiting }
}

/// The handles of [`as_completed`], in the order in which they get their results.
///
/// Dropping it drops the handles that are left, not their work: see [`rest`](Self::rest).
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// let handles = (0..10u64).map(|x| pool.apply_async((x,), |x| x * x));
/// let mut sum = 0;
/// for (_, handle) in procpool::as_completed(handles) {
///     sum += handle.get()?;
/// }
/// assert_eq!(sum, 285);
/// # Ok(())
/// # }
/// ```
#[must_use = "an iterator does nothing until it is consumed"]
pub struct AsCompleted<T> {
    /// `None` once yielded.
    handles: Vec<Option<AsyncResult<T>>>,
    waiting: Waiting,
    left: usize,
}

impl<T> AsCompleted<T> {
    /// Waits for the next handle for at most `timeout`; `Ok(None)` at the end.
    ///
    /// # Errors
    ///
    /// [`TimedOut`]: no further handle has its result yet. Nothing is lost; a later call returns it.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use std::time::Duration;
    ///
    /// let handles = (0..4u64).map(|x| pool.apply_async((x,), |x| x * x));
    /// let mut completed = procpool::as_completed(handles);
    /// loop {
    ///     match completed.next_timeout(Duration::from_millis(100)) {
    ///         Ok(Some((index, handle))) => println!("{index}: {}", handle.get()?),
    ///         Ok(None) => break,
    ///         Err(procpool::TimedOut) => println!("still waiting"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<(usize, AsyncResult<T>)>, TimedOut> {
        self.next_by(Instant::now().checked_add(timeout))
    }

    /// The handles that were not yielded, each with its position, in order.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// fn wait(seconds: u64) -> u64 {
    ///     std::thread::sleep(std::time::Duration::from_secs(seconds));
    ///     seconds
    /// }
    ///
    /// // The first result is enough.
    /// let mut completed = procpool::as_completed([3600, 0].map(|seconds| pool.apply_async((seconds,), wait)));
    /// let (index, first) = completed.next().ok_or("none")?;
    /// assert_eq!((index, first.get()?), (1, 0));
    /// for (_, handle) in completed.rest() {
    ///     handle.cancel();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the handles are returned"]
    pub fn rest(self) -> Vec<(usize, AsyncResult<T>)> {
        let rest: Vec<_> =
            self.handles.into_iter().enumerate().filter_map(|(index, handle)| Some((index, handle?))).collect();
        for (_, handle) in &rest {
            if let Ok((backend, job)) = handle.place() {
                backend.leave_group(&[job], &self.waiting.group);
            }
        }
        rest
    }

    fn next_by(&mut self, deadline: Option<Instant>) -> Result<Option<(usize, AsyncResult<T>)>, TimedOut> {
        if self.left == 0 {
            return Ok(None);
        }
        let Completion { index, .. } = self.waiting.next(deadline).ok_or(TimedOut)?;
        self.left -= 1;
        let handle = self.handles[index].take().expect("a job finishes once");
        Ok(Some((index, handle)))
    }
}

impl<T> Iterator for AsCompleted<T> {
    type Item = (usize, AsyncResult<T>);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_by(None).unwrap_or_else(|TimedOut| unreachable!("there is no deadline"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> ExactSizeIterator for AsCompleted<T> {}

impl<T> std::iter::FusedIterator for AsCompleted<T> {}

impl<T> fmt::Debug for AsCompleted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted").field("left", &self.left).finish_non_exhaustive()
    }
}

/// A handle that [cancels](AsyncResult::cancel) its call when it is dropped: for async code that gives up.
///
/// Made by [`AsyncResult::cancel_on_drop`]. It is a [`Future`], and derefs to the handle. A timeout, `select!` or a
/// client that hangs up drops the future; then items that have not begun do not run, and a worker that runs one is
/// killed and replaced. That also frees the processor: code that blocks a thread cannot be stopped like this.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(1)?;
/// fn wait(seconds: u64) {
///     std::thread::sleep(std::time::Duration::from_secs(seconds));
/// }
///
/// let long = pool.apply_async((3600,), wait).cancel_on_drop();
/// assert!(!long.ready());
/// drop(long); // `tokio::time::timeout(limit, long).await` does this when the limit has passed.
/// pool.apply((0,), wait)?; // The worker is free.
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it cancels the call"]
pub struct CancelOnDrop<T>(AsyncResult<T>);

impl<T> AsyncResult<T> {
    /// Makes the handle cancel its call when it is dropped.
    ///
    /// See [`CancelOnDrop`]. Without this, dropping the handle drops the result and not the work.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(1)?;
    /// fn spin(_: u8) {
    ///     loop {}
    /// }
    ///
    /// drop(pool.apply_async((0,), spin).cancel_on_drop());
    /// assert_eq!(pool.apply((6u32, 7u32), |a, b| a * b)?, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel_on_drop(self) -> CancelOnDrop<T> {
        CancelOnDrop(self)
    }
}

impl<T> Deref for CancelOnDrop<T> {
    type Target = AsyncResult<T>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T> Future for CancelOnDrop<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for CancelOnDrop<T> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl<T> fmt::Debug for CancelOnDrop<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelOnDrop").finish_non_exhaustive()
    }
}
