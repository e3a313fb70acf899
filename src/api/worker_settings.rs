//! Settings of a pool for what happens inside its workers.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::api::builder::PoolBuilder;
use crate::api::hooks::encode;
use crate::work::function::LocalFunction;
use crate::work::task::Args;
use crate::work::task::Initialized;

impl PoolBuilder {
    /// Calls `f` on `args`, a tuple, in every worker before its first task.
    ///
    /// `f` returns nothing, or a `Result` whose error can be displayed. A worker whose initializer fails or panics
    /// leaves, and another one is started. If that goes on, the pool is [`PoolError::Broken`](crate::PoolError::Broken), and every handle
    /// returns that. The arguments live as long as the worker, so they may hold `&'static str`. [`build`](Self::build)
    /// fails with [`PoolError::Initializer`](crate::PoolError::Initializer) if they cannot be serialized or `f` cannot be found in the program.
    ///
    /// Named `initializer` and `initargs` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::OnceLock;
    ///
    /// use procpool::Pool;
    ///
    /// static GREETING: OnceLock<&str> = OnceLock::new();
    ///
    /// fn load(greeting: &'static str) {
    ///     GREETING.get_or_init(|| greeting);
    /// }
    ///
    /// fn greet(name: String) -> Option<String> {
    ///     GREETING.get().map(|greeting| format!("{greeting} {name}"))
    /// }
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(2).initializer(("hello",), load).build()?;
    ///     assert_eq!(pool.apply(("world".to_owned(),), greet)?.as_deref(), Some("hello world"));
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "initargs")]
    pub fn initializer<T, O>(mut self, args: T, f: T::Fp<O>) -> Self
    where
        T: Args + Serialize + Deserialize<'static>,
        O: Initialized,
    {
        self.hooks.initializer = Some(encode(&args, LocalFunction::initializer::<T, O>(f)));
        self
    }

    /// Ends a worker whose initializer has not returned after `timeout`; by default none is.
    ///
    /// That worker is replaced, as one whose initializer fails; if it goes on, the pool is [`PoolError::Broken`](crate::PoolError::Broken), with
    /// [`PoolError::InitializerTimeout`](crate::PoolError::InitializerTimeout) as the last error. Without it, an initializer that never returns is ended by
    /// `terminate` only. [`build`](Self::build) fails with [`PoolError::ZeroLimit`](crate::PoolError::ZeroLimit) for a `timeout` of zero. Not in
    /// CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use procpool::Pool;
    ///
    /// fn warm_up(rounds: u32) {
    ///     std::thread::sleep(Duration::from_millis(u64::from(rounds)));
    /// }
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let timeout = Duration::from_secs(60);
    ///     let pool = Pool::builder().processes(1).initializer((3,), warm_up).initializer_timeout(timeout).build()?;
    ///     assert_eq!(pool.apply((2u32, 10), u32::pow)?, 1024);
    ///     Ok(())
    /// }
    /// ```
    pub fn initializer_timeout(mut self, timeout: Duration) -> Self {
        self.hooks.initializer_timeout = Some(timeout);
        self
    }

    /// Calls `f` on `args`, a tuple, in every worker after its last task: the counterpart of
    /// [`initializer`](Self::initializer), for what must be flushed or closed.
    ///
    /// It runs when a worker leaves because it was told to: when it is replaced after its share of items, for its age or
    /// for its memory, when the pool shrinks, and after [`close`](crate::Pool::close), where [`join`](crate::Pool::join)
    /// waits for it. It does not run in a worker that dies or is killed, as by a [timeout](crate::Pool::timeout),
    /// [`terminate`](crate::Pool::terminate), or the drop of the pool: what must not be lost then has to be written by
    /// the tasks. Standard output of Rust and C is flushed behind it in any case.
    ///
    /// `f` is as that of an initializer. What it returns or panics with is logged as a warning in the parent. It may run
    /// for 10 seconds, or for [`finalizer_timeout`](Self::finalizer_timeout); then its worker is killed, which is logged
    /// too. [`build`](Self::build) fails with [`PoolError::Finalizer`] if the arguments cannot be serialized or `f`
    /// cannot be found in the program.
    ///
    /// Not in CPython, whose workers run `multiprocessing.util.Finalize` callbacks. In a forked worker, which runs no exit
    /// handlers, it is the place for what they would do: `__llvm_profile_write_file` for coverage, for instance.
    ///
    /// [`PoolError::Finalizer`]: crate::PoolError::Finalizer
    ///
    /// # Examples
    ///
    /// ```
    /// use std::path::PathBuf;
    /// use std::sync::Mutex;
    ///
    /// use procpool::Pool;
    ///
    /// static SUM: Mutex<u64> = Mutex::new(0);
    ///
    /// fn add(x: u64) {
    ///     *SUM.lock().unwrap() += x;
    /// }
    ///
    /// fn save(folder: PathBuf) -> std::io::Result<()> {
    ///     std::fs::write(folder.join(std::process::id().to_string()), SUM.lock().unwrap().to_string())
    /// }
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let folder = tempfile::tempdir()?;
    ///     let pool = Pool::builder().processes(2).finalizer((folder.path().to_owned(),), save).build()?;
    ///     pool.map(1..=100u64, add)?;
    ///     pool.close();
    ///     pool.join()?;
    ///     let mut sum = 0;
    ///     for entry in std::fs::read_dir(folder.path())? {
    ///         sum += std::fs::read_to_string(entry?.path())?.parse::<u64>()?;
    ///     }
    ///     assert_eq!(sum, 5050);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "atexit")]
    pub fn finalizer<T, O>(mut self, args: T, f: T::Fp<O>) -> Self
    where
        T: Args + Serialize + Deserialize<'static>,
        O: Initialized,
    {
        self.hooks.finalizer = Some(encode(&args, LocalFunction::initializer::<T, O>(f)));
        self
    }

    /// Kills a worker whose [finalizer](Self::finalizer) has not returned after `timeout`; 10 seconds by default.
    ///
    /// [`build`](Self::build) fails with [`PoolError::ZeroLimit`](crate::PoolError::ZeroLimit) for a `timeout` of zero.
    /// Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use procpool::Pool;
    ///
    /// fn upload(_: ()) {
    ///     loop {
    ///         std::thread::park(); // A server that does not answer.
    ///     }
    /// }
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let timeout = Duration::from_millis(50);
    ///     let pool = Pool::builder().processes(1).finalizer(((),), upload).finalizer_timeout(timeout).build()?;
    ///     assert_eq!(pool.apply((2u32, 10), u32::pow)?, 1024);
    ///     pool.close();
    ///     pool.join()?; // Returns nevertheless.
    ///     Ok(())
    /// }
    /// ```
    pub fn finalizer_timeout(mut self, timeout: Duration) -> Self {
        self.hooks.finalizer_timeout = Some(timeout);
        self
    }
}
