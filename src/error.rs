//! The errors of the crate. This file imports nothing else of the crate.
//!
//! A [`TaskError`] is *data*: it takes the place of one result, and the rest of the job goes on. A [`PoolError`] is the
//! error of a call on the [`Pool`](crate::Pool) itself. They are two types because different code handles them. Where a
//! pool does not accept an item at all, the handle of that item resolves to [`TaskError::Refused`], so that submitting
//! needs no second way to fail.

mod origin;
mod timed_out;

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use start_methods::Exit;
use start_methods::StartError;

pub(crate) use self::origin::Label;
pub use self::origin::Origin;
pub use self::timed_out::TimedOut;

/// The error that a task returned through `anyhow::Result`: the counterpart of an exception.
///
/// # Examples
///
/// ```
/// # use anyhow::Context;
/// # use procpool::{Pool, TaskError};
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// let pool = Pool::new(1)?;
/// let port = |text: String| -> anyhow::Result<u16> { text.parse().context("not a port") };
/// match pool.apply(("http".to_owned(),), port) {
///     Err(TaskError::Failed(failure)) => {
///         assert_eq!(failure.message, "not a port: invalid digit found in string");
///         assert_eq!(pool.pids(), [failure.pid]);
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// The whole chain of causes, outermost first, joined by `": "`.
    pub message: String,
    /// The worker that ran the task.
    pub pid: u32,
    /// Which item it was.
    pub origin: Origin,
}

/// A panic inside a task, as the worker caught it. The worker lives on.
///
/// # Examples
///
/// ```
/// # use procpool::{Pool, TaskError};
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// let pool = Pool::new(1)?;
/// let third = |items: Vec<u8>| items[2];
/// match pool.apply((vec![1, 2],), third) {
///     Err(TaskError::Panicked(panic)) => {
///         assert_eq!(panic.message, "index out of bounds: the len is 2 but the index is 2");
///         assert!(panic.to_string().starts_with(&format!("panic in worker {}: ", panic.pid)));
///     }
///     other => panic!("{other:?}"),
/// }
/// assert_eq!(pool.apply((vec![1, 2, 3],), third)?, 3, "the same worker");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Panic {
    /// The panic message; `"Box<dyn Any>"` when the payload was not text.
    pub message: String,
    /// `file:line:column` of the panic, unless the task had replaced this crate's panic hook.
    pub location: Option<String>,
    /// The name of the thread that panicked, if it has one.
    pub thread: Option<String>,
    /// The backtrace, if `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` is set in the worker.
    pub backtrace: Option<String>,
    /// The worker that ran the task.
    pub pid: u32,
    /// Which item it was.
    pub origin: Origin,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panic in worker {}: ", self.pid)?;
        self.write_report(f)
    }
}

impl Panic {
    /// What is known of it besides the process.
    pub(crate) fn write_report(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(location) = &self.location {
            write!(f, ", at {location}")?;
        }
        if let Some(backtrace) = &self.backtrace {
            write!(f, "\n{backtrace}")?;
        }
        Ok(())
    }
}

/// Which value could not be serialized or deserialized.
///
/// # Examples
///
/// ```
/// # use std::path::PathBuf;
/// # use procpool::{Pool, Side, TaskError};
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// # use std::os::unix::ffi::OsStringExt;
/// let pool = Pool::new(1)?;
/// // serde refuses paths that are not UTF-8.
/// let path = PathBuf::from(std::ffi::OsString::from_vec(vec![0xff]));
/// match pool.apply((path,), |path| path.is_absolute()) {
///     Err(TaskError::Encode { side, .. }) => assert_eq!(side, Side::Argument),
///     other => panic!("{other:?}"),
/// }
/// assert_eq!(Side::Argument.to_string(), "the argument");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The argument of the task, which travels to the worker.
    Argument,
    /// The result of the task, which travels back.
    Result,
    /// The context given to [`Pool::with`](crate::Pool::with).
    Context,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Argument => "the argument",
            Side::Result => "the result",
            Side::Context => "the context",
        })
    }
}

