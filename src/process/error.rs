//! [`ProcessError`]: why a process has no result.

use std::error::Error;
use std::fmt;
use std::io;
use std::process::ExitStatus;

use start_methods::StartError;

use crate::error::Failure;
use crate::error::Panic;
use crate::error::PoolError;
use crate::error::Side;
use crate::error::TaskError;
use crate::error::in_words;
use crate::transport::first_call::Unsendable;

/// Why a process could not be started, or has no result.
///
/// # Examples
///
/// ```
/// use anyhow::Context;
/// use procpool::process::{Process, ProcessError};
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let parse: fn(String) -> anyhow::Result<u16> = |text| text.parse().context("not a port");
///     match Process::spawn(("http".to_owned(),), parse)?.join() {
///         Err(ProcessError::Failed(failure)) => {
///             assert_eq!(failure.message, "not a port: invalid digit found in string");
///         }
///         other => panic!("{other:?}"),
///     }
///
///     match Process::spawn((7,), |code: i32| -> () { std::process::exit(code) })?.join() {
///         Err(ProcessError::Died { status, .. }) => {
///             assert_eq!(status.and_then(|status| status.code()), Some(7));
///         }
///         other => panic!("{other:?}"),
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProcessError {
    /// The function returned `Err` (an `anyhow::Result`).
    Failed(Failure),
    /// The function panicked.
    Panicked(Panic),
    /// The process ended before its function returned: it was killed, it left with `exit`, or it became another program.
    #[non_exhaustive]
    Died {
        /// Its process id.
        pid: u32,
        /// How it ended, if the system reports it.
        status: Option<ExitStatus>,
        /// The panic that aborted it, if it could still be reported (builds with `panic = "abort"`, a panic while
        /// panicking).
        panic: Option<Box<Panic>>,
    },
    /// The arguments or the result could not be serialized.
    #[non_exhaustive]
    Encode {
        /// Which value.
        side: Side,
        /// Serde's message, or why the bytes could not be stored.
        message: String,
    },
    /// The arguments or the result could not be deserialized by the receiver.
    #[non_exhaustive]
    Decode {
        /// Which value.
        side: Side,
        /// Serde's message and what to do about it, or why the bytes could not be read.
        message: String,
    },
    /// The function is in no loaded image of this program, or not in that of the process.
    #[non_exhaustive]
    FunctionNotFound {
        /// Which address or image, and why it was not accepted.
        message: String,
    },
    /// The process could not be started, or refused the settings that were asked for.
    Start(StartError),
    /// The process sent what no process of this build sends, and was killed.
    #[non_exhaustive]
    Protocol {
        /// Its process id.
        pid: u32,
        /// What it sent.
        message: String,
    },
    /// This handle is a copy in a forked process. Only the process that started the other one can use it.
    ForkedCopy,
    /// A system call has failed.
    #[non_exhaustive]
    System {
        /// What this process was doing.
        doing: &'static str,
        /// The error number, as in `errno`.
        errno: i32,
    },
}

impl ProcessError {
    /// The error of a system call that failed while this process was doing this.
    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| ProcessError::System { doing, errno: error.raw_os_error().unwrap_or_default() }
    }

    /// The error that an answer brings.
    pub(super) fn of_answer(error: TaskError) -> Self {
        match error {
            TaskError::Failed(failure) => ProcessError::Failed(failure),
            TaskError::Panicked(panic) => ProcessError::Panicked(panic),
            TaskError::Encode { side, message, .. } => ProcessError::Encode { side, message },
            TaskError::Decode { side, message, .. } => ProcessError::Decode { side, message },
            TaskError::FunctionNotFound { message, .. } => ProcessError::FunctionNotFound { message },
            other => unreachable!("an answer is no {other:?}"),
        }
    }
}

impl From<StartError> for ProcessError {
    fn from(error: StartError) -> Self {
        ProcessError::Start(error)
    }
}

impl From<Unsendable> for ProcessError {
    fn from(error: Unsendable) -> Self {
        match error {
            Unsendable::Function(message) => ProcessError::FunctionNotFound { message },
            Unsendable::Arguments(message) => ProcessError::Encode { side: Side::Argument, message },
        }
    }
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessError::Failed(Failure { message, pid, .. }) => write!(f, "process {pid} failed: {message}"),
            ProcessError::Panicked(panic) => {
                write!(f, "process {} panicked: ", panic.pid)?;
                panic.write_report(f)
            }
            ProcessError::Died { pid, status, panic } => {
                write!(f, "process {pid} ended before its function returned: {}", in_words(*status))?;
                match panic {
                    Some(panic) => {
                        f.write_str(" (panic: ")?;
                        panic.write_report(f)?;
                        f.write_str(")")
                    }
                    None => Ok(()),
                }
            }
            ProcessError::Encode { side, message } => write!(f, "{side} does not serialize: {message}"),
            ProcessError::Decode { side, message } => write!(f, "{side} does not deserialize: {message}"),
            ProcessError::FunctionNotFound { message } => {
                write!(f, "the function cannot be sent to a process: {message}")
            }
            // It names the `init` of this crate.
            ProcessError::Start(StartError::NotInitialized) => PoolError::NotInitialized.fmt(f),
            ProcessError::Start(error) => write!(f, "cannot start the process: {error}"),
            ProcessError::Protocol { pid, message } => {
                write!(f, "process {pid} broke the protocol and was killed: {message}")
            }
            ProcessError::ForkedCopy => f.write_str(
                "this handle belongs to the process that started the other one, and this is a forked copy of it; start a \
                 process here",
            ),
            ProcessError::System { doing, errno } => {
                write!(f, "{doing}: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// It has no `source`: the text contains the cause already. The typed cause is in [`Start`](Self::Start).
impl Error for ProcessError {}
