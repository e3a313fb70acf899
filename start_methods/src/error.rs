//! What can go wrong while a process is brought into the world, told so that the reader can act.
//!
//! # Invariants
//!
//! - Context is fields, not formatted text; `Display` is a lower-case fragment that says what to do.
//! - The type is `Clone`: one failure may have to be told to many waiting callers.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::exit::Exit;

/// Why a process could not be started, or did not come up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// `init()` was not called at the beginning of `main`, so a re-executed copy of this program
    /// would run `main` instead of the entry.
    NotInitialized,
    /// fork(2) was refused, because threads that may hold locks would not exist in the child.
    ForeignThreads {
        /// How many threads there are besides the caller and the parked residents.
        count: usize,
    },
    /// Processes that start processes that start processes: more generations than anybody means.
    NestedTooDeep {
        /// The generation the new process would have had.
        depth: u32,
        /// The last generation that is allowed.
        limit: u32,
    },
    /// The payload has too many bytes, or there are too many descriptors, for the one boot message.
    BootTooLarge {
        /// What was asked for.
        len: usize,
        /// What is possible.
        limit: usize,
    },
    /// A system call failed.
    System {
        /// What was being done, to complete the sentence "… failed".
        doing: &'static str,
        /// The error number.
        errno: i32,
    },
    /// The new process looked at what it was to do and said no.
    Refused {
        /// In its own words.
        reason: String,
    },
    /// The new process did not say hello in time and was killed.
    HelloTimeout {
        /// Its process id.
        pid: u32,
        /// How long it was given.
        timeout: Duration,
    },
    /// The new process ended before it said hello.
    DiedBeforeHello {
        /// Its process id.
        pid: u32,
        /// How it ended.
        exit: Exit,
    },
    /// The new process sent something that is neither hello nor a refusal.
    Protocol {
        /// What was wrong with it.
        detail: String,
    },
    /// The fork server failed, and so did the one started in its place.
    Forkserver {
        /// What happened to the second one.
        detail: String,
    },
    /// The fork server is running already, so it is too late to tell it what to preload.
    AlreadyRunning {
        /// Its process id.
        pid: u32,
    },
    /// The function is in no loaded image (code made at run time?), so it has no name in another process.
    FunctionNotFound {
        /// Where it is in this process.
        address: usize,
    },
    /// The template process, forked by `settle()`, has died; the state it preserved is lost.
    TemplateDied,
    /// A preload function of the fork server panicked, or left the server unfit to fork.
    Preload {
        /// The panic's message, or what is unfit.
        message: String,
    },
}

impl StartError {
    /// For `map_err`: a failed system call, and what it was for.
    pub(crate) fn system(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::System { doing, errno: error.raw_os_error().unwrap_or(libc::EPROTO) }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInitialized => f.write_str(
                "main() must begin with init(): spawn and forkserver execute this program again, \
                 and init() is where the new process leaves main()",
            ),
            Self::ForeignThreads { count } => write!(
                f,
                "fork was refused: {count} other thread(s) of this process may hold locks that \
                 would stay locked in the child for ever; fork before starting threads, or use \
                 spawn or forkserver"
            ),
            Self::NestedTooDeep { depth, limit } => write!(
                f,
                "processes are nested too deep: this one would be generation {depth} of at most \
                 {limit}; does the child start what the parent starts?"
            ),
            Self::BootTooLarge { len, limit } => write!(
                f,
                "the boot message is too large: {len} of at most {limit}; send the rest over the \
                 control socket"
            ),
            Self::System { doing, errno } => write_system(f, doing, *errno),
            Self::Refused { reason } => write!(f, "the new process refused to run: {reason}"),
            Self::HelloTimeout { pid, timeout } => write!(
                f,
                "process {pid} did not say hello within {timeout:?} and was killed: does main() \
                 do something else before init(), or was it forked while a thread held a lock?"
            ),
            Self::DiedBeforeHello { pid, exit } => write!(
                f,
                "process {pid} ended before it said hello ({exit}): does main() return before \
                 init()?"
            ),
            Self::Protocol { detail } => {
                write!(f, "the new process does not speak our protocol: {detail}")
            }
            Self::Forkserver { detail } => {
                write!(f, "the fork server failed twice: {detail}; look at its standard error, or use spawn")
            }
            Self::AlreadyRunning { pid } => write!(
                f,
                "the fork server is already running as process {pid}: call preload() before the \
                 first start, or forkserver::stop() first"
            ),
            Self::FunctionNotFound { address } => write!(
                f,
                "the function at {address:#x} is in no loaded image, so another process cannot \
                 find it"
            ),
            Self::TemplateDied => f.write_str(
                "the template process of this starter has died, and the state it kept with it; \
                 make a new Starter",
            ),
            Self::Preload { message } => {
                write!(f, "a preload function failed in the fork server: {message}")
            }
        }
    }
}

impl std::error::Error for StartError {}

fn write_system(f: &mut fmt::Formatter<'_>, doing: &str, errno: i32) -> fmt::Result {
    let advice = match errno {
        libc::EMFILE => "; raise the limit of open files (ulimit -n) or close some",
        libc::ENFILE => "; the whole system is out of open files (sysctl fs.file-max)",
        libc::EAGAIN => "; the limit of processes is reached (ulimit -u, or pids.max of the cgroup)",
        libc::ENOMEM => "; there is not enough memory: spawn and forkserver need less than fork",
        libc::E2BIG => "; the arguments and the environment are too large to execute a program",
        _ => "",
    };
    write!(f, "{doing} failed: {}{advice}", io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_descriptor_table_comes_with_advice() {
        let error = StartError::system("making a pipe")(io::Error::from_raw_os_error(libc::EMFILE));

        let text = error.to_string();

        assert!(text.starts_with("making a pipe failed: "), "{text}");
        assert!(text.contains("ulimit -n"), "{text}");
    }
}
