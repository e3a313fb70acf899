//! [`StartError`]: why a process could not be started.
//!
//! # Invariants
//!
//! - Context is in fields, not in formatted text. `Display` is a lower-case fragment that says what to do.
//! - The type is `Clone`: one failure may be reported to several waiting callers.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::Exit;
use crate::settings::Resource;

/// Why a process could not be started, or failed before its entry ran.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, StartError, StartMethod};
///
/// fn run(_: Birth) -> u8 {
///     0
/// }
///
/// start_methods::init();
/// let boot = Boot::new(run).env("NOT=A NAME", "value");
/// let error = start_methods::start(StartMethod::Spawn, &boot).unwrap_err();
/// assert!(matches!(error, StartError::Environment { .. }));
/// assert!(error.to_string().contains("a name must not be empty"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StartError {
    /// `init()` was not called at the beginning of `main`, so a re-executed copy of this program would run `main`
    /// instead of the entry.
    NotInitialized,
    /// fork(2) was refused: other threads may hold locks that would stay locked in the child.
    ForeignThreads {
        /// The number of threads besides the caller and the parked residents.
        count: usize,
        /// Their names, as far as they could be read; of the first 16 at most.
        names: Vec<String>,
    },
    /// The fork server refuses to fork: it has threads that it did not start, and that may hold locks which would stay
    /// locked in its children.
    ///
    /// The server is a second run of this program. So these threads were started before [`init`](crate::init): by
    /// `main`, or by a constructor of a library that this program is merely linked with.
    ServerThreads {
        /// The number of threads besides the server's own.
        count: usize,
        /// Their names, as far as they could be read; of the first 16 at most.
        names: Vec<String>,
    },
    /// [`init`](crate::init) was called inside a runtime of tokio, as `#[tokio::main]` makes it: a spawned process would run
    /// inside one too, and what blocks on a future there would panic. Fork and forkserver report the runtime's threads.
    InRuntime,
    /// Processes that start processes recursively have exceeded the limit of generations.
    NestedTooDeep {
        /// The generation that the new process would have had.
        depth: u32,
        /// The last generation allowed.
        limit: u32,
    },
    /// The payload or the settings have too many bytes for the boot message, or there are too many descriptors.
    BootTooLarge {
        /// The number of bytes or descriptors requested.
        len: usize,
        /// The maximum.
        limit: usize,
    },
    /// A system call failed.
    System {
        /// The operation that failed, to complete the sentence "… failed".
        doing: &'static str,
        /// The error number.
        errno: i32,
    },
    /// A variable with this name, or with the value given for it, cannot exist in an environment.
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
    /// The new process could not set a resource limit, and ended.
    Limit {
        /// The limited resource.
        resource: Resource,
        /// The soft limit.
        soft: u64,
        /// The hard limit; `None` if it was to stay as it is.
        hard: Option<u64>,
        /// The error number.
        errno: i32,
    },
    /// The new process found that it cannot run what the boot message describes, and ended.
    Refused {
        /// The reason, as the process gave it.
        reason: String,
    },
    /// The new process did not send its hello in time and was killed.
    HelloTimeout {
        /// Its process id.
        pid: u32,
        /// The time it was given.
        timeout: Duration,
    },
    /// The new process ended before it sent its hello.
    DiedBeforeHello {
        /// Its process id.
        pid: u32,
        /// How it ended.
        exit: Exit,
    },
    /// The new process sent a message that is neither a hello nor a refusal.
    Protocol {
        /// What is wrong with the message.
        detail: String,
    },
    /// The fork server failed, and so did its replacement.
    Forkserver {
        /// What happened to the replacement.
        detail: String,
    },
    /// The fork server is already running, so it cannot preload anything more.
    AlreadyRunning {
        /// Its process id.
        pid: u32,
    },
    /// The function is in no loaded image (generated at run time?), so another process cannot find it.
    FunctionNotFound {
        /// Its address in this process.
        address: usize,
    },
    /// The template process, forked by `settle()`, has died; the state it preserved is lost.
    TemplateDied,
    /// A preload function of the fork server panicked, or left the server in a state in which it cannot fork.
    Preload {
        /// The panic's message, or the reason why the server cannot fork.
        message: String,
    },
}

