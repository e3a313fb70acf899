//! The builder of a pool: its settings, checked and turned into a running pool.

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use start_methods::Boot;
use start_methods::Resource;
use start_methods::StartMethod;

use crate::api::autosave;
use crate::api::autosave::Autosave;
use crate::api::checks::check_processes;
use crate::api::hooks::FINALIZER_TIMEOUT;
use crate::api::hooks::Hooks;
use crate::api::listening::Listening;
use crate::api::pinning::Pinning;
use crate::api::pool::Pool;
use crate::driver;
use crate::engine::config::Config;
use crate::error::PoolError;
use crate::observe::event::Event;
use crate::observe::hook::EventHook;
use crate::observe::hook::EventLine;
use crate::schedule::size::Size;
use crate::sys::processor;
use crate::sys::start_choice::StartChoice;
#[cfg(feature = "threads")]
use crate::transport::first_call::FirstCall;
use crate::transport::links::Links;
use crate::worker;

/// The settings of a pool that is to be made, from [`Pool::builder`] to [`build`](Self::build).
///
/// Each method sets one thing and returns the builder. Settings are checked by `build`, before any process is started.
///
/// # Examples
///
/// ```
/// use procpool::{Pool, StartMethod};
///
/// fn open_database(path: &str) -> anyhow::Result<()> {
///     println!("this worker opens {path}");
///     Ok(())
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::builder()
///         .processes(4)
///         .start_method(StartMethod::Spawn)
///         .max_tasks_per_child(100)
///         .initializer(("db.sqlite",), open_database)
///         .build()?;
///     # drop(pool);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct PoolBuilder {
    processes: Option<usize>,
    start: StartChoice,
    max_tasks_per_child: Option<usize>,
    max_rss_per_child: Option<u64>,
    max_age_per_child: Option<Duration>,
    min_processes: usize,
    idle_timeout: Option<Duration>,
    pub(super) hooks: Hooks,
    pub(super) listening: Listening,
    pub(super) pinning: Pinning,
    name: String,
    on_event: Option<EventHook>,
    slow_after: Option<Duration>,
    record: Option<usize>,
    /// The template of every worker: entry, environment, directory, limits.
    boot: Boot<'static>,
    /// Some setting can only be checked by a new process that tries to have it.
    needs_trial: bool,
}

impl Pool {
    /// Makes a pool of `processes` workers, started by forkserver.
    ///
    /// Everything else is at its default; see [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// As for [`PoolBuilder::build`].
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = procpool::Pool::new(2)?;
    ///     assert_eq!(pool.map(0..3u64, |x| x * x)?, [0, 1, 4]);
    ///     Ok(())
    /// }
    /// ```
    pub fn new(processes: usize) -> Result<Self, PoolError> {
        Self::builder().processes(processes).build()
    }

    /// Starts the description of a pool with other settings than those of [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = procpool::Pool::builder().processes(2).name("resize").build()?;
    ///     assert_eq!(pool.processes(), 2);
    ///     Ok(())
    /// }
    /// ```
    pub fn builder() -> PoolBuilder {
        PoolBuilder {
            processes: None,
            start: StartChoice::default(),
            max_tasks_per_child: None,
            max_rss_per_child: None,
            max_age_per_child: None,
            min_processes: 0,
            idle_timeout: None,
            hooks: Hooks::default(),
            listening: Listening::default(),
            pinning: Pinning::default(),
            name: "procpool".to_owned(),
            on_event: None,
            slow_after: None,
            record: None,
            boot: Boot::new(worker::main),
            needs_trial: false,
        }
    }
}

impl PoolBuilder {
    /// Sets how many workers the pool keeps; by default one for each processor that this process may use.
    ///
    /// The default respects the affinity mask and the quota of the cgroup. [`build`](Self::build) fails with
    /// [`PoolError::ZeroProcesses`] for 0. Named `processes` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = procpool::Pool::builder().processes(2).build()?;
    ///     assert_eq!(pool.pids().len(), 2);
    ///     Ok(())
    /// }
    /// ```
    pub fn processes(mut self, processes: usize) -> Self {
        self.processes = Some(processes);
        self
    }

