//! How a pool is made.

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use start_methods::Boot;
use start_methods::Resource;
use start_methods::StartMethod;
use start_methods::Starter;

use crate::api::pool::Pool;
use crate::driver;
use crate::engine::config::Config;
use crate::engine::config::InitializerArgs;
use crate::engine::config::InitializerCall;
use crate::error::PoolError;
use crate::schedule::size::Size;
use crate::sys::processor;
use crate::transport::links::Links;
use crate::values::codec;
use crate::values::output::Output;
use crate::values::output::no_room;
use crate::work::function::LocalFunction;
use crate::work::task::Args;
use crate::work::task::Initialized;
use crate::worker;

/// Arguments of an initializer that are longer than this travel beside the worker's birth message.
const INITIALIZER_INLINE_MAX: u64 = 16 * 1024;

/// The settings of a pool to be; made by [`Pool::builder`].
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
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct PoolBuilder {
    processes: Option<usize>,
    start_method: StartMethod,
    max_tasks_per_child: Option<usize>,
    max_rss_per_child: Option<u64>,
    max_age_per_child: Option<Duration>,
    min_processes: usize,
    idle_timeout: Option<Duration>,
    initializer: Option<Result<InitializerCall, String>>,
    name: String,
    executable: Option<PathBuf>,
    fork_despite_threads: bool,
    /// The model of every worker.
    boot: Boot<'static>,
    /// Something was asked for of which only a new process can tell whether it is to be had.
    doubtful: bool,
}

impl Pool {
    /// A pool of `processes` workers, started by forkserver.
    ///
    /// # Errors
    ///
    /// As for [`PoolBuilder::build`].
    pub fn new(processes: usize) -> Result<Self, PoolError> {
        Self::builder().processes(processes).build()
    }

    /// The way to all settings.
    pub fn builder() -> PoolBuilder {
        PoolBuilder {
            processes: None,
            start_method: StartMethod::default(),
            max_tasks_per_child: None,
            max_rss_per_child: None,
            max_age_per_child: None,
            min_processes: 0,
            idle_timeout: None,
            initializer: None,
            name: "procpool".to_owned(),
            executable: None,
            fork_despite_threads: false,
            boot: Boot::new(worker::main),
            doubtful: false,
        }
    }
}

impl PoolBuilder {
    /// How many workers the pool keeps. By default as many as this process may use processors: its affinity mask and
    /// its cgroup's quota are heeded.
    pub fn processes(mut self, processes: usize) -> Self {
        self.processes = Some(processes);
        self
    }

    /// How workers are brought into the world; [`StartMethod::Forkserver`] by default.
    pub fn start_method(mut self, start_method: StartMethod) -> Self {
        self.start_method = start_method;
        self
    }

    /// A worker is replaced after it has run this many items; by default never.
    ///
    /// Its replacement is started before it has left. CPython counts chunks where this counts items. Named
    /// `maxtasksperchild` in CPython.
    #[doc(alias = "maxtasksperchild")]
    pub fn max_tasks_per_child(mut self, items: usize) -> Self {
        self.max_tasks_per_child = Some(items);
        self
    }

    /// A worker that has more memory than this, in bytes, is replaced once it has answered what it runs; by default
    /// never.
    ///
    /// It is the memory that lies in RAM, as `ps -o rss` shows it, shared pages included: a worker by fork begins with what
    /// this process has, and one that is sent large arguments keeps up to 32 MiB of their buffers mapped. It is looked at when
    /// a worker has answered, at most once in a millisecond while it is busy; for a worker that grows without end during
    /// one item, see [`rlimit`](Self::rlimit).
    ///
    /// [`build`](Self::build) fails for 0 ([`PoolError::ZeroLimit`]). With a limit below what a fresh worker has,
    /// every worker runs little more than one item. Named `max_memory_per_child` in billiard.
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

    /// A worker that has been ready for so long is replaced once it has answered what it runs; by default never.
    ///
    /// Idle workers are replaced as well. [`build`](Self::build) fails for no time at all ([`PoolError::ZeroLimit`]).
    pub fn max_age_per_child(mut self, age: Duration) -> Self {
        self.max_age_per_child = Some(age);
        self
    }

