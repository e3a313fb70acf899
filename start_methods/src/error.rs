//! What can go wrong while a process is brought into the world, told so that the reader can act.
//!
//! # Invariants
//!
//! - Context is fields, not formatted text; `Display` is a lower-case fragment that says what to do.
//! - The type is `Clone`: one failure may have to be told to many waiting callers.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::Exit;
use crate::settings::Resource;

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
    /// The payload or the settings have too many bytes, or there are too many descriptors, for the one boot message.
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
    /// No variable of an environment can have this name, or the value that it was given.
    Environment {
        /// The name.
        name: OsString,
    },
    /// The new process could not enter its directory, and ended.
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error number.
        errno: i32,
    },
    /// The new process could not have a limit, and ended.
    Limit {
        /// What was to be limited.
        resource: Resource,
        /// The soft limit.
        soft: u64,
        /// The hard limit; `None` is the one that it had.
        hard: Option<u64>,
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
        move |error| Self::System { doing, errno: errno_of(&error) }
    }
}

/// The error number of `error`; EPROTO for an error that did not come from the system.
pub(crate) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EPROTO)
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
            Self::Environment { name } => write!(
                f,
                "the variable {name:?} cannot be in an environment: a name must not be empty or \
                 contain \"=\", and neither name nor value a zero byte"
            ),
            Self::Directory { path, errno } => write_directory(f, path, *errno),
            Self::Limit { resource, soft, hard, errno } => write_limit(f, *resource, (*soft, *hard), *errno),
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

fn write_directory(f: &mut fmt::Formatter<'_>, path: &Path, errno: i32) -> fmt::Result {
    let advice = match errno {
        libc::ENOENT => "; create it first, or name another in current_dir()",
        libc::ENOTDIR => "; name a directory in current_dir()",
        libc::EACCES => "; it and those above it must give the permission to search them (chmod +x)",
        _ => "",
    };
    let error = io::Error::from_raw_os_error(errno);
    write!(f, "the new process cannot enter the directory {path:?}: {error}{advice}")
}

fn write_limit(
    f: &mut fmt::Formatter<'_>,
    resource: Resource,
    (soft, hard): (u64, Option<u64>),
    errno: i32,
) -> fmt::Result {
    let advice = match (errno, resource) {
        (libc::EPERM, Resource::OpenFiles) => {
            "; a hard limit can be raised only with CAP_SYS_RESOURCE and not above sysctl fs.nr_open: \
             ask for no more than `ulimit -Hn` shows"
        }
        (libc::EPERM, _) => {
            "; a hard limit can be raised only with CAP_SYS_RESOURCE: ask for no more than \
             `ulimit -Ha` shows"
        }
        (libc::EINVAL, _) => "; the soft limit must not be above the hard one: lower it, or give a hard limit as well",
        _ => "",
    };
    write!(f, "the new process cannot be limited to {} {resource}", shown(soft))?;
    if let Some(hard) = hard {
        write!(f, " (hard limit {})", shown(hard))?;
    }
    write!(f, ": {}{advice}", io::Error::from_raw_os_error(errno))
}

fn shown(limit: u64) -> String {
    if limit == Resource::UNLIMITED { "unlimited".to_owned() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_setting_is_named_with_its_value_and_a_way_out() {
        let directory = StartError::Directory { path: "/no where".into(), errno: libc::ENOENT }.to_string();
        let limit =
            |soft, hard, errno| StartError::Limit { resource: Resource::OpenFiles, soft, hard, errno }.to_string();

        assert!(directory.contains("\"/no where\"") && directory.contains("create it"), "{directory}");
        let raised = limit(10, Some(Resource::UNLIMITED), libc::EPERM);
        assert!(raised.contains("10 open files (hard limit unlimited)"), "{raised}");
        assert!(raised.contains("CAP_SYS_RESOURCE"), "{raised}");
        assert!(limit(10, None, libc::EINVAL).contains("give a hard limit"));
    }

    #[test]
    fn a_full_descriptor_table_comes_with_advice() {
        let error = StartError::system("making a pipe")(io::Error::from_raw_os_error(libc::EMFILE));

        let text = error.to_string();

        assert!(text.starts_with("making a pipe failed: "), "{text}");
        assert!(text.contains("ulimit -n"), "{text}");
    }
}