    /// Sets how workers are started.
    ///
    /// By default by [`StartMethod::Forkserver`]; or by [`StartMethod::Spawn`] where no fork server can work, because
    /// code of this program that runs before [`init`](crate::init) starts threads, and if there is no
    /// [preload](crate::forkserver::preload) that workers would miss. A method that is set here is the only one: a fork
    /// server that cannot work is then [`StartError::ServerThreads`](crate::StartError::ServerThreads).
    ///
    /// Named `get_context` or `set_start_method` in CPython, where it is a setting of the context and not of the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Pool, StartMethod};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(1).start_method(StartMethod::Spawn).build()?;
    ///     assert_eq!(pool.start_method(), StartMethod::Spawn);
    ///     Ok(())
    /// }
    /// ```
    pub fn start_method(mut self, start_method: StartMethod) -> Self {
        self.start.method = Some(start_method);
        self
    }

    /// Replaces a worker after it has run `items` items; by default never.
    ///
    /// The replacement is started before the worker has left. [`build`](Self::build) fails with
    /// [`PoolError::ZeroMaxTasksPerChild`] for 0. Named `maxtasksperchild` in CPython, which counts chunks where this
    /// counts items.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(1).max_tasks_per_child(1).build()?;
    ///     let first = pool.apply((0,), |_: u8| std::process::id())?;
    ///     let second = pool.apply((0,), |_: u8| std::process::id())?;
    ///     assert_ne!(first, second);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "maxtasksperchild")]
    pub fn max_tasks_per_child(mut self, items: usize) -> Self {
        self.max_tasks_per_child = Some(items);
        self
    }

