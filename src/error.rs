//! The two errors of the crate. This file imports nothing else of ours.
//!
//! They are two types because two different people read them. A [`TaskError`] is *data*: it comes back in the place
//! of one result, and the rest of the job goes on. A [`PoolError`] is the answer to a call on the
//! [`Pool`](crate::Pool) itself. Where a pool cannot take a task at all, the handle of that task says so with
//! [`TaskError::Refused`], so that a submission never needs a second way to fail.

use std::error::Error;
use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use start_methods::StartError;

/// What a task returned as `Err` through `anyhow::Result`: the analogue of an exception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The whole chain of causes, outermost first, joined by `": "`.
    pub message: String,
    /// The worker that ran the task.
    pub pid: u32,
}

/// A panic inside a task: what the worker saw of it. The worker itself lives on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    /// The panic message; `"Box<dyn Any>"` when the payload was not text.
    pub message: String,
    /// `file:line:column` of the panic, when the panic hook was ours to see it.
    pub location: Option<String>,
    /// The name of the thread that panicked, when it has one.
    pub thread: Option<String>,
    /// The backtrace, when `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` asked the worker for one.
    pub backtrace: Option<String>,
    /// The worker that ran the task.
    pub pid: u32,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panic in worker {}: {}", self.pid, self.message)?;
        if let Some(location) = &self.location {
            write!(f, ", at {location}")?;
        }
        if let Some(backtrace) = &self.backtrace {
            write!(f, "\n{backtrace}")?;
        }
        Ok(())
    }
}

/// The message of a value that would have overflowed the stack of the thread that was to read or write it.
pub(crate) const TOO_DEEP: &str = "it is nested too deeply for the stack of the thread that reads or writes it; use a \
                                   thread with a larger stack, or a type that is flatter";

/// Which value could not be turned into bytes, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The argument of the task, on its way to the worker.
    Argument,
    /// The result of the task, on its way back.
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
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TaskError {
    /// The task returned `Err` (an `anyhow::Result`).
    Failed(Failure),
    /// The task panicked. Its worker lives on.
    Panicked(Panic),
    /// The worker was gone before it answered.
    WorkerDied {
        /// The worker's process id.
        pid: u32,
        /// How it ended, when the system lets us know.
        status: Option<ExitStatus>,
        /// Whether the worker had taken the item up. What it had not taken up has had no effect, and runs elsewhere.
        started: bool,
        /// How many workers have died while they ran this item: more than one only if the call asks for
        /// [`retries`](crate::Pool::retries).
        attempts: u32,
        /// The panic that aborted the worker, when it could still be reported
        /// (builds with `panic = "abort"`, a panic while panicking).
        panic: Option<Box<Panic>>,
    },
    /// The item had run for the [`timeout`](crate::Pool::timeout) of its call, and its worker was killed for that. No
    /// other item is the worse for it.
    TimedOut {
        /// The worker's process id.
        pid: u32,
        /// How long it was allowed to run.
        timeout: Duration,
    },
    /// The call was [cancelled](crate::AsyncResult::cancel) before the item had an answer. If it was running, its
    /// worker was killed for that.
    Cancelled,
    /// A value could not be serialized. The worker and the other items are unharmed.
    Encode {
        /// Which value.
        side: Side,
        /// What serde said.
        message: String,
    },
    /// A value could not be deserialized on the other side. The worker and the other items are unharmed.
    Decode {
        /// Which value.
        side: Side,
        /// What serde said.
        message: String,
    },
    /// The function given is in no loaded image of this program, or not in the worker's.
    FunctionNotFound {
        /// Which address or image, and why it was not accepted.
        message: String,
    },
    /// The input iterator panicked when it was asked for this item. No further items were drawn from it.
    Input {
        /// The panic message.
        message: String,
    },
    /// Not run: another item of this fail-fast call had failed before this one was handed out.
    Skipped,
    /// The pool was terminated or dropped before the item was done.
    Terminated,
    /// The pool did not take the item.
    Refused(PoolError),
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Failed(failure) => write!(f, "task failed: {}", failure.message),
            TaskError::Panicked(panic) => write!(f, "{panic}"),
            TaskError::WorkerDied { pid, status, started, attempts, panic } => {
                match started {
                    true => write!(f, "worker {pid} died while it ran this item: ")?,
                    false => write!(f, "worker {pid} died before it began this item: ")?,
                }
                match status {
                    Some(status) => write!(f, "{status}")?,
                    None => f.write_str("exit status unknown")?,
                }
                if *attempts > 1 {
                    write!(f, "; {attempts} workers have died of it")?;
                }
                match panic {
                    Some(panic) => write!(f, " ({panic})"),
                    None => Ok(()),
                }
            }
            TaskError::TimedOut { pid, timeout } => {
                write!(f, "this item did not end within {timeout:?}, and worker {pid} was killed for that")
            }
            TaskError::Cancelled => f.write_str("the call was cancelled before this item was done"),
            TaskError::Encode { side, message } => {
                write!(f, "{side} does not serialize: {message}")
            }
            TaskError::Decode { side, message } if message == TOO_DEEP => {
                write!(f, "{side} does not deserialize: {message}")
            }
            TaskError::Decode { side, message } => write!(
                f,
                "{side} does not deserialize: {message}; its Serialize and Deserialize must agree on a \
                 format that does not describe itself (no skip_serializing_if, untagged or flatten)"
            ),
            TaskError::FunctionNotFound { message } => {
                write!(f, "the function cannot be sent to a worker: {message}")
            }
            TaskError::Input { message } => write!(f, "the input iterator panicked: {message}"),
            TaskError::Skipped => f.write_str("not run: another item of this fail-fast call failed first"),
            TaskError::Terminated => f.write_str("the pool was terminated before this item was done"),
            TaskError::Refused(error) => write!(f, "the pool did not take the task: {error}"),
        }
    }
}

