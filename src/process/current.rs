//! What a process knows of itself: `current`, and of its children: `active`.

use super::registry;
use crate::sys::identity;
use crate::sys::identity::Identity;
use crate::sys::identity::Named;

/// The id and the name of a process.
///
/// # Examples
///
/// ```
/// use procpool::process;
///
/// let main = process::current();
/// assert_eq!((main.pid(), main.name()), (std::process::id(), "MainProcess"));
/// assert!(main.parent().is_none(), "this crate has not started it");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pid: u32,
    name: String,
}

impl Info {
    /// Its process id.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::{self, Process};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let parent = Process::spawn((), || process::current().parent().map(|parent| parent.pid()))?.join()?;
    ///     assert_eq!(parent, Some(std::process::id()));
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its name.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::{self, Process};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let names = || {
    ///         let current = process::current();
    ///         (current.name().to_owned(), current.parent().map(|parent| parent.name().to_owned()))
    ///     };
    ///     let (own, parents) = Process::spawn((), names)?.join()?;
    ///     assert_eq!((own.as_str(), parents.as_deref()), ("Process-1", Some("MainProcess")));
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The process in which this is called: `current_process` in CPython.
///
/// # Examples
///
/// ```
/// let current = procpool::process::current();
/// println!("{} ({})", current.name(), current.pid());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Current(&'static Identity);

/// The process in which this is called.
///
/// Its name is `MainProcess`, unless this crate has started it. In a [`Process`](super::Process) it is the one that was
/// chosen with [`name`](super::ProcessBuilder::name), or `Process-1`, `Process-2`, … in the order in which its parent
/// started them, and `Process-1:2` for the second child of `Process-1`. In a worker of a pool it is the name of the pool
/// with the worker's number, `procpool-0`, as `ps` shows it, and `procpool-0:1` is the first process that this worker
/// starts. CPython says `ForkPoolWorker-1` there, and calls child processes of a worker as those of any process.
///
/// A copy that a function makes with fork(2) itself keeps the name.
///
/// Named `current_process` in CPython.
///
/// # Examples
///
/// ```
/// use procpool::Pool;
/// use procpool::process;
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     assert_eq!(process::current().name(), "MainProcess");
///     let pool = Pool::builder().processes(1).name("resize").build()?;
///     assert_eq!(pool.apply((), || process::current().name().to_owned())?, "resize-0");
///     Ok(())
/// }
/// ```
#[doc(alias = "current_process")]
#[must_use]
pub fn current() -> Current {
    Current(identity::here())
}

impl Current {
    /// Its process id.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(procpool::process::current().pid(), std::process::id());
    /// ```
    #[must_use]
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Its name; see [`current`].
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(procpool::process::current().name(), "MainProcess");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// The process that started this one; `None` in a program that this crate has not started.
    ///
    /// That is the process in which [`spawn`](super::Process::spawn), or the pool, was called, also where a fork server
    /// has made this one. It lives: this process ends with it.
    ///
    /// Named `parent_process` in CPython, where it may be found dead.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::{self, Process};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let parent = || process::current().parent().map(|parent| (parent.pid(), parent.name().to_owned()));
    ///     let told = Process::spawn((), parent)?.join()?;
    ///     assert_eq!(told, Some((std::process::id(), "MainProcess".to_owned())));
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "parent_process")]
    #[must_use]
    pub fn parent(&self) -> Option<Info> {
        self.0.parent().map(|Named { pid, name }| Info { pid: *pid, name: name.clone() })
    }
}

/// The processes that this one has started with [`Process`](super::Process) and that have not ended, detached ones
/// included. Reaps those that have.
///
/// Workers of pools are not among them: [`Pool::pids`](crate::Pool::pids) has those. Named `active_children` in CPython.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use procpool::process::{self, Process};
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let process = Process::builder().name("sleeper").spawn((Duration::from_secs(1000),), std::thread::sleep)?;
///     let names: Vec<String> = process::active().iter().map(|child| child.name().to_owned()).collect();
///     assert_eq!(names, ["sleeper"]);
///     drop(process);
///     assert!(process::active().is_empty());
///     Ok(())
/// }
/// ```
#[doc(alias = "active_children")]
#[must_use]
pub fn active() -> Vec<Info> {
    let living = registry::living();
    living.iter().map(|running| Info { pid: running.child().pid(), name: running.name().to_owned() }).collect()
}
