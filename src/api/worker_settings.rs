//! Settings of a pool for what happens inside its workers.

use std::time::Duration;

use log::LevelFilter;
use serde::Deserialize;
use serde::Serialize;

use crate::api::builder::PoolBuilder;
use crate::api::hooks::encode;
use crate::api::pinning::Pinning;
use crate::driver::told::Hook;
use crate::driver::told::LogRecord;
use crate::driver::told::OutputLine;
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

    /// Sets which records of the crate `log` travel from workers to this process; by default those of the level that this
    /// process has when the pool is built, [`log::max_level`].
    ///
    /// A record that a task makes reaches the logger of this process, with its level, target and place, and with the worker
    /// in front of its text: `worker 2 (4711): loaded`. Those of one worker come in order, its last ones included, however
    /// it ends; [`join`](crate::Pool::join) returns when all were passed on. What the logger does not want is dropped there,
    /// so a lower level that is set later holds at once; a higher one holds for workers that start later.
    ///
    /// The logger runs on a thread of the pool, which nothing else waits for. If it is slower than the workers, a record
    /// waits for 20 milliseconds, and then it and those behind it are dropped until there is room again; how many is
    /// logged as a warning. [`log::LevelFilter::Off`] sends nothing.
    ///
    /// A worker that has a logger of its own uses that: one that the initializer has set, `main` before
    /// [`init`](crate::init()), or, by [fork](crate::StartMethod::Fork), this process before `build`. For the last, see
    /// [`set_logger`](crate::set_logger()). What is logged before the initializer has returned is lost, except with
    /// `set_logger` and fork. In CPython, programs set up a `QueueHandler` for this.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     // Nothing to set if this program has a logger. More than that has:
    ///     let pool = Pool::builder().processes(2).logs(log::LevelFilter::Debug).build()?;
    ///     pool.map(0..3u32, |x| log::debug!("item {x}"))?;
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "QueueHandler")]
    pub fn logs(mut self, level: LevelFilter) -> Self {
        self.listening.level = Some(level);
        self
    }

    /// Passes the records of workers to `f`, in place of the logger of this process. See [`logs`](Self::logs).
    ///
    /// A panic in `f` is logged. `f` may use the pool, but not [`join`](crate::Pool::join) it, which fails with
    /// [`PoolError::WouldDeadlock`](crate::PoolError::WouldDeadlock) there.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    ///
    /// use procpool::Pool;
    ///
    /// static WARNINGS: AtomicUsize = AtomicUsize::new(0);
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let level = log::LevelFilter::Warn;
    ///     let count = |_: &procpool::LogRecord| _ = WARNINGS.fetch_add(1, Ordering::Relaxed);
    ///     let pool = Pool::builder().processes(2).logs(level).on_log(count).build()?;
    ///     pool.map(0..3u32, |x| log::warn!("item {x}"))?;
    ///     pool.close();
    ///     pool.join()?;
    ///     assert_eq!(WARNINGS.load(Ordering::Relaxed), 3);
    ///     Ok(())
    /// }
    /// ```
    pub fn on_log(mut self, f: impl Fn(&LogRecord) + Send + Sync + 'static) -> Self {
        self.listening.hooks.on_log = Some(Hook::new(f));
        self
    }

    /// Passes what workers write to their standard output and error to `f`, line by line; by default they write to those of
    /// this process.
    ///
    /// Lines of one stream of one worker come in order. What a worker has written when it ends comes too, however it ends,
    /// the last line without its end included. [`join`](crate::Pool::join) returns when all were passed on. Programs that
    /// tasks start write there as well. What is still in a buffer of a worker that is killed is lost; Rust's standard output
    /// has lines whole.
    ///
    /// `f` runs as that of [`on_log`](Self::on_log). While it is slower than the workers, a task that prints waits, as with
    /// any pipe. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Mutex;
    ///
    /// use procpool::Pool;
    ///
    /// static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let keep = |line: &procpool::OutputLine| LINES.lock().unwrap().push(line.text.clone());
    ///     let pool = Pool::builder().processes(1).on_output(keep).build()?;
    ///     pool.map(0..3u32, |x| println!("item {x}"))?;
    ///     pool.close();
    ///     pool.join()?;
    ///     assert_eq!(*LINES.lock().unwrap(), ["item 0", "item 1", "item 2"]);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "capture")]
    pub fn on_output(mut self, f: impl Fn(&OutputLine) + Send + Sync + 'static) -> Self {
        self.listening.hooks.on_output = Some(Hook::new(f));
        self
    }

    /// Binds each worker to one processor, those that this process may use in turn.
    ///
    /// The worker with [index](crate::WorkerInfo::index) 0 gets the first, and a replacement the processor of the worker that
    /// it replaces. Threads that a task starts are bound as well. It helps items that live in a cache; a worker whose
    /// processor is taken by another program then waits, so it is not the default. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    ///
    /// fn processors() -> usize {
    ///     std::thread::available_parallelism().map_or(0, usize::from)
    /// }
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().pin_workers().build()?;
    ///     assert_eq!(pool.apply((), processors)?, 1);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "core_affinity")]
    pub fn pin_workers(mut self) -> Self {
        self.pinning = Pinning::EachToOne;
        self
    }

    /// Binds each worker to one of these sets of processors, in turn: sched_setaffinity(2).
    ///
    /// As [`pin_workers`](Self::pin_workers), for the nodes of a NUMA machine, for instance. [`build`](Self::build) fails with
    /// [`PoolError::Affinity`](crate::PoolError::Affinity) if there is no set, or one has no processor that this process may use. A processor that is
    /// taken offline later stops no worker: it runs where the system lets it. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Pool, PoolError};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let refused = Pool::builder().processes(2).affinity([[0], [1023]]).build();
    ///     assert!(matches!(refused, Err(PoolError::Affinity { processors, .. }) if processors == [1023]));
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "sched_setaffinity")]
    pub fn affinity<S: IntoIterator<Item = usize>>(mut self, sets: impl IntoIterator<Item = S>) -> Self {
        self.pinning = Pinning::Sets(sets.into_iter().map(|set| set.into_iter().collect()).collect());
        self
    }
}