    /// Replaces a worker that has more than `bytes` of memory, once it has answered what it runs; by default never.
    ///
    /// What counts is the memory in RAM, as `ps -o rss` shows it, shared pages included. So a worker by fork begins
    /// with what this process has, and a worker that is sent large arguments keeps up to 32 MiB of their buffers
    /// mapped. It is checked when a worker has answered, at most once per millisecond while it is busy. For a worker
    /// that grows without end during one item, see [`rlimit`](Self::rlimit).
    ///
    /// [`build`](Self::build) fails with [`PoolError::ZeroLimit`] for 0. With a limit below what a fresh worker has,
    /// every worker runs little more than one item. Named `max_memory_per_child` in billiard; not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(2).max_rss_per_child(500 << 20).build()?;
    ///     let lengths: Vec<usize> = pool.map(["a", "bc"].map(str::to_owned), |text| text.len())?;
    ///     assert_eq!(lengths, [1, 2]);
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "max_memory_per_child")]
    pub fn max_rss_per_child(mut self, bytes: u64) -> Self {
        self.max_rss_per_child = Some(bytes);
        self
    }

    /// Replaces a worker that has been ready for `age`, once it has answered what it runs; by default never.
    ///
    /// Idle workers are replaced as well. [`build`](Self::build) fails with [`PoolError::ZeroLimit`] for an `age` of
    /// zero. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(1).max_age_per_child(Duration::from_secs(3600)).build()?;
    ///     assert_eq!(pool.apply((2u32, 10), u32::pow)?, 1024);
    ///     Ok(())
    /// }
    /// ```
    pub fn max_age_per_child(mut self, age: Duration) -> Self {
        self.max_age_per_child = Some(age);
        self
    }

    /// Lets a worker leave after it has had nothing to do for `timeout`; by default none leaves.
    ///
    /// The pool begins with all its [`processes`](Self::processes), and shrinks to no fewer than
    /// [`min_processes`](Self::min_processes). When there is more to do than workers to do it, it grows again at once.
    /// [`build`](Self::build) fails with [`PoolError::ZeroLimit`] for a `timeout` of zero. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(2).idle_timeout(Duration::from_millis(20)).min_processes(1).build()?;
    ///     let began = Instant::now();
    ///     while pool.pids().len() > 1 {
    ///         assert!(began.elapsed() < Duration::from_secs(30), "one worker leaves");
    ///         std::thread::sleep(Duration::from_millis(5));
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// Sets how many workers stay although they are idle, with an [`idle_timeout`](Self::idle_timeout); 0 by default.
    ///
    /// Never more than [`processes`](Self::processes) stay. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(4).idle_timeout(Duration::from_secs(60)).min_processes(1).build()?;
    ///     assert_eq!(pool.map(0..3u64, |x| x * x)?, [0, 1, 4]);
    ///     Ok(())
    /// }
    /// ```
    pub fn min_processes(mut self, processes: usize) -> Self {
        self.min_processes = processes;
        self
    }

    /// Sets how the workers' names begin, as `ps -o comm` shows them; `procpool` by default.
    ///
    /// A hyphen and the worker's number follow. The system cuts names at 15 bytes. In CPython, a worker's name is not
    /// that of its process.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(1).name("resize").build()?;
    ///     let name = pool.apply(("/proc/self/comm".to_owned(),), |path| -> anyhow::Result<String> {
    ///         Ok(std::fs::read_to_string(path)?)
    ///     })?;
    ///     assert_eq!(name.trim(), "resize-0");
    ///     Ok(())
    /// }
    /// ```
    pub fn name(mut self, prefix: impl Into<String>) -> Self {
        self.name = prefix.into();
        self
    }

    /// Calls `tell` with each [`Event`]: workers that start, die or are recycled, calls, items that fail, are lost, run again or
    /// are slow.
    ///
    /// On the callback thread, in the order in which things happened, and never under a lock, so it may use the pool. While
    /// it runs, callbacks and events wait; the pool does not. If more than some thousand events wait, later ones are dropped,
    /// and [`Event::Dropped`] says how many. A panic in it is logged. Events of items that have a value do not exist, so
    /// ten million good items cost nothing. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// use procpool::{Event, Pool};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let (events, told) = mpsc::channel();
    ///     let pool = Pool::builder().processes(1).on_event(move |event| drop(events.send(event.clone()))).build()?;
    ///     let crash = pool.apply((0,), |_: u8| -> u8 { std::process::abort() });
    ///     assert!(crash.is_err());
    ///     assert!(told.iter().any(|event| matches!(event, Event::WorkerGone { .. })));
    ///     Ok(())
    /// }
    /// ```
    pub fn on_event(mut self, tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(EventHook::new(tell));
        self
    }

    /// Tells items that have run for `time` while they still run, as [`Event::ItemSlow`].
    ///
    /// Each is told once, after `time` and at the latest after twice that. For [`on_event`](Self::on_event), and for a
    /// [timeline](Self::record). [`build`](Self::build) fails with [`PoolError::ZeroLimit`] for zero. Not in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use std::time::Duration;
    ///
    /// use procpool::{Event, Pool};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let (events, told) = mpsc::channel();
    ///     let pool = Pool::builder()
    ///         .processes(1)
    ///         .slow_after(Duration::from_millis(50))
    ///         .on_event(move |event| drop(events.send(event.clone())))
    ///         .build()?;
    ///     let slow = pool.apply_async((600,), |seconds| std::thread::sleep(Duration::from_secs(seconds)));
    ///     assert!(told.iter().any(|event| matches!(event, Event::ItemSlow { index: 0, .. })));
    ///     slow.cancel();
    ///     Ok(())
    /// }
    /// ```
    pub fn slow_after(mut self, time: Duration) -> Self {
        self.slow_after = Some(time);
        self
    }

    /// Keeps a record for [`Pool::timeline`]: the newest `runs` runs of items, with what happened to workers and calls.
    ///
    /// A run is an item, or many short ones; it takes about 70 bytes. The times are those of the workers' clocks, which they
    /// read every 20 µs or 64 items, so recording costs little even if items take nanoseconds. Over the socket link, they
    /// are the times at which answers came.
    ///
    /// With `PROCPOOL_TIMELINE=run.svg` in the environment, every pool of the program keeps a record and writes it when it
    /// is joined or dropped: a picture, or a trace if the name ends in `.json`, or a report as text otherwise. A second pool
    /// writes `run-2.svg`, and so on; pools inside workers write none. [`build`](Self::build) fails with
    /// [`PoolError::ZeroLimit`] for 0. Not in CPython.
    ///
    /// # Examples
    ///
    /// See [`Timeline`](crate::Timeline).
    #[doc(alias = "timeline")]
    pub fn record(mut self, runs: usize) -> Self {
        self.record = Some(runs);
        self
    }

    /// Makes workers run the program at `path` instead of a second copy of this one; for spawn and forkserver.
    ///
    /// It must be the same build: functions are found by their position in it, and a worker of another build is
    /// refused. For programs whose main executable is not Rust, or that run without /proc. Named `set_executable` in
    /// CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(1).executable(std::env::current_exe()?).build()?;
    ///     assert_eq!(pool.apply((2u32, 10), u32::pow)?, 1024);
    ///     Ok(())
    /// }
    /// ```
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.start.executable = Some(path.into());
        self
    }

    /// Sets a variable in the environment of every worker.
    ///
    /// It is set before the initializer and any task, in replacements as well, and neither in this process nor in a
    /// fork server. With [`StartMethod::Spawn`] the worker's program is executed with it, so that what reads its
    /// environment before `main` (the dynamic linker, an allocator) sees it too; with the other two it does not.
    ///
    /// What is neither set nor removed is inherited: with fork and spawn from this process, with forkserver from the
    /// server, which has the environment that this process had when the server was started.
    ///
    /// [`build`](Self::build) fails with [`StartError::Environment`] if no variable can have that name or value, and
    /// with [`StartError::BootTooLarge`] if all of them together are too large. Not in CPython.
    ///
    /// [`StartError::Environment`]: crate::StartError::Environment
    /// [`StartError::BootTooLarge`]: crate::StartError::BootTooLarge
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    ///
    /// fn variable(name: String) -> Option<String> {
    ///     std::env::var(name).ok()
    /// }
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(1).env("LANG", "C").env_remove("LC_ALL").build()?;
    ///     let values = pool.map(["LANG".to_owned(), "LC_ALL".to_owned()], variable)?;
    ///     assert_eq!(values, [Some("C".to_owned()), None]);
    ///     Ok(())
    /// }
    /// ```
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.boot = self.boot.env(name, value);
        self
    }

    /// Removes a variable from the environment of every worker, whether inherited or [set](Self::env) before.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(1).env_remove("HOME").build()?;
    ///     let is_set = pool.apply(("HOME".to_owned(),), |name| std::env::var_os(name).is_some())?;
    ///     assert!(!is_set);
    ///     Ok(())
    /// }
    /// ```
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.boot = self.boot.env_remove(name);
        self
    }

    /// Empties the environment of every worker; it then has only what is [set](Self::env) after this.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(1).env_clear().env("LANG", "C").build()?;
    ///     let is_set = |name: String| std::env::var_os(name).is_some();
    ///     assert_eq!(pool.map(["HOME", "LANG"].map(str::to_owned), is_set)?, [false, true]);
    ///     Ok(())
    /// }
    /// ```
    pub fn env_clear(mut self) -> Self {
        self.boot = self.boot.env_clear();
        self
    }

    /// Sets the directory in which every worker begins.
    ///
    /// A relative path is resolved at once, against the directory of this process. Where this process goes later makes
    /// no difference, not for replacements either. Without this setting, a worker begins in the directory that this
    /// process has when the worker is started, or with forkserver that it had when the server was started.
    ///
    /// [`build`](Self::build) fails with [`StartError::Directory`] if a worker cannot enter it. To find out, it starts
    /// one process more than the workers and waits until that one is up. If the directory vanishes later, starts of
    /// workers fail: as soon as no worker is left, the pool is [`PoolError::Broken`] with the same cause. Not in
    /// CPython.
    ///
    /// [`StartError::Directory`]: crate::StartError::Directory
    ///
    /// # Examples
    ///
    /// ```
    /// use std::path::PathBuf;
    ///
    /// use procpool::{Pool, PoolError, StartError};
    ///
    /// fn is_file(path: PathBuf) -> bool {
    ///     path.is_file()
    /// }
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(1).current_dir("/etc").build()?;
    ///     assert!(pool.apply((PathBuf::from("passwd"),), is_file)?);
    ///
    ///     let error = Pool::builder().current_dir("/no/such/place").build().unwrap_err();
    ///     assert!(matches!(error, PoolError::Start(StartError::Directory { .. })));
    ///     println!("{error}"); // cannot start a worker: [...] cannot enter the directory "/no/such/place": [...]
    ///     Ok(())
    /// }
    /// ```
    pub fn current_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.boot = self.boot.current_dir(path);
        self.needs_trial = true;
        self
    }

    /// Limits a resource of every worker, for as long as it lives: setrlimit(2).
    ///
    /// `soft` is the limit that applies; [`Limit::UNLIMITED`] is no limit. `hard` is how far a task may raise the soft
    /// limit again; `None` leaves it unchanged. Units are those of setrlimit(2): bytes, seconds, descriptors. Each
    /// worker is counted separately, and so is each replacement. What the kernel does to a worker at its limit is an
    /// outcome of the item that it runs, and of no other:
    ///
    /// - [`Limit::AddressSpace`]: allocations fail. With `try_reserve` a task can tell; otherwise the worker aborts,
    ///   which is [`TaskError::WorkerDied`] with SIGABRT. Leave room for the program itself and, with fork, for the
    ///   memory of this process: under a limit that is too low for any worker the pool breaks.
    /// - [`Limit::CpuTime`]: the worker dies of SIGXCPU. Its seconds are those of all its tasks together, so consider
    ///   [`max_tasks_per_child`](Self::max_tasks_per_child).
    /// - [`Limit::OpenFiles`]: nothing more can be opened. Large values, which travel as descriptors, do not reach the
    ///   worker, and cost it.
    /// - [`Limit::CoreSize`]: 0 without this setting, so that workers dump no core.
    ///
    /// [`build`](Self::build) fails with [`StartError::Limit`] if a worker may not have the limit: a soft one above
    /// the hard one, or a hard one above what it would have by itself. To find out, it starts one process more than
    /// the workers and waits until that one is up. Not in CPython.
    ///
    /// [`Limit::UNLIMITED`]: crate::Limit::UNLIMITED
    /// [`Limit::AddressSpace`]: crate::Limit::AddressSpace
    /// [`Limit::CpuTime`]: crate::Limit::CpuTime
    /// [`Limit::OpenFiles`]: crate::Limit::OpenFiles
    /// [`Limit::CoreSize`]: crate::Limit::CoreSize
    /// [`TaskError::WorkerDied`]: crate::TaskError::WorkerDied
    /// [`StartError::Limit`]: crate::StartError::Limit
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Limit, Pool, TaskError};
    ///
    /// fn allocate(bytes: usize) -> anyhow::Result<usize> {
    ///     let mut memory = Vec::<u8>::new();
    ///     memory.try_reserve(bytes)?;
    ///     Ok(memory.capacity())
    /// }
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(2).rlimit(Limit::AddressSpace, 1 << 30, None).build()?;
    ///     let results = pool.map_results([1 << 20, 4 << 30], allocate)?;
    ///     assert!(results[0].is_ok());
    ///     assert!(matches!(results[1], Err(TaskError::Failed(_))));
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "setrlimit")]
    pub fn rlimit(mut self, limit: Resource, soft: u64, hard: Option<u64>) -> Self {
        self.boot = self.boot.rlimit(limit, soft, hard);
        self.needs_trial = true;
        self
    }

    /// Forks even while this process has other threads. For [`StartMethod::Fork`] only.
    ///
    /// Without it, [`build`](Self::build) refuses to fork in a process with threads that this crate did not start.
    ///
    /// # Safety
    ///
    /// A forked worker has one thread and a copy of every lock. A lock that another thread held at that moment is held
    /// in the worker for ever: the caller promises that no task, and nothing that a task calls, waits for one. Memory
    /// that another thread was changing is copied as it was. With [`env`](Self::env), [`env_remove`](Self::env_remove)
    /// or [`env_clear`](Self::env_clear), the lock of the environment is one for which every worker waits when it
    /// starts.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Pool, StartMethod};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let _thread = std::thread::spawn(std::thread::park);
    ///     let builder = Pool::builder().processes(1).start_method(StartMethod::Fork);
    ///     // SAFETY: the other thread sleeps and holds no lock.
    ///     let pool = unsafe { builder.fork_despite_threads() }.build()?;
    ///     assert_eq!(pool.apply((2u32, 10), u32::pow)?, 1024);
    ///     Ok(())
    /// }
    /// ```
    #[expect(unsafe_code, reason = "passes the user's own promise on")]
    pub unsafe fn fork_despite_threads(mut self) -> Self {
        // SAFETY: the caller makes this very promise.
        unsafe { self.start.allow_despite_threads(StartMethod::Fork) };
        self
    }

    /// Lets the pool's fork server fork even while other threads exist in it. For [`StartMethod::Forkserver`] only. The
    /// pool gets a fork server of its own.
    ///
    /// A fork server is a second run of this program up to [`init`](crate::init). Threads exist in it if a library that
    /// this program is linked with starts them before `main`, if `main` does so before `init`, or if a
    /// [preload](crate::forkserver::preload) does. Without this promise, the server refuses to fork; a pool for which
    /// no start method was chosen then starts its workers by spawn.
    ///
    /// # Safety
    ///
    /// As for [`fork_despite_threads`](Self::fork_despite_threads), for the threads of the fork server: the caller
    /// promises that no task, and nothing that a task calls, waits for a lock that one of them may hold. Libraries that
    /// register handlers with pthread_atfork(3) for their threads, as OpenBLAS and jemalloc do, keep that promise for
    /// them.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Pool, StartMethod};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     let _thread = std::thread::spawn(std::thread::park); // In the server too: it runs `main` up to `init`.
    ///     procpool::init();
    ///     let builder = Pool::builder().processes(1).start_method(StartMethod::Forkserver);
    ///     // SAFETY: the other thread sleeps and holds no lock.
    ///     let pool = unsafe { builder.forkserver_despite_threads() }.build()?;
    ///     assert_eq!(pool.apply((2u32, 10), u32::pow)?, 1024);
    ///     Ok(())
    /// }
    /// ```
    #[expect(unsafe_code, reason = "passes the user's own promise on")]
    pub unsafe fn forkserver_despite_threads(mut self) -> Self {
        // SAFETY: the caller makes this very promise.
        unsafe { self.start.allow_despite_threads(StartMethod::Forkserver) };
        self
    }

    /// Makes the pool and starts its workers, without waiting until they are ready.
    ///
    /// # Errors
    ///
    /// Nothing is left behind by any of them:
    ///
    /// - [`PoolError::ZeroProcesses`], [`PoolError::ZeroMaxTasksPerChild`], [`PoolError::ZeroLimit`]: a setting is
    ///   zero.
    /// - [`PoolError::TooManyProcesses`]: more than the system has process ids.
    /// - [`PoolError::Initializer`]: the arguments of the initializer cannot be serialized, or its function was not
    ///   found.
    /// - [`PoolError::NotInitialized`]: `main` did not call [`init`](crate::init) first; for spawn and forkserver.
    /// - [`PoolError::NestedTooDeep`]: this process is itself a worker of a worker of a worker, and so on.
    /// - [`PoolError::Start`]: a worker process cannot be started, or cannot have the environment, directory or limits
    ///   that were asked for; or a fork is refused because this process, or its fork server, has other threads.
    /// - [`PoolError::System`]: the system refused a descriptor or a thread.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Pool, PoolError};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::builder().processes(2).build()?;
    ///     assert_eq!(pool.map(0..3u64, |x| x * x)?, [0, 1, 4]);
    ///
    ///     let error = Pool::builder().processes(0).build().unwrap_err();
    ///     assert!(matches!(error, PoolError::ZeroProcesses));
    ///     Ok(())
    /// }
    /// ```
    pub fn build(self) -> Result<Pool, PoolError> {
        let processes = self.processes.unwrap_or_else(processor::available);
        check_processes(processes)?;
        if self.max_tasks_per_child == Some(0) {
            return Err(PoolError::ZeroMaxTasksPerChild);
        }
        for (option, is_zero) in [
            ("max_rss_per_child", self.max_rss_per_child == Some(0)),
            ("max_age_per_child", self.max_age_per_child == Some(Duration::ZERO)),
            ("idle_timeout", self.idle_timeout == Some(Duration::ZERO)),
            ("initializer_timeout", self.hooks.initializer_timeout == Some(Duration::ZERO)),
            ("finalizer_timeout", self.hooks.finalizer_timeout == Some(Duration::ZERO)),
            ("slow_after", self.slow_after == Some(Duration::ZERO)),
            ("record", self.record == Some(0)),
        ] {
            if is_zero {
                return Err(PoolError::ZeroLimit { option });
            }
        }
        let saved = Autosave::from_env();
        let size = match self.idle_timeout {
            Some(timeout) => Size::elastic(self.min_processes, processes, timeout),
            None => Size::fixed(processes),
        };
        let Hooks { initializer, initializer_timeout, finalizer, finalizer_timeout } = self.hooks;
        let initializer = initializer.transpose().map_err(|message| PoolError::Initializer { message })?;
        let finalizer = finalizer.transpose().map_err(|message| PoolError::Finalizer { message })?;
        let starter = self.start.starter()?;
        let config = Config {
            size,
            start_method: starter.method(),
            max_tasks_per_child: self.max_tasks_per_child.map(|items| items as u64),
            max_rss_per_child: self.max_rss_per_child,
            max_age_per_child: self.max_age_per_child,
            initializer,
            initializer_timeout,
            finalizer,
            finalizer_timeout: finalizer_timeout.unwrap_or(FINALIZER_TIMEOUT),
            outlets: self.listening.wanted(),
            affinity: self.pinning.sets()?,
            name: self.name,
            boot: self.boot,
            started: AtomicU64::new(0),
            events: self.on_event.map(|hook| Arc::new(EventLine::new(hook))),
            slow_after: self.slow_after,
            record: self.record.or(saved.is_some().then_some(autosave::RUNS)),
            links: Links::choose(),
        };
        if self.needs_trial {
            config.try_settings(&starter)?;
        }
        Ok(Pool::over(driver::start(config, starter, self.listening.hooks)?, saved))
    }
}