/// Why one item has no value.
///
/// An error concerns its own item only: the other items of the call, and the pool, are unaffected.
///
/// # Examples
///
/// A worker that dies costs the item that it was running:
///
/// ```
/// # use procpool::{Pool, TaskError};
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// let pool = Pool::new(2)?;
/// let results = pool.map_results(0..10u64, |x| {
///     if x == 3 {
///         std::process::exit(7); // As a crash in foreign code would.
///     }
///     x * x
/// })?;
/// for (index, result) in results.into_iter().enumerate() {
///     match result {
///         Ok(square) => assert_eq!(square, (index * index) as u64),
///         Err(TaskError::WorkerDied { status, origin, .. }) => {
///             assert_eq!((index, origin.index()), (3, Some(3)));
///             assert_eq!(status.and_then(|status| status.code()), Some(7));
///         }
///         Err(error) => panic!("{error}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// An item that runs for too long is stopped, with its worker:
///
/// ```
/// # use std::time::Duration;
/// # use procpool::{Pool, TaskError};
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// let pool = Pool::new(1)?;
/// let limit = Duration::from_millis(100);
/// match pool.timeout(limit).apply((Duration::from_secs(3600),), std::thread::sleep) {
///     Err(TaskError::TimedOut { timeout, .. }) => assert_eq!(timeout, limit),
///     other => panic!("{other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskError {
    /// The task returned `Err` (an `anyhow::Result`).
    Failed(Failure),
    /// The task panicked. Its worker lives on.
    Panicked(Panic),
    /// The worker died while it ran this item, or before it could answer. The item may have had effects: one that had
    /// certainly not begun runs elsewhere, and is no error.
    #[non_exhaustive]
    WorkerDied {
        /// The worker's process id.
        pid: u32,
        /// How it ended, if the system reports it.
        status: Option<ExitStatus>,
        /// How many workers have died while they ran this item. More than one only if the call asks for
        /// [`retries`](crate::Pool::retries).
        attempts: u32,
        /// The panic that aborted the worker, if it could still be reported (builds with `panic = "abort"`, a panic while
        /// panicking).
        panic: Option<Box<Panic>>,
        /// Which item it was.
        origin: Origin,
    },
    /// The item had run for the [`timeout`](crate::Pool::timeout) of its call, and its worker was killed for that. Other
    /// items are unaffected.
    #[non_exhaustive]
    TimedOut {
        /// The worker's process id.
        pid: u32,
        /// How long the item was allowed to run.
        timeout: Duration,
        /// Which item it was.
        origin: Origin,
    },
    /// The call was [cancelled](crate::AsyncResult::cancel) before the item had a result. If it was running, its worker
    /// was killed for that.
    Cancelled,
    /// A value could not be serialized. The worker and the other items are unaffected.
    #[non_exhaustive]
    Encode {
        /// Which value.
        side: Side,
        /// Serde's message, or why the bytes could not be stored.
        message: String,
        /// Which item it was; for a context, which call.
        origin: Origin,
    },
    /// A value could not be deserialized by the receiver. The worker and the other items are unaffected.
    #[non_exhaustive]
    Decode {
        /// Which value.
        side: Side,
        /// Serde's message and what to do about it, or why the bytes could not be read.
        message: String,
        /// Which item it was.
        origin: Origin,
    },
    /// The function is in no loaded image of this program, or not in the worker's.
    #[non_exhaustive]
    FunctionNotFound {
        /// Which address or image, and why it was not accepted.
        message: String,
        /// Which item it was, or which call.
        origin: Origin,
    },
    /// The input iterator panicked when it was asked for this item. No further items were drawn from it.
    #[non_exhaustive]
    Input {
        /// The panic message.
        message: String,
        /// Which item it was.
        origin: Origin,
    },
    /// Not run: another item of this fail-fast call had failed before this one was handed out.
    Skipped,
    /// The pool was terminated or dropped before the item was done.
    Terminated,
    /// The pool did not accept the item.
    Refused(PoolError),
}