impl StartError {
    /// For `map_err`: a failed system call and what it was for.
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
                 and init() is where the new process leaves main(). If it does: are there two versions of this \
                 crate in the program (cargo tree -d)? The init() of each must be called",
            ),
            Self::ForeignThreads { count, names } => write_foreign_threads(f, Threads(*count, names)),
            Self::ServerThreads { count, names } => write_server_threads(f, Threads(*count, names)),
            Self::InRuntime => write!(
                f,
                "init() was called inside a runtime of tokio, so a spawned process would run inside one too, and what \
                 blocks on a future there would panic. {TOKIO_ADVICE}"
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
                "process {pid} did not send its hello within {timeout:?} and was killed: does main() \
                 do something else before init(), or was it forked while a thread held a lock?"
            ),
            Self::DiedBeforeHello { pid, exit } => write!(
                f,
                "process {pid} ended before it sent its hello ({exit}): does main() return before \
                 init()?"
            ),
            Self::Protocol { detail } => {
                write!(f, "the new process does not follow the protocol: {detail}")
            }
            Self::Forkserver { detail } => {
                write!(f, "the fork server failed twice: {detail}; check its standard error, or use spawn")
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
                "the template process of this starter has died, and a new one cannot be forked while \
                 this process has other threads; call settle() when it has none, use forkserver or \
                 spawn, or promise that the threads hold no lock (fork_despite_threads)",
            ),
            Self::Preload { message } => {
                write!(f, "a preload function failed in the fork server: {message}")
            }
        }
    }
}

impl std::error::Error for StartError {}

/// A number of threads, with their names.
struct Threads<'a>(usize, &'a [String]);

impl fmt::Display for Threads<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, names) = self;
        write!(f, "{count} other thread(s)")?;
        if names.is_empty() {
            return Ok(());
        }
        let dots = if *count > names.len() { ", …" } else { "" };
        let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
        write!(f, " ({}{dots})", names.join(", "))
    }
}

/// Whether threads of the runtime tokio are among these. The kernel cuts names after 15 bytes.
pub(crate) fn is_of_tokio(names: &[String]) -> bool {
    names.iter().any(|name| name.starts_with("tokio-"))
}

/// What to write in place of `#[tokio::main]`.
const TOKIO_ADVICE: &str = "\
#[tokio::main] starts its threads before the first line of main(): build the runtime after init():

    fn main() {
        init();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(run()); // What was in main() is now in `async fn run()`.
    }

or write init_before_main!() beside main()";

/// What to write where a runtime of tokio is in the way of a fork.
const TOKIO_ADVICE_FOR_FORK: &str = "\
A runtime of tokio has threads, so fork before it is built:

    fn main() {
        init();
        // Start processes, or make the pool, here.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(run()); // What was in main() is now in `async fn run()`.
    }

or use spawn or forkserver";

fn write_foreign_threads(f: &mut fmt::Formatter<'_>, threads: Threads<'_>) -> fmt::Result {
    if is_of_tokio(threads.1) {
        return write!(
            f,
            "fork was refused: {threads} of this process may hold locks that would stay locked in the child for ever. \
             {TOKIO_ADVICE_FOR_FORK}; or, if they hold no lock that the child needs, promise that with \
             fork_despite_threads()"
        );
    }
    write!(
        f,
        "fork was refused: {threads} of this process may hold locks that would stay locked in the child for ever; \
         fork before starting threads, use spawn or forkserver, or, if they hold no lock that the child needs, promise \
         that with fork_despite_threads()"
    )
}