    /// A worker that has had nothing to do for so long leaves; by default none does.
    ///
    /// The pool begins with all its [`processes`](Self::processes), and shrinks to no fewer than
    /// [`min_processes`](Self::min_processes). When there is more to do than workers to do it, it grows again at once.
    /// [`build`](Self::build) fails for no time at all ([`PoolError::ZeroLimit`]).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = Some(timeout);
        self
    }

    /// How many workers stay however long they are idle, with an [`idle_timeout`](Self::idle_timeout): 0 by default,
    /// and never more than [`processes`](Self::processes).
    pub fn min_processes(mut self, processes: usize) -> Self {
        self.min_processes = processes;
        self
    }

    /// Every worker calls `f` on `args`, a tuple, before its first task.
    ///
    /// `f` returns nothing, or a `Result` whose error can be shown. A worker whose initializer fails or panics
    /// leaves, and another is started; if that goes on, the pool is broken, and every handle says why. The arguments
    /// live as long as the worker, so they may hold `&'static str`.
    ///
    /// Named `initializer` and `initargs` in CPython.
    #[doc(alias = "initargs")]
    pub fn initializer<T, O>(mut self, args: T, f: T::Fp<O>) -> Self
    where
        T: Args + Serialize + Deserialize<'static>,
        O: Initialized,
    {
        self.initializer = Some(encode_initializer(&args, LocalFunction::initializer::<T, O>(f)));
        self
    }

    /// What the workers' names begin with, as `ps -o comm` shows them; the system cuts them at 15 bytes.
    pub fn name(mut self, prefix: impl Into<String>) -> Self {
        self.name = prefix.into();
        self
    }

    /// Workers run this program instead of a second copy of this one; for spawn and forkserver.
    ///
    /// It must be the same build: functions are found by their position in it, and a worker of another build is
    /// refused. For programs whose main executable is not Rust, or that run without /proc.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = Some(path.into());
        self
    }

    /// Sets a variable in the environment of every worker.
    ///
    /// It is set before the initializer and any task, in replacements as well, and nowhere in this process or in a fork
    /// server. With [`StartMethod::Spawn`] the worker's program is executed with it, so that what reads its
    /// environment before `main` (the dynamic linker, an allocator) sees it too; with the other two it does not.
    ///
    /// What is not set or removed is inherited: with fork and spawn from this process, with forkserver from the server,
    /// which has the environment that this process had when the server was started.
    ///
    /// [`build`](Self::build) fails when no variable can have that name or value, or when all of them together are too
    /// large ([`StartError::Environment`], [`StartError::BootTooLarge`]).
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
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.boot = self.boot.env_remove(name);
        self
    }

    /// Empties the environment of every worker; what is [set](Self::env) after this is all there is.
    pub fn env_clear(mut self) -> Self {
        self.boot = self.boot.env_clear();
        self
    }

    /// The directory in which every worker begins.
    ///
    /// A relative path is resolved at once, against the directory of this process; where this process goes later makes
    /// no difference, not for replacements either. Without this, a worker begins where this process is at its start,
    /// or with forkserver where it was at the start of the server.
    ///
    /// [`build`](Self::build) fails when a worker cannot enter it ([`StartError::Directory`]). To know that, it starts
    /// one process more than the workers and waits until that one has come up. A directory that vanishes later is a
    /// start that fails: as soon as no worker is left, the pool is [`PoolError::Broken`], which says the same.
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
        self.doubtful = true;
        self
    }

    /// Limits what every worker may use of something, for as long as it lives: setrlimit(2).
    ///
    /// `soft` is what counts, [`Limit::UNLIMITED`] is no limit. `hard` is how far a task may raise the soft limit
    /// again, `None` leaves that as it is. Each worker has its own count, and so has each replacement. What the kernel
    /// does to a worker at its limit is an outcome of the item that it runs, and of no other:
    ///
    /// - [`Limit::AddressSpace`]: allocations fail. With `try_reserve` a task can tell; otherwise the worker aborts,
    ///   which is [`TaskError::WorkerDied`] with SIGABRT. Leave room for the program itself and, with fork, for the
    ///   memory of this process: under a limit that is too low for any worker the pool breaks.
    /// - [`Limit::CpuTime`]: the worker dies of SIGXCPU. Its seconds are those of all its tasks together, so think of
    ///   [`max_tasks_per_child`](Self::max_tasks_per_child).
    /// - [`Limit::OpenFiles`]: nothing more can be opened; large values, which need a descriptor on their way, do not
    ///   reach the worker, and cost it.
    /// - [`Limit::CoreSize`]: 0 without this, so that workers dump no core.
    ///
    /// [`build`](Self::build) fails when a worker may not have the limit ([`StartError::Limit`]): a soft one above the
    /// hard one, or a hard one above what it would have by itself. To know that, it starts one process more than the
    /// workers and waits until that one has come up.
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
        self.doubtful = true;
        self
    }

    /// Forks even while this process has other threads. For [`StartMethod::Fork`] only.
    ///
    /// # Safety
    ///
    /// A forked worker has one thread and a copy of every lock. A lock that another thread held at that moment is
    /// held in the worker for ever: the caller promises that no task, and nothing that a task calls, waits for one.
    /// Memory that another thread was changing is copied as it was. With [`env`](Self::env) and its neighbours, the lock
    /// of the environment is one for which every worker waits at its birth.
    #[expect(unsafe_code, reason = "declares an unsafe promise; contains no unsafe operation")]
    pub unsafe fn fork_despite_threads(mut self) -> Self {
        self.fork_despite_threads = true;
        self
    }

    /// Makes the pool and starts its workers, without waiting for them to be ready.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense; [`PoolError::NotInitialized`]; [`PoolError::Start`] when a worker process cannot
    /// be started, cannot have the environment, directory or limits that were asked for, or a fork is refused because
    /// of foreign threads. Nothing is left behind.
    pub fn build(self) -> Result<Pool, PoolError> {
        let processes = self.processes.unwrap_or_else(processor::available);
        if processes == 0 {
            return Err(PoolError::ZeroProcesses);
        }
        if self.max_tasks_per_child == Some(0) {
            return Err(PoolError::ZeroMaxTasksPerChild);
        }
        for (option, is_zero) in [
            ("max_rss_per_child", self.max_rss_per_child == Some(0)),
            ("max_age_per_child", self.max_age_per_child == Some(Duration::ZERO)),
            ("idle_timeout", self.idle_timeout == Some(Duration::ZERO)),
        ] {
            if is_zero {
                return Err(PoolError::ZeroLimit { option });
            }
        }
        let size = match self.idle_timeout {
            Some(timeout) => Size::elastic(self.min_processes, processes, timeout),
            None => Size::fixed(processes),
        };
        let initializer = self.initializer.transpose().map_err(|message| PoolError::Initializer { message })?;
        let starter = make_starter(self.start_method, self.executable, self.fork_despite_threads)?;
        let config = Config {
            size,
            start_method: self.start_method,
            max_tasks_per_child: self.max_tasks_per_child.map(|items| items as u64),
            max_rss_per_child: self.max_rss_per_child,
            max_age_per_child: self.max_age_per_child,
            initializer,
            name: self.name,
            boot: self.boot,
            started: AtomicU64::new(0),
            links: Links::choose(),
        };
        if self.doubtful {
            config.try_settings(&starter)?;
        }
        Ok(Pool::over(driver::start(config, starter)?))
    }
}

#[expect(unsafe_code, reason = "passes the user's own promise on")]
fn make_starter(
    method: StartMethod,
    executable: Option<PathBuf>,
    fork_despite_threads: bool,
) -> Result<Starter, PoolError> {
    let starter = match (method, fork_despite_threads) {
        // SAFETY: `PoolBuilder::fork_despite_threads` asked the user for the same promise, and got it.
        (StartMethod::Fork, true) => unsafe { Starter::fork_despite_threads()? },
        (method, _) => Starter::new(method)?,
    };
    Ok(match executable {
        Some(path) => starter.executable(path),
        None => starter,
    })
}

fn encode_initializer<T: Serialize + 'static>(args: &T, function: LocalFunction) -> Result<InitializerCall, String> {
    let definition = function.definition()?;
    let mut output = Output::default();
    codec::encode(args, &mut output).map_err(|error| format!("its arguments do not serialize: {error}"))?;
    let args = match output.len() {
        0..=INITIALIZER_INLINE_MAX => InitializerArgs::Inline(output.into_bytes()),
        _ => InitializerArgs::Blob(output.take_blob().map_err(|error| no_room(&error))?),
    };
    Ok(InitializerCall { definition, args })
}