impl TaskError {
    /// Which item of which call the error belongs to.
    ///
    /// `None` for the variants that concern more than one item: [`Cancelled`](Self::Cancelled),
    /// [`Skipped`](Self::Skipped), [`Terminated`](Self::Terminated) and [`Refused`](Self::Refused).
    ///
    /// # Examples
    ///
    /// ```
    /// # use procpool::Pool;
    /// # fn main() -> anyhow::Result<()> {
    /// # procpool::init();
    /// let pool = Pool::new(2)?;
    /// for quotient in pool.imap_unordered(0..10u32, |x| 12 / x) {
    ///     if let Err(error) = quotient {
    ///         let index = error.origin().and_then(|origin| origin.index());
    ///         assert_eq!(index, Some(0), "12 / 0, whenever it arrives");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            TaskError::Failed(Failure { origin, .. })
            | TaskError::Panicked(Panic { origin, .. })
            | TaskError::WorkerDied { origin, .. }
            | TaskError::TimedOut { origin, .. }
            | TaskError::Encode { origin, .. }
            | TaskError::Decode { origin, .. }
            | TaskError::FunctionNotFound { origin, .. }
            | TaskError::Input { origin, .. } => Some(origin),
            TaskError::Cancelled | TaskError::Skipped | TaskError::Terminated | TaskError::Refused(_) => None,
        }
    }

    /// The same error, of this item.
    pub(crate) fn of(mut self, item: Origin) -> Self {
        match &mut self {
            TaskError::Failed(Failure { origin, .. })
            | TaskError::Panicked(Panic { origin, .. })
            | TaskError::TimedOut { origin, .. }
            | TaskError::Encode { origin, .. }
            | TaskError::Decode { origin, .. }
            | TaskError::FunctionNotFound { origin, .. }
            | TaskError::Input { origin, .. } => *origin = item,
            TaskError::WorkerDied { panic, origin, .. } => {
                if let Some(panic) = panic {
                    panic.origin = item.clone();
                }
                *origin = item;
            }
            TaskError::Cancelled | TaskError::Skipped | TaskError::Terminated | TaskError::Refused(_) => {}
        }
        self
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = self.origin().filter(|origin| **origin != Origin::default()) {
            write!(f, "{origin}: ")?;
        }
        match self {
            TaskError::Failed(failure) => write!(f, "task failed: {}", failure.message),
            TaskError::Panicked(panic) => write!(f, "{panic}"),
            TaskError::WorkerDied { pid, status, attempts, panic, .. } => {
                write!(f, "worker {pid} died while it ran this item: {}", in_words(*status))?;
                if *attempts > 1 {
                    write!(f, "; {attempts} workers have died of it")?;
                }
                match panic {
                    Some(panic) => write!(f, " ({panic})"),
                    None => Ok(()),
                }
            }
            TaskError::TimedOut { pid, timeout, .. } => {
                write!(f, "this item did not end within {timeout:?}, and worker {pid} was killed for that")
            }
            TaskError::Cancelled => f.write_str("the call was cancelled before this item was done"),
            TaskError::Encode { side, message, .. } => write!(f, "{side} does not serialize: {message}"),
            TaskError::Decode { side, message, .. } => write!(f, "{side} does not deserialize: {message}"),
            TaskError::FunctionNotFound { message, .. } => {
                write!(f, "the function cannot be sent to a worker: {message}")
            }
            TaskError::Input { message, .. } => write!(f, "the input iterator panicked: {message}"),
            TaskError::Skipped => f.write_str("not run: another item of this fail-fast call failed first"),
            TaskError::Terminated => f.write_str("the pool was terminated before this item was done"),
            TaskError::Refused(error) => write!(f, "the pool did not take the task: {error}"),
        }
    }
}

/// How a process ended.
pub(crate) fn in_words(status: Option<ExitStatus>) -> Exit {
    status.map_or(Exit::Unknown, Exit::Known)
}

/// It has no `source`: the text contains the cause already, so that one line is enough for a log, and a report of the
/// whole chain does not repeat it. The typed cause is in [`Refused`](Self::Refused).
impl Error for TaskError {}

impl From<PoolError> for TaskError {
    fn from(error: PoolError) -> Self {
        TaskError::Refused(error)
    }
}

