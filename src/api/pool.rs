//! The pool: every call on it, each a few lines.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use start_methods::StartMethod;

use crate::api::call::Call;
use crate::api::call::CallWith;
use crate::api::imap::Imap;
use crate::api::imap::ImapUnordered;
use crate::api::prepare::Options;
use crate::api::results::AsyncResult;
use crate::driver::Backend;
use crate::driver::GRACE;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::work::task::Args;
use crate::work::task::Data;
use crate::work::task::Outcome;

/// A pool of worker processes.
///
/// Every method takes `&self`, and may be called from any thread. Items and arguments come first, the function last; a
/// function is an `fn` pointer: a closure that captures nothing, a function, a method. What a task needs beyond its
/// arguments is given by [`with`](Self::with) (per call) or an initializer (per worker).
///
/// Every handle, every call and every item has an answer: the value, or an error that says what happened. A worker
/// that dies costs the item it was running and nothing else.
///
/// Dropping the pool terminates it, in bounded time; [`close`](Self::close) and [`join`](Self::join) let it finish.
///
/// Named `Pool` in CPython's `multiprocessing`.
///
/// # Examples
///
/// ```
/// use procpool::Pool;
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(4)?;
///     let squares: Vec<u64> = pool.map(0..10, |x| x * x)?;
///     assert_eq!(squares[9], 81);
///     pool.close();
///     pool.join()?;
///     Ok(())
/// }
/// ```
pub struct Pool {
    backend: Arc<dyn Backend>,
}

impl Pool {
    pub(super) fn over(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    /// How many workers the pool keeps, at most.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.backend.processes()
    }

