//! How a pool is made.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Deserialize;
use serde::Serialize;
use start_methods::StartMethod;
use start_methods::Starter;

use crate::blob::Blob;
use crate::codec;
use crate::config::Config;
use crate::config::InitializerArgs;
use crate::config::InitializerCall;
use crate::driver::Shared;
use crate::error::PoolError;
use crate::function::LocalFunction;
use crate::pool::Pool;
use crate::task::Args;
use crate::task::Initialized;

/// Arguments of an initializer that are longer than this travel beside the worker's birth message.
const INITIALIZER_INLINE_MAX: usize = 16 * 1024;

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
    initializer: Option<Result<InitializerCall, String>>,
    name: String,
    executable: Option<PathBuf>,
    fork_despite_threads: bool,
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
            initializer: None,
            name: "procpool".to_owned(),
            executable: None,
            fork_despite_threads: false,
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

    /// Forks even while this process has other threads. For [`StartMethod::Fork`] only.
    ///
    /// # Safety
    ///
    /// A forked worker has one thread and a copy of every lock. A lock that another thread held at that moment is
    /// held in the worker for ever: the caller promises that no task, and nothing that a task calls, waits for one.
    /// Memory that another thread was changing is copied as it was.
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
    /// be started, or a fork is refused because of foreign threads. Nothing is left behind.
    pub fn build(self) -> Result<Pool, PoolError> {
        let processes = self.processes.unwrap_or_else(available_processors);
        if processes == 0 {
            return Err(PoolError::ZeroProcesses);
        }
        if self.max_tasks_per_child == Some(0) {
            return Err(PoolError::ZeroMaxTasksPerChild);
        }
        let initializer = self.initializer.transpose().map_err(|message| PoolError::Initializer { message })?;
        let starter = make_starter(self.start_method, self.executable, self.fork_despite_threads)?;
        let config = Config {
            processes,
            start_method: self.start_method,
            max_tasks_per_child: self.max_tasks_per_child.map(|items| items as u64),
            initializer,
            name: self.name,
            started: AtomicU64::new(0),
        };
        let system = |doing| {
            move |error: std::io::Error| PoolError::System { doing, errno: error.raw_os_error().unwrap_or_default() }
        };
        let shared = Arc::new(Shared::new(config, starter).map_err(system("making the pool's event descriptors"))?);
        // From here on its drop cleans up.
        let pool = Pool::from_shared(Arc::clone(&shared));
        shared.start_first_workers()?;
        shared.start_threads().map_err(system("starting the pool's threads"))?;
        Ok(pool)
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

/// How many processors this process may use. The standard library asks the affinity mask and the quotas of both
/// versions of cgroups.
fn available_processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn encode_initializer<T: Serialize>(args: &T, function: LocalFunction) -> Result<InitializerCall, String> {
    let definition = function.definition()?;
    let mut bytes = Vec::new();
    codec::encode(args, &mut bytes).map_err(|error| format!("its arguments do not serialize: {error}"))?;
    let args = match bytes.len() {
        0..=INITIALIZER_INLINE_MAX => InitializerArgs::Inline(bytes),
        _ => InitializerArgs::Blob(Blob::write(&bytes).map_err(|error| error.to_string())?),
    };
    Ok(InitializerCall { definition, args })
}