/// Why a call on the pool failed.
///
/// # Examples
///
/// ```
/// # use procpool::{Pool, PoolError, TaskError};
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// assert!(matches!(Pool::new(0), Err(PoolError::ZeroProcesses)));
///
/// let pool = Pool::new(1)?;
/// assert!(matches!(pool.join(), Err(PoolError::StillRunning)));
/// pool.close();
/// // A closed pool accepts no items: each resolves to the reason.
/// match pool.apply((2u64, 3), u64::pow) {
///     Err(TaskError::Refused(PoolError::Closed)) => {}
///     other => panic!("{other:?}"),
/// }
/// pool.join()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolError {
    /// `processes(0)`: a pool needs a worker.
    ZeroProcesses,
    /// `chunk_size(0)`: a chunk holds at least one item.
    ZeroChunkSize,
    /// A limit of zero, such as `timeout(Duration::ZERO)`.
    ZeroLimit {
        /// The method that was called with zero.
        option: &'static str,
    },
    /// `max_tasks_per_child(0)`: a worker must be allowed at least one item.
    ZeroMaxTasksPerChild,
    /// `main` did not call [`init`](crate::init) before it made the first pool.
    NotInitialized,
    /// This process is a worker of a worker, and so on, more generations deep than any program intends, and may make no
    /// pool.
    NestedTooDeep {
        /// The generation that the workers would have had. Workers of the first process are the first generation.
        depth: u32,
        /// The last generation that is allowed.
        limit: u32,
    },
    /// A worker process could not be started.
    Start(StartError),
    /// The initializer failed in a worker.
    Initializer {
        /// The error's chain, or the panic message.
        message: String,
    },
    /// An option that needs processes was asked of a pool of threads.
    Unsupported {
        /// The method.
        option: &'static str,
        /// What cannot do it.
        by: &'static str,
    },
    /// No worker can be bound to these processors; see [`PoolBuilder::affinity`](crate::PoolBuilder::affinity).
    Affinity {
        /// The set that was asked for.
        processors: Vec<usize>,
        /// What sched_setaffinity(2) has said.
        errno: i32,
    },
    /// The finalizer cannot be sent to workers. What it fails with in a worker is logged.
    Finalizer {
        /// Why: its arguments do not serialize, or its function is in no loaded image.
        message: String,
    },
    /// The initializer took longer than its time limit, and its worker was killed.
    InitializerTimeout {
        /// The worker's process id.
        pid: u32,
        /// The limit.
        timeout: Duration,
    },
    /// `processes` is more than the system has process ids.
    TooManyProcesses {
        /// What was asked for.
        processes: usize,
        /// How many processes the system can have.
        limit: usize,
    },
    /// The worker broke the protocol and was killed.
    Protocol {
        /// What it did.
        message: String,
    },
    /// A worker could not map the memory that it shares with this process, and exited. Later workers get a socket.
    NoSharedMemory {
        /// The system's error in the worker.
        message: String,
    },
    /// A worker ended while it was starting, before it reported that it was ready.
    DiedStarting {
        /// The worker's process id.
        pid: u32,
        /// How it ended, if the system reports it.
        status: Option<ExitStatus>,
    },
    /// No worker could be started, `failures` times in a row: the pool is broken for good.
    Broken {
        /// How many starts failed in a row.
        failures: u32,
        /// The error of the last start.
        last: Box<PoolError>,
    },
    /// The pool has been closed and accepts no more tasks.
    Closed,
    /// The pool has been terminated and accepts no more tasks.
    Terminated,
    /// `join` was called before `close` or `terminate`.
    StillRunning,
    /// This `Pool` is a copy in a forked process. Only the process that made the pool can use it.
    ForkedCopy,
    /// `join` was called from one of the pool's own callbacks, and would wait for itself.
    WouldDeadlock,
    /// These processes were sent SIGKILL and have not ended in time, most likely because of an uninterruptible sleep.
    /// Empty if only a worker that is still being started is left.
    Unreaped {
        /// Their process ids.
        pids: Vec<u32>,
    },
    /// A system call that the pool needs has failed.
    System {
        /// What the pool was doing.
        doing: &'static str,
        /// The error number, as in `errno`.
        errno: i32,
    },
}