    /// Keeps so many workers from now on.
    ///
    /// More are started at once. Fewer: those that are idle leave first; one that is busy ends the item it is running, and
    /// what else it held runs elsewhere. Nothing is lost by either. It does not wait.
    ///
    /// # Errors
    ///
    /// [`PoolError::ZeroProcesses`]; [`PoolError::Closed`] and the like from a pool that takes no more tasks.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(1)?;
    /// pool.resize(3)?;
    /// assert_eq!(pool.processes(), 3);
    /// let squares = pool.map(0..100u64, |x| x * x)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn resize(&self, processes: usize) -> Result<(), PoolError> {
        match processes {
            0 => Err(PoolError::ZeroProcesses),
            processes => self.backend.resize(processes),
        }
    }

    /// How its workers are brought into the world.
    #[must_use]
    pub fn start_method(&self) -> StartMethod {
        self.backend.start_method()
    }

    /// The process ids of the workers that are alive now, those that are starting or leaving included.
    ///
    /// Workers come and go; an id is good for looking at, and for a signal in a test.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.backend.pids()
    }

    // ---- options of one call -------------------------------------------------------------------------------------

    fn call(&self) -> Call<'_> {
        Call { backend: &self.backend, options: Options::default() }
    }

    /// For one call: items travel to a worker `items` at a time.
    ///
    /// By default `map` and `starmap` measure: a worker is given what takes about a tenth of a millisecond, and near the
    /// end its fair share. `imap` and `imap_unordered` send items one by one, as in CPython. Whatever travels
    /// together, each item has its own result, its own error, and counts for itself.
    ///
    /// A size of zero is [`PoolError::ZeroChunkSize`], from the call. Named `chunksize` in CPython.
    #[doc(alias = "chunksize")]
    pub fn chunk_size(&self, items: usize) -> Call<'_> {
        self.call().chunk_size(items)
    }

    /// For one call: the first error ends it. `map` returns that error at once; items that have not been handed out
    /// are not run, and [`map_results`](Self::map_results) has [`TaskError::Skipped`] in their place.
    pub fn fail_fast(&self) -> Call<'_> {
        self.call().fail_fast()
    }

    /// For one call: each item may run for so long, and then its worker is killed and replaced.
    ///
    /// Only that item fails, with [`TaskError::TimedOut`]; what its worker had not begun runs elsewhere. The time is that
    /// of the item alone: waiting for a worker does not count, nor does what the worker decodes for the whole call (see
    /// [`with`](Self::with)); decoding the item itself does. It needs no cooperation: whatever the task does, or waits for,
    /// it ends. A task that would rather end by itself asks for its [`deadline`](crate::deadline()).
    ///
    /// An answer that has been given counts, however late. No time at all is [`PoolError::ZeroLimit`], from the call.
    /// Where workers are reached without shared memory, the time begins when the worker is given the item.
    ///
    /// Named `timeout` in pebble, `time_limit` in Celery; not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use std::time::Duration;
    ///
    /// use procpool::TaskError;
    ///
    /// fn wait(millis: u64) -> u64 {
    ///     std::thread::sleep(Duration::from_millis(millis));
    ///     millis
    /// }
    ///
    /// let waited = pool.timeout(Duration::from_secs(2)).map_results([1, 1_000_000], wait)?;
    /// assert!(matches!(waited[0], Ok(1)));
    /// assert!(matches!(waited[1], Err(TaskError::TimedOut { .. })));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "time_limit")]
    pub fn timeout(&self, timeout: Duration) -> Call<'_> {
        self.call().timeout(timeout)
    }

    /// For one call: an item that was lost with its worker is run again, up to so many times.
    ///
    /// For tasks that may be run twice: a worker that died may have done anything before. By default nothing is run
    /// twice, and such an item is [`TaskError::WorkerDied`]. An item that kills each worker that runs it fails in the end, and
    /// the error says after how many. Errors, panics and [timeouts](Self::timeout) are answers, and are not tried again.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// use procpool::TaskError;
    ///
    /// fn crash(_: u32) {
    ///     std::process::abort()
    /// }
    ///
    /// let crash = pool.retries(2).apply((1,), crash);
    /// assert!(matches!(crash, Err(TaskError::WorkerDied { attempts: 3, .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn retries(&self, times: u32) -> Call<'_> {
        self.call().retries(times)
    }

    /// For one call: every task gets `&context` before its arguments.
    ///
    /// It is encoded once, and sent at most once to each worker that runs items of the call, whatever their number.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let words = vec!["zero".to_owned(), "one".to_owned()];
    /// let lengths = pool.with(&words).map(0..2usize, |words, i| words[i].len())?;
    /// assert_eq!(lengths, [4, 3]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with<'c, C: Data>(&self, context: &'c C) -> CallWith<'_, 'c, C> {
        self.call().with(context)
    }

    // ---- calls ---------------------------------------------------------------------------------------------------

    /// Runs `f` on `args`, a tuple, in a worker, and waits for the result.
    ///
    /// # Errors
    ///
    /// Why there is no value.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let nine: u64 = pool.apply((3u64, 2), u64::pow)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn apply<T, O, M>(&self, args: T, f: T::Fp<O>) -> Result<O::Value, TaskError>
    where
        T: Args + Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().apply(args, f)
    }

    /// Runs `f` on `args`, a tuple, in a worker; the handle gives the result.
    ///
    /// The arguments are encoded before it returns. A pool that takes no more tasks says so through the handle.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let handle = pool.apply_async(("ab".to_owned(), 3), |text, times| text.repeat(times));
    /// assert_eq!(handle.get()?, "ababab");
    /// # Ok(())
    /// # }
    /// ```
    pub fn apply_async<T, O, M>(&self, args: T, f: T::Fp<O>) -> AsyncResult<O::Value>
    where
        T: Args + Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().apply_async(args, f)
    }

    /// Runs `f` on every item, and waits for all results, in the order of the items.
    ///
    /// Items are drawn and encoded while others run already.
    ///
    /// # Errors
    ///
    /// The error of the lowest index, once every item has settled: deterministic, whatever happened first. See
    /// [`map_results`](Self::map_results) for all of them, and [`fail_fast`](Self::fail_fast) to stop at the first.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let squares: Vec<u64> = pool.map(0..10, |x| x * x)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn map<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Result<Vec<O::Value>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().map(items, f)
    }

    /// Runs `f` on every item, and waits for the outcome of each: a value or an error in every place.
    ///
    /// # Errors
    ///
    /// The call was refused as a whole, or the pool was terminated under it.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let quotients = pool.map_results([6u32, 0, 3], |x| 12 / x)?;
    /// assert!(matches!(quotients[1], Err(procpool::TaskError::Panicked(_))));
    /// assert!(matches!(quotients[2], Ok(4)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_results<I, A, O, M>(
        &self,
        items: I,
        f: fn(A) -> O,
    ) -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().map_results(items, f)
    }

    /// Runs `f` on every item; the handle gives all results.
    ///
    /// The whole input is drawn and encoded before it returns, so it must not be infinite.
    pub fn map_async<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> AsyncResult<Vec<O::Value>>
    where
        I: IntoIterator<Item = A>,
        A: Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().map_async(items, f)
    }

    /// As [`map`](Self::map), with items that are tuples of arguments.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let sums: Vec<u32> = pool.starmap([(1, 2), (3, 4)], |a, b| a + b)?;
    /// assert_eq!(sums, [3, 7]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn starmap<I, T, O, M>(&self, items: I, f: T::Fp<O>) -> Result<Vec<O::Value>, TaskError>
    where
        I: IntoIterator<Item = T>,
        T: Args + Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().starmap(items, f)
    }

    /// As [`map_results`](Self::map_results), with items that are tuples of arguments.
    ///
    /// # Errors
    ///
    /// As for [`map_results`](Self::map_results).
    pub fn starmap_results<I, T, O, M>(
        &self,
        items: I,
        f: T::Fp<O>,
    ) -> Result<Vec<Result<O::Value, TaskError>>, TaskError>
    where
        I: IntoIterator<Item = T>,
        T: Args + Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().starmap_results(items, f)
    }

    /// As [`map_async`](Self::map_async), with items that are tuples of arguments.
    pub fn starmap_async<I, T, O, M>(&self, items: I, f: T::Fp<O>) -> AsyncResult<Vec<O::Value>>
    where
        I: IntoIterator<Item = T>,
        T: Args + Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().starmap_async(items, f)
    }

    /// Runs `f` on every item; results come in the order of the items, lazily.
    ///
    /// The iterator is pulled by the caller: `next()` draws from the input while its window has room. So the input may
    /// borrow, need not be `Send`, and may be infinite; and while nobody calls `next()`, no more than the window is
    /// worked on: about two chunks for each worker, more only while items take microseconds. An error takes the
    /// place of one result, and iteration goes on.
    ///
    /// After [`close`](Self::close) nothing more is drawn: what was drawn is yielded, and then, if there was more, one
    /// [`TaskError::Refused`].
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2).unwrap();
    /// for square in pool.imap(0u64.., |x| x * x).take(100) {
    ///     println!("{square:?}");
    /// }
    /// # }
    /// ```
    pub fn imap<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> Imap<I::IntoIter, O::Value>
    where
        I: IntoIterator<Item = A>,
        A: Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().imap(items, f)
    }

    /// Runs `f` on every item; each result comes as soon as it is there.
    ///
    /// All else is as for [`imap`](Self::imap).
    pub fn imap_unordered<I, A, O, M>(&self, items: I, f: fn(A) -> O) -> ImapUnordered<I::IntoIter, O::Value>
    where
        I: IntoIterator<Item = A>,
        A: Data,
        O: Outcome<M>,
        M: 'static,
    {
        self.call().imap_unordered(items, f)
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    /// Takes no more tasks; what was accepted runs, and then the workers leave.
    ///
    /// From any thread, any number of times, also from a callback. It does not wait; [`join`](Self::join) does.
    pub fn close(&self) {
        self.backend.close();
    }

    /// Stops everything: workers get SIGTERM, and SIGKILL with their whole process group half a second later.
    ///
    /// Every handle resolves at once, with [`TaskError::Terminated`] for what has no outcome yet. Returns when the
    /// workers are gone, or after about a second and a half if the system cannot end one (then [`join`](Self::join) says
    /// which). From any thread, any number of times, also from a callback.
    pub fn terminate(&self) {
        self.terminate_with_grace(GRACE);
    }

    /// As [`terminate`](Self::terminate), with another time between SIGTERM and SIGKILL: none, so that nothing gets to
    /// know of its end, or minutes, for tasks that catch SIGTERM and have something to put away.
    ///
    /// The shortest grace that was ever given counts. It returns when the workers are gone, at the latest a second after
    /// the grace is over.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(2)?;
    /// pool.terminate_with_grace(std::time::Duration::ZERO);
    /// pool.join()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn terminate_with_grace(&self, grace: Duration) {
        self.backend.terminate(grace);
    }

    /// Waits until every worker is gone and every callback has run, and gives back all that the pool held: processes,
    /// threads, descriptors. Results that are held by handles stay.
    ///
    /// # Errors
    ///
    /// [`PoolError::StillRunning`] before [`close`](Self::close) or [`terminate`](Self::terminate);
    /// [`PoolError::WouldDeadlock`] from a callback of this pool; [`PoolError::Broken`] if the pool had to give up because
    /// no worker would start; [`PoolError::Unreaped`] if the system did not end a terminated worker.
    pub fn join(&self) -> Result<(), PoolError> {
        self.backend.join(None).map(|_joined| ())
    }

    /// As [`join`](Self::join), but waits for at most `timeout`; says whether the pool is joined. If not, nothing is lost
    /// by that: what was accepted goes on, and `join` may be called again, or [`terminate`](Self::terminate).
    ///
    /// # Errors
    ///
    /// As for [`join`](Self::join).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(2)?;
    /// let _squares = pool.map_async(0..1000u64, |x| x * x);
    /// pool.close();
    /// while !pool.join_timeout(std::time::Duration::from_millis(200))? {
    ///     println!("still working");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn join_timeout(&self, timeout: Duration) -> Result<bool, PoolError> {
        self.backend.join(Instant::now().checked_add(timeout))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.backend.is_ours() {
            // A forked copy: its locks may be held for ever, and its workers are not children of this process. Leaked, so
            // that nothing of it is touched.
            std::mem::forget(Arc::clone(&self.backend));
            return;
        }
        self.backend.shut_down();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("processes", &self.processes())
            .field("start_method", &self.start_method())
            .finish_non_exhaustive()
    }
}