impl Error for TaskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TaskError::Refused(error) => Some(error),
            _ => None,
        }
    }
}

impl From<PoolError> for TaskError {
    fn from(error: PoolError) -> Self {
        TaskError::Refused(error)
    }
}

/// Why a call on the pool was not carried out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolError {
    /// `processes(0)`: a pool needs a worker.
    ZeroProcesses,
    /// `chunk_size(0)`: a chunk holds at least one item.
    ZeroChunkSize,
    /// A limit of nothing, such as `timeout(Duration::ZERO)`.
    ZeroLimit {
        /// The method that was called with it.
        option: &'static str,
    },
    /// `max_tasks_per_child(0)`: a worker must be allowed one item.
    ZeroMaxTasksPerChild,
    /// `main` did not call [`init`](crate::init) before the first pool was made.
    NotInitialized,
    /// This process is a worker of a worker of a worker, and so on, and may make no pool: more generations than anybody
    /// means.
    NestedTooDeep {
        /// The generation that the workers would have had; those of the first process are the first.
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
    /// The worker broke the protocol and was killed.
    Protocol {
        /// What it did.
        message: String,
    },
    /// A worker could not use the memory that it shares with this process, and left; later workers get a socket.
    NoSharedMemory {
        /// What the worker's system said.
        message: String,
    },
    /// A worker ended while it was starting, before it had said that it was ready.
    DiedStarting {
        /// The worker's process id.
        pid: u32,
        /// How it ended, when the system lets us know.
        status: Option<ExitStatus>,
    },
    /// No worker could be brought up, `failures` times in a row: the pool is broken for good.
    Broken {
        /// How many starts failed, one after the other.
        failures: u32,
        /// What the last one died of.
        last: Box<PoolError>,
    },
    /// The pool has been closed and takes no more tasks.
    Closed,
    /// The pool has been terminated and takes no more tasks.
    Terminated,
    /// `join` before `close` or `terminate`.
    StillRunning,
    /// This `Pool` is the copy that a fork left in another process; only the process that made it can use it.
    ForkedCopy,
    /// `join` from one of the pool's own callbacks would wait for itself.
    WouldDeadlock,
    /// These processes were sent SIGKILL and have not ended in time (uninterruptible sleep, most likely); none, if a
    /// start that is on its way is all that is left.
    Unreaped {
        /// Their process ids.
        pids: Vec<u32>,
    },
    /// The operating system refused something that the pool needs.
    System {
        /// What the pool was doing.
        doing: &'static str,
        /// The error number.
        errno: i32,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::ZeroProcesses => f.write_str("processes(0): a pool needs at least one worker process"),
            PoolError::ZeroChunkSize => f.write_str("chunk_size(0): a chunk holds at least one item"),
            PoolError::ZeroLimit { option } => {
                write!(f, "{option}(0): with a limit of nothing, nothing could run; leave the option out for no limit")
            }
            PoolError::ZeroMaxTasksPerChild => f.write_str(
                "max_tasks_per_child(0): a worker must be allowed at least one item; leave the option out for no limit",
            ),
            PoolError::NotInitialized => f.write_str(
                "main() must begin with procpool::init() (in a test binary: procpool::test_init!() at the top of the \
                 file), because spawn and forkserver workers begin as a second run of this program",
            ),
            PoolError::NestedTooDeep { depth, limit } => write!(
                f,
                "pools are nested too deep: workers of this one would be generation {depth} of at most {limit}; does a \
                 task make the pool that runs it? Make pools in the first process, or nest fewer"
            ),
            PoolError::Start(error) => write!(f, "cannot start a worker: {error}"),
            PoolError::Initializer { message } => write!(f, "the initializer failed in a worker: {message}"),
            PoolError::Protocol { message } => write!(f, "a worker broke the protocol and was killed: {message}"),
            PoolError::NoSharedMemory { message } => {
                write!(f, "a worker cannot use shared memory, so later ones will do without: {message}")
            }
            PoolError::DiedStarting { pid, status } => {
                write!(f, "worker {pid} ended before it was ready: ")?;
                match status {
                    Some(status) => write!(f, "{status}"),
                    None => f.write_str("exit status unknown"),
                }
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
                "a worker that was being started when the pool was terminated has not come up yet; join again",
            ),
            PoolError::Unreaped { pids } => write!(f, "sent SIGKILL, but not ended yet: {pids:?}"),
            PoolError::System { doing, errno } => {
                write!(f, "{doing}: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl Error for PoolError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            PoolError::Start(error) => Some(error),
            PoolError::Broken { last, .. } => Some(last.as_ref()),
            _ => None,
        }
    }
}

impl From<StartError> for PoolError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::NotInitialized => PoolError::NotInitialized,
            StartError::NestedTooDeep { depth, limit } => PoolError::NestedTooDeep { depth, limit },
            error => PoolError::Start(error),
        }
    }
}

/// [`next_timeout`](crate::Imap::next_timeout) has waited its time: the next result is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the next result is not there yet; ask again")
    }
}

impl Error for TimedOut {}