impl PoolError {
    /// The error of a system call that failed while the pool was doing this.
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| PoolError::System { doing, errno: error.raw_os_error().unwrap_or_default() }
    }

    /// Whether the system lacked processes, descriptors or memory, which other programs may give back at any time.
    pub(crate) fn is_scarcity(&self) -> bool {
        let errno = match self {
            PoolError::System { errno, .. } | PoolError::Start(StartError::System { errno, .. }) => *errno,
            _ => return false,
        };
        matches!(
            errno,
            libc::EAGAIN
                | libc::ENOMEM
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOSPC
                | libc::ETOOMANYREFS
        )
    }
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::ZeroProcesses => f.write_str("processes(0): a pool needs at least one worker process"),
            PoolError::ZeroChunkSize => f.write_str("chunk_size(0): a chunk holds at least one item"),
            PoolError::ZeroLimit { option } => {
                write!(f, "{option}(0): with a limit of zero, nothing could run; leave the option out for no limit")
            }
            PoolError::ZeroMaxTasksPerChild => f.write_str(
                "max_tasks_per_child(0): a worker must be allowed at least one item; leave the option out for no limit",
            ),
            PoolError::NotInitialized => f.write_str(
                "main() must begin with procpool::init() (in a test binary: procpool::test_init!() at the top of the \
                 file), because spawn and forkserver workers begin as a second run of this program. If it does, there \
                 may be two versions of procpool in the program (cargo tree -d): the init() of each must be called",
            ),
            PoolError::NestedTooDeep { depth, limit } => write!(
                f,
                "pools are nested too deep: workers of this one would be generation {depth} of at most {limit}; does a \
                 task make the pool that runs it? Make pools in the first process, or nest fewer"
            ),
            PoolError::Start(error) => write!(f, "cannot start a worker: {error}"),
            PoolError::Initializer { message } => write!(f, "the initializer failed in a worker: {message}"),
            PoolError::Unsupported { option, by } => write!(f, "{by} cannot do this: {option}; use processes for it"),
            PoolError::Affinity { processors, errno } => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, "no worker can be bound to processors {processors:?}: {error}")
            }
            PoolError::Finalizer { message } => write!(f, "the finalizer cannot be sent to workers: {message}"),
            PoolError::InitializerTimeout { pid, timeout } => write!(
                f,
                "the initializer of worker {pid} was still running after {timeout:?}, so the worker was killed; set a \
                 longer initializer_timeout, or find out what it waits for"
            ),
            PoolError::TooManyProcesses { processes, limit } => write!(
                f,
                "{processes} worker processes are more than this system can have: {limit} (kernel.pid_max); one for each \
                 processor is usual"
            ),
            PoolError::Protocol { message } => write!(f, "a worker broke the protocol and was killed: {message}"),
            PoolError::NoSharedMemory { message } => {
                write!(f, "a worker cannot use shared memory, so later ones will do without: {message}")
            }
            PoolError::DiedStarting { pid, status } => {
                write!(f, "worker {pid} ended before it was ready: {}", in_words(*status))
            }
            PoolError::Broken { failures, last } => {
                write!(f, "the pool is broken: {failures} workers in a row could not start; the last: {last}")
            }
            PoolError::Closed => f.write_str("the pool is closed; make a new one to run more tasks"),
            PoolError::Terminated => f.write_str("the pool was terminated; make a new one to run more tasks"),
            PoolError::StillRunning => {
                f.write_str("the pool is still running; call close() or terminate() before join()")
            }
            PoolError::ForkedCopy => f.write_str(
                "this pool belongs to the process that made it, and this is a forked copy of that process; make a new \
                 pool here",
            ),
            PoolError::WouldDeadlock => f.write_str(
                "join() from a callback of the same pool would wait for that callback; call it from another thread",
            ),
            PoolError::Unreaped { pids } if pids.is_empty() => f.write_str(
                "a worker that was being started when the pool was terminated is still starting; join again",
            ),
            PoolError::Unreaped { pids } => write!(f, "sent SIGKILL, but not ended yet: {pids:?}"),
            PoolError::System { doing, errno } => {
                write!(f, "{doing}: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// It has no `source`: the text contains the cause already. The typed cause is in [`Start`](Self::Start) and
/// [`Broken`](Self::Broken).
impl Error for PoolError {}

impl From<StartError> for PoolError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::NotInitialized => PoolError::NotInitialized,
            StartError::NestedTooDeep { depth, limit } => PoolError::NestedTooDeep { depth, limit },
            error => PoolError::Start(error),
        }
    }
}
