//! [`ProcessBuilder`]: the settings of a process that is to be started.

#![expect(unsafe_code, reason = "passes the user's own promises on")]

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use start_methods::Boot;
use start_methods::Resource;
use start_methods::StartMethod;

use super::child;
use super::error::ProcessError;
use super::handle::OnDrop;
use super::handle::Process;
use super::registry;
use super::running::Running;
use super::running::Trial;
use crate::sys::identity;
use crate::sys::start_choice::StartChoice;
use crate::transport::first_call::FirstCall;
use crate::work::function::LocalFunction;
use crate::work::shape::Star;
use crate::work::task::Args;
use crate::work::task::Data;
use crate::work::task::Outcome;

/// The settings of a process, from [`Process::builder`] to [`spawn`](Self::spawn).
///
/// Each method sets one thing and returns the builder. `spawn` checks them. A builder can be cloned, and so starts several
/// processes.
///
/// # Examples
///
/// ```
/// use procpool::StartMethod;
/// use procpool::process::{OnDrop, Process};
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let process = Process::builder()
///         .name("logger")
///         .start_method(StartMethod::Spawn)
///         .env("LANG", "C")
///         .on_drop(OnDrop::Join)
///         .spawn(("LANG".to_owned(),), |name| std::env::var(name).ok())?;
///     assert_eq!(process.join()?.as_deref(), Some("C"));
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `spawn`"]
pub struct ProcessBuilder {
    name: Option<String>,
    start: StartChoice,
    on_drop: OnDrop,
    boot: Boot<'static>,
    trial: Trial,
}

impl Process<()> {
    /// Starts the description of a process with other settings than those of [`spawn`](Self::spawn).
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::builder().name("adder").spawn((1u8, 2), |a, b| a + b)?;
    ///     assert_eq!((process.name(), process.join()?), ("adder", 3));
    ///     Ok(())
    /// }
    /// ```
    pub fn builder() -> ProcessBuilder {
        ProcessBuilder {
            name: None,
            start: StartChoice::default(),
            on_drop: OnDrop::default(),
            boot: Boot::new(child::main),
            trial: Trial::None,
        }
    }
}