/// The settings of a pool of threads.
#[cfg(feature = "threads")]
pub(crate) struct ThreadSettings {
    pub(crate) threads: usize,
    pub(crate) name: String,
    pub(crate) initializer: Option<FirstCall>,
}

#[cfg(feature = "threads")]
impl PoolBuilder {
    /// The settings of a pool of threads.
    ///
    /// # Errors
    ///
    /// One is wrong, or threads cannot have it.
    pub(crate) fn into_threads(self) -> Result<ThreadSettings, PoolError> {
        let threads = self.processes.unwrap_or_else(processor::available);
        check_processes(threads)?;
        let Hooks { initializer, initializer_timeout, finalizer, finalizer_timeout } = self.hooks;
        for (option, is_set) in [
            ("start_method", self.start.method.is_some()),
            ("max_tasks_per_child", self.max_tasks_per_child.is_some()),
            ("max_rss_per_child", self.max_rss_per_child.is_some()),
            ("max_age_per_child", self.max_age_per_child.is_some()),
            ("idle_timeout", self.idle_timeout.is_some() || self.min_processes > 0),
            ("initializer_timeout", initializer_timeout.is_some()),
            ("finalizer", finalizer.is_some() || finalizer_timeout.is_some()),
            ("logs, on_log or on_output", !self.listening.is_like(&Listening::default())),
            ("pin_workers or affinity", self.pinning != Pinning::default()),
            ("executable", self.start.executable.is_some()),
            ("fork_despite_threads or forkserver_despite_threads", self.start.forks_despite_threads()),
            ("env, current_dir or rlimit", !self.boot.has_settings_of(&Boot::new(worker::main))),
        ] {
            if is_set {
                return Err(PoolError::Unsupported { option, by: "threads" });
            }
        }
        let initializer = initializer.transpose().map_err(|message| PoolError::Initializer { message })?;
        Ok(ThreadSettings { threads, name: self.name, initializer })
    }
}

impl PoolBuilder {
    /// Whether a pool with the other's settings is as good as one with these.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        // All fields are listed, so that a new one is not forgotten.
        let Self {
            processes,
            start,
            max_tasks_per_child,
            max_rss_per_child,
            max_age_per_child,
            min_processes,
            idle_timeout,
            hooks,
            listening,
            pinning,
            name,
            on_event,
            slow_after,
            record,
            boot,
            needs_trial: _,
        } = self;
        let event_hooks_are_alike = match (on_event, &other.on_event) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => ours.is_same(theirs),
            _ => false,
        };
        *processes == other.processes
            && *start == other.start
            && *max_tasks_per_child == other.max_tasks_per_child
            && *max_rss_per_child == other.max_rss_per_child
            && *max_age_per_child == other.max_age_per_child
            && *min_processes == other.min_processes
            && *idle_timeout == other.idle_timeout
            && *name == other.name
            && event_hooks_are_alike
            && *slow_after == other.slow_after
            && *record == other.record
            && boot.has_settings_of(&other.boot)
            && hooks.is_like(&other.hooks)
            && listening.is_like(&other.listening)
            && *pinning == other.pinning
    }
}
