//! The pool itself: its workers, and its end. The calls on it are in `calls.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use start_methods::StartMethod;

use crate::api::autosave::Autosave;
use crate::api::call::Call;
use crate::api::call::CallWith;
use crate::api::checks::check_processes;
use crate::api::prepare::Options;
use crate::driver::Backend;
use crate::driver::GRACE;
use crate::error::PoolError;
use crate::work::task::Data;

/// A pool of worker processes.
///
/// Every method takes `&self` and may be called from any thread. Items and arguments come first, the function last. A
/// function is an `fn` pointer: a closure that captures nothing, a function, a method. What it needs besides its
/// arguments is passed with [`with`](Self::with) (per call) or an [initializer](crate::PoolBuilder::initializer) (per
/// worker).
///
/// Every handle, every call and every item has an outcome: the value, or an error that says what happened. A worker
/// that dies costs the item it was running and nothing else.
///
/// Dropping the pool terminates it, in bounded time, also after [`close`](Self::close): [`join`](Self::join) lets it
/// finish. What is cut off resolves to [`TaskError::Terminated`](crate::TaskError::Terminated), so `on_error` is called
/// and `on_success` is not; if the pool was closed, that is logged as a warning.
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
    /// Where its timeline is written when it is over.
    saved: Option<Autosave>,
}

impl Pool {
    pub(super) fn over(backend: Arc<dyn Backend>, saved: Option<Autosave>) -> Self {
        Self { backend, saved }
    }