impl ProcessBuilder {
    /// Sets the name of the process; by default it is numbered, see [`current`](super::current).
    ///
    /// The process finds it in [`current`](super::current), and `ps -o comm` shows its first 15 bytes. Names need not
    /// differ. Named `name` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::{self, Process};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::builder().name("logger").spawn((), || process::current().name().to_owned())?;
    ///     assert_eq!(process.join()?, "logger");
    ///     Ok(())
    /// }
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets how the process is started.
    ///
    /// The default is that of a pool: [`StartMethod::Forkserver`], or [`StartMethod::Spawn`] where no fork server can
    /// work; see [`PoolBuilder::start_method`](crate::PoolBuilder::start_method), which says when. Named
    /// `set_start_method` or `get_context` in CPython, where it is a setting of the program or of a context.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::StartMethod;
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     for method in StartMethod::ALL {
    ///         let process = Process::builder().start_method(method).spawn((2u32, 10), u32::pow)?;
    ///         assert_eq!(process.join()?, 1024);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "set_start_method")]
    pub fn start_method(mut self, start_method: StartMethod) -> Self {
        self.start.method = Some(start_method);
        self
    }

    /// Sets what becomes of the process when its handle is dropped; [`OnDrop::Terminate`] by default.
    ///
    /// Named `daemon` in CPython, where the default corresponds to [`OnDrop::Join`].
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::{OnDrop, Process};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let folder = tempfile::tempdir()?;
    ///     let file = folder.path().join("done");
    ///     let write: fn(std::path::PathBuf) -> anyhow::Result<()> = |file| Ok(std::fs::write(file, "done")?);
    ///     drop(Process::builder().on_drop(OnDrop::Join).spawn((file.clone(),), write)?);
    ///     assert_eq!(std::fs::read_to_string(file)?, "done");
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "daemon")]
    pub fn on_drop(mut self, on_drop: OnDrop) -> Self {
        self.on_drop = on_drop;
        self
    }

    /// Makes the process run the program at `path`, which must be a copy of this one; see
    /// [`PoolBuilder::executable`](crate::PoolBuilder::executable). Named `set_executable` in CPython.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::builder().executable(std::env::current_exe()?).spawn((2u32, 10), u32::pow)?;
    ///     assert_eq!(process.join()?, 1024);
    ///     Ok(())
    /// }
    /// ```
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.start.executable = Some(path.into());
        self
    }

    /// Sets a variable in the environment of the process; see [`PoolBuilder::env`](crate::PoolBuilder::env), also for what
    /// it inherits.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::builder().env("LANG", "C").spawn((), || std::env::var("LANG").ok())?;
    ///     assert_eq!(process.join()?.as_deref(), Some("C"));
    ///     Ok(())
    /// }
    /// ```
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.boot = self.boot.env(name, value);
        self
    }

    /// Removes a variable from the environment of the process, whether inherited or [set](Self::env) before.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::builder().env_remove("HOME").spawn((), || std::env::var_os("HOME").is_some())?;
    ///     assert!(!process.join()?);
    ///     Ok(())
    /// }
    /// ```
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.boot = self.boot.env_remove(name);
        self
    }

    /// Empties the environment of the process; it then has only what is [set](Self::env) after this.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let count = || std::env::vars_os().count();
    ///     assert_eq!(Process::builder().env_clear().env("LANG", "C").spawn((), count)?.join()?, 1);
    ///     Ok(())
    /// }
    /// ```
    pub fn env_clear(mut self) -> Self {
        self.boot = self.boot.env_clear();
        self
    }

    /// Sets the directory in which the process begins. A relative path is resolved at once.
    ///
    /// [`spawn`](Self::spawn) then waits until the process is there, and fails with [`StartError::Directory`] if it cannot
    /// enter the directory. Without this, it begins in the directory that this process has at the start, or with
    /// forkserver that it had when the server was started.
    ///
    /// [`StartError::Directory`]: crate::StartError::Directory
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::StartError;
    /// use procpool::process::{Process, ProcessError};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let exists = || std::path::Path::new("passwd").exists();
    ///     assert!(Process::builder().current_dir("/etc").spawn((), exists)?.join()?);
    ///
    ///     let error = Process::builder().current_dir("/no/such/place").spawn((), exists).unwrap_err();
    ///     assert!(matches!(error, ProcessError::Start(StartError::Directory { .. })));
    ///     Ok(())
    /// }
    /// ```
    pub fn current_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.boot = self.boot.current_dir(path);
        self.trial = Trial::Settings;
        self
    }

    /// Limits a resource of the process: setrlimit(2). Which there are, what they do, and how `soft` and `hard` differ, is
    /// said by [`PoolBuilder::rlimit`](crate::PoolBuilder::rlimit).
    ///
    /// [`spawn`](Self::spawn) then waits until the process is there, and fails with [`StartError::Limit`] if it may not
    /// have the limit. What the kernel does to a process at its limit is a [`ProcessError::Died`].
    ///
    /// [`StartError::Limit`]: crate::StartError::Limit
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Limit;
    /// use procpool::process::{Process, ProcessError};
    ///
    /// fn spin() {
    ///     loop {}
    /// }
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::builder().rlimit(Limit::CpuTime, 1, None).spawn((), spin)?;
    ///     assert!(matches!(process.join(), Err(ProcessError::Died { .. })));
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "setrlimit")]
    pub fn rlimit(mut self, limit: Resource, soft: u64, hard: Option<u64>) -> Self {
        self.boot = self.boot.rlimit(limit, soft, hard);
        self.trial = Trial::Settings;
        self
    }

    /// Forks even while this process has other threads. For [`StartMethod::Fork`] only.
    ///
    /// Without it, [`spawn`](Self::spawn) refuses to fork in a process with threads that this crate did not start.
    ///
    /// # Safety
    ///
    /// As for [`PoolBuilder::fork_despite_threads`](crate::PoolBuilder::fork_despite_threads): the caller promises that
    /// the function, and nothing that it calls, waits for a lock that another thread held at the fork.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::StartMethod;
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let _thread = std::thread::spawn(std::thread::park);
    ///     let builder = Process::builder().start_method(StartMethod::Fork);
    ///     // SAFETY: the other thread sleeps and holds no lock.
    ///     let process = unsafe { builder.fork_despite_threads() }.spawn((2u32, 10), u32::pow)?;
    ///     assert_eq!(process.join()?, 1024);
    ///     Ok(())
    /// }
    /// ```
    pub unsafe fn fork_despite_threads(mut self) -> Self {
        // SAFETY: the caller makes this very promise.
        unsafe { self.start.allow_despite_threads(StartMethod::Fork) };
        self
    }

    /// Lets a fork server, which this process then has for itself, fork even while other threads exist in the server. For
    /// [`StartMethod::Forkserver`] only; see
    /// [`PoolBuilder::forkserver_despite_threads`](crate::PoolBuilder::forkserver_despite_threads).
    ///
    /// # Safety
    ///
    /// As for [`fork_despite_threads`](Self::fork_despite_threads), for the threads of the fork server.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::StartMethod;
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     let _thread = std::thread::spawn(std::thread::park); // In the server too: it runs `main` up to `init`.
    ///     procpool::init();
    ///     let builder = Process::builder().start_method(StartMethod::Forkserver);
    ///     // SAFETY: the other thread sleeps and holds no lock.
    ///     let process = unsafe { builder.forkserver_despite_threads() }.spawn((2u32, 10), u32::pow)?;
    ///     assert_eq!(process.join()?, 1024);
    ///     Ok(())
    /// }
    /// ```
    pub unsafe fn forkserver_despite_threads(mut self) -> Self {
        // SAFETY: the caller makes this very promise.
        unsafe { self.start.allow_despite_threads(StartMethod::Forkserver) };
        self
    }

    /// Starts a process that calls `f` with `args`, a tuple; see [`Process::spawn`].
    ///
    /// # Errors
    ///
    /// As for [`Process::spawn`]; and [`ProcessError::Start`] if a setting is refused.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let squares = Process::builder().name("squares");
    ///     let processes = (1..4u32).map(|x| squares.clone().spawn((x, 2), u32::pow)).collect::<Result<Vec<_>, _>>()?;
    ///     let sum: u32 = processes.iter().map(|process| process.join()).sum::<Result<_, _>>()?;
    ///     assert_eq!(sum, 14);
    ///     Ok(())
    /// }
    /// ```
    pub fn spawn<T, O, M>(self, args: T, f: T::Fp<O>) -> Result<Process<O::Value>, ProcessError>
    where
        T: Args + Data,
        O: Outcome<M>,
        M: 'static,
    {
        let call = FirstCall::new(LocalFunction::task::<Star<T, O>, M>(f), &args)?;
        // What the arguments hold is the process's alone, as soon as they are on their way.
        drop(args);
        let Self { name, start, on_drop, boot, trial } = self;
        let born = identity::here().child(name);
        let running = Arc::new(Running::start(start.starter()?, &boot, born, &call, trial)?);
        registry::add(&running);
        Ok(Process::new(running, on_drop))
    }
}