fn write_server_threads(f: &mut fmt::Formatter<'_>, threads: Threads<'_>) -> fmt::Result {
    let advice = if is_of_tokio(threads.1) { TOKIO_ADVICE } else { "Call init() before anything starts a thread" };
    write!(
        f,
        "the fork server cannot fork: {threads} of it may hold locks that would stay locked in its children for ever. \
         The server runs this program up to init(), so they were started before init(), by main() or by a library's \
         code before main(). {advice}; or use spawn; or, if they hold no lock that a child needs, promise that with \
         forkserver_despite_threads()"
    )
}

fn write_system(f: &mut fmt::Formatter<'_>, doing: &str, errno: i32) -> fmt::Result {
    let advice = match errno {
        libc::EMFILE => "; raise the limit of open files (ulimit -n) or close some",
        libc::ENFILE => "; the whole system is out of open files (sysctl fs.file-max)",
        libc::EAGAIN => "; the limit of processes is reached (ulimit -u, or pids.max of the cgroup)",
        libc::ENOMEM => "; there is not enough memory: spawn and forkserver need less than fork",
        libc::ENOENT if doing.contains("/proc") => "; mount /proc",
        libc::ENOSYS | libc::EPERM if doing.contains("pidfd") => {
            "; this system lacks pidfds or refuses them (valgrind, gVisor, a filter of system calls): use fork, which \
             works without"
        }
        libc::E2BIG => "; the arguments and the environment are too large to execute a program",
        _ => "",
    };
    write!(f, "{doing} failed: {}{advice}", io::Error::from_raw_os_error(errno))
}

fn write_directory(f: &mut fmt::Formatter<'_>, path: &Path, errno: i32) -> fmt::Result {
    let advice = match errno {
        libc::ENOENT => "; create it first, or name another in current_dir()",
        libc::ENOTDIR => "; name a directory in current_dir()",
        libc::EACCES => "; it and its parent directories must grant search permission (chmod +x)",
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
    fn threads_are_named_with_a_way_out_for_each_method() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let of_fork = StartError::ForeignThreads { count: 3, names: names(&["jemalloc_bg_thd", "blas"]) }.to_string();
        let of_server = |names| StartError::ServerThreads { count: 1, names }.to_string();

        assert!(of_fork.contains(r#"3 other thread(s) ("jemalloc_bg_thd", "blas", …) of this process"#), "{of_fork}");
        assert!(of_fork.contains("use spawn or forkserver"), "{of_fork}");
        let beside_tokio = StartError::ForeignThreads { count: 1, names: names(&["tokio-runtime-w"]) }.to_string();
        assert!(beside_tokio.contains("make the pool, here") && beside_tokio.contains("use spawn"), "{beside_tokio}");
        let spawned = StartError::InRuntime.to_string();
        assert!(spawned.contains("runtime.block_on(run())") && spawned.contains("init_before_main!()"), "{spawned}");
        let plain = of_server(names(&["blas"]));
        assert!(plain.contains(r#"1 other thread(s) ("blas") of it"#) && plain.contains("use spawn"), "{plain}");
        assert!(plain.contains("forkserver_despite_threads()") && !plain.contains("tokio"), "{plain}");
        let tokio = of_server(names(&["tokio-runtime-w"]));
        assert!(tokio.contains("runtime.block_on(run())") && tokio.contains("init_before_main!()"), "{tokio}");
    }

    #[test]
    fn a_full_descriptor_table_comes_with_advice() {
        let error = StartError::system("making a pipe")(io::Error::from_raw_os_error(libc::EMFILE));

        let text = error.to_string();

        assert!(text.starts_with("making a pipe failed: "), "{text}");
        assert!(text.contains("ulimit -n"), "{text}");
    }

    #[test]
    fn surroundings_that_lack_something_are_named() {
        let text = |doing, errno| StartError::System { doing, errno }.to_string();

        assert!(text("executing /proc/self/exe", libc::ENOENT).ends_with("mount /proc"));
        assert!(text("counting the threads of this process in /proc", libc::ENOENT).ends_with("mount /proc"));
        assert!(text("opening a pidfd", libc::ENOSYS).contains("use fork"));
        assert!(text("opening a pidfd", libc::EPERM).contains("filter"));
    }
}