    pub(super) fn call(&self) -> Call<'_> {
        Call { backend: &self.backend, options: Options::default() }
    }

    /// Whether a call would be accepted now.
    pub(super) fn takes_tasks(&self) -> bool {
        self.backend.refusal().is_none()
    }

    /// For one call: every task gets `&context` before its arguments.
    ///
    /// The context is encoded once, and sent at most once to each worker that runs items of the call, however many
    /// those are. If it cannot be encoded, the call fails with [`TaskError::Encode`](crate::TaskError::Encode). Not in
    /// CPython, where a `partial` is encoded with every chunk.
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

    /// How many workers the pool keeps at most.
    ///
    /// The number given to [`PoolBuilder::processes`](crate::PoolBuilder::processes) or, since, to
    /// [`resize`](Self::resize). With an [`idle_timeout`](crate::PoolBuilder::idle_timeout) fewer may be alive.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(2)?;
    /// assert_eq!(pool.processes(), 2);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn processes(&self) -> usize {
        self.backend.processes()
    }

    /// Changes how many workers the pool keeps, without waiting.
    ///
    /// To grow, it starts workers at once. To shrink, idle workers leave first; a busy one finishes the item it is
    /// running, and what else it held runs elsewhere. No item is lost. Not in CPython.
    ///
    /// # Errors
    ///
    /// - [`PoolError::ZeroProcesses`]: `processes` is 0.
    /// - [`PoolError::TooManyProcesses`]: more than the system has process ids.
    /// - [`PoolError::Closed`], [`PoolError::Terminated`], [`PoolError::Broken`]: the pool takes no more tasks.
    /// - [`PoolError::ForkedCopy`]: this process did not make the pool.
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
        check_processes(processes)?;
        self.backend.resize(processes)
    }

    /// How the pool starts its workers. Forkserver by default, even where spawn has to take its place: see
    /// [`PoolBuilder::start_method`](crate::PoolBuilder::start_method).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(1)?;
    /// assert_eq!(pool.start_method(), procpool::StartMethod::Forkserver);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn start_method(&self) -> StartMethod {
        self.backend.start_method()
    }

    /// The process ids of the workers that are alive now, those that are starting or leaving included.
    ///
    /// Workers come and go, so an id may be out of date when it is returned. Use it to inspect a worker, or to signal
    /// one in a test.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(1)?;
    /// let pid = pool.apply((0,), |_: u8| std::process::id())?;
    /// assert_eq!(pool.pids(), [pid]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.backend.pids()
    }

    /// Takes no more tasks. What was accepted runs, and then the workers leave.
    ///
    /// It does not wait; [`join`](Self::join) does. A later call returns [`PoolError::Closed`] in a
    /// [`TaskError::Refused`](crate::TaskError::Refused). May be called from any thread, callbacks included, and any
    /// number of times.
    ///
    /// Named `close` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(2)?;
    /// let squares = pool.map_async(0..10u64, |x| x * x);
    /// pool.close();
    /// assert!(pool.apply((1,), |x: u8| x).is_err());
    /// assert_eq!(squares.get()?[9], 81);
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self) {
        self.backend.close();
    }

    /// Cancels every item that has not begun, of every call; what runs ends by itself.
    ///
    /// Those items have [`TaskError::Cancelled`](crate::TaskError::Cancelled) as their outcome. That includes what a `map`
    /// on another thread has not drawn yet; an `imap` or stream draws nothing more, and ends after what it has drawn. The
    /// pool takes new calls as before. It is exact, as [`AsyncResult::cancel_pending`](crate::AsyncResult::cancel_pending)
    /// is, and does not wait.
    ///
    /// With [`close`](Self::close) and [`join`](Self::join) it is what CPython's `concurrent.futures` names
    /// `shutdown(cancel_futures=True)`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(1)?;
    /// let handles: Vec<_> = (0..1000u64).map(|x| pool.apply_async((x,), |x| x)).collect();
    /// pool.close();
    /// pool.cancel_pending();
    /// pool.join()?;
    /// for (x, handle) in handles.iter().enumerate() {
    ///     assert!(handle.is_cancelled() || handle.get()? == x as u64);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "cancel_futures")]
    pub fn cancel_pending(&self) {
        self.backend.cancel_all_pending();
    }

    /// Stops everything: workers get SIGTERM, and half a second later SIGKILL with their whole process group.
    ///
    /// Every handle resolves at once, with [`TaskError::Terminated`](crate::TaskError::Terminated) for what has no
    /// outcome yet. It returns when the workers are gone, at the latest after about a second and a half: if the system
    /// cannot end one, [`join`](Self::join) says which. May be called from any thread, callbacks included, and any
    /// number of times.
    ///
    /// Named `terminate` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// use procpool::TaskError;
    ///
    /// fn spin(_: u8) {
    ///     loop {}
    /// }
    ///
    /// let pool = procpool::Pool::new(2)?;
    /// let handle = pool.apply_async((0,), spin);
    /// pool.terminate();
    /// assert!(matches!(handle.get(), Err(TaskError::Terminated)));
    /// assert!(pool.pids().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn terminate(&self) {
        self.terminate_with_grace(GRACE);
    }

    /// As [`terminate`](Self::terminate), with `grace` as the time between SIGTERM and SIGKILL.
    ///
    /// Zero ends workers before they can react to SIGTERM; minutes give tasks that catch SIGTERM the time to clean up.
    /// If it is called several times, the earliest SIGKILL counts. It returns when the workers are gone, at the latest
    /// a second after `grace`.
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

    /// Waits until every worker is gone and every callback has run, and releases everything that the pool holds.
    ///
    /// That is its processes, threads and descriptors. Results that handles hold stay available. Call
    /// [`close`](Self::close) or [`terminate`](Self::terminate) first. May be called again.
    ///
    /// Named `join` in CPython.
    ///
    /// # Errors
    ///
    /// - [`PoolError::StillRunning`]: the pool was neither closed nor terminated.
    /// - [`PoolError::WouldDeadlock`]: this is a callback of the same pool, for which `join` would wait.
    /// - [`PoolError::Broken`]: the pool had given up, because no worker would start.
    /// - [`PoolError::Unreaped`]: the system did not end a worker within a second after SIGKILL. `join` may be called
    ///   again.
    /// - [`PoolError::ForkedCopy`]: this process did not make the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(2)?;
    /// let squares = pool.map_async(0..10u64, |x| x * x);
    /// pool.close();
    /// pool.join()?;
    /// assert_eq!(squares.get()?[9], 81);
    /// # Ok(())
    /// # }
    /// ```
    pub fn join(&self) -> Result<(), PoolError> {
        self.backend.join(None)?;
        self.save_timeline();
        Ok(())
    }

    /// As [`join`](Self::join), but waits for at most `timeout`; returns whether the pool is joined.
    ///
    /// If it is not, nothing is lost: what was accepted goes on, and `join` may be called again, or
    /// [`terminate`](Self::terminate). Not in CPython.
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
        // A deadline beyond what the clock can express is none.
        let is_joined = self.backend.join(Instant::now().checked_add(timeout))?;
        if is_joined {
            self.save_timeline();
        }
        Ok(is_joined)
    }

    fn save_timeline(&self) {
        if let Some(saved) = &self.saved {
            saved.save(|| self.timeline());
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.backend.is_ours() {
            // A forked copy: its locks may be held for ever, and its workers are not children of this process. Leaked,
            // so that nothing of it is touched.
            std::mem::forget(Arc::clone(&self.backend));
            return;
        }
        self.backend.shut_down();
        self.save_timeline();
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
