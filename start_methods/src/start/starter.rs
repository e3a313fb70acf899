//! The front: a start method, ready to be used many times.
//!
//! # Invariants
//!
//! - Nothing is started before it is certain that a re-executed `main` would call `init()`.
//! - A starter that was copied by a fork shares nothing with the original: its template, or its
//!   server, is the other process's.

use std::fmt;
use std::path::PathBuf;

use crate::birth::boot::Boot;
use crate::birth::entry;
use crate::child::child::Child;
use crate::error::StartError;
use crate::method::StartMethod;
use crate::start::fork;
use crate::start::fork::Births;
use crate::start::forkserver;
use crate::start::forkserver::Asked;
use crate::start::forkserver::Server;
use crate::start::forkserver::Slot;
use crate::start::spawn;
use crate::sys::calls;
use crate::sys::process::PerProcess;
use crate::sys::threads::ForeignThreads;

/// Starts processes by one method.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, StartMethod, Starter};
///
/// fn seven(_: Birth) -> u8 {
///     7
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     start_methods::init();
///     let starter = Starter::new(StartMethod::Spawn)?;
///     let child = starter.start(&Boot::new(seven))?;
///     assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(7));
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Starter {
    method: StartMethod,
    foreign: ForeignThreads,
    executable: Option<PathBuf>,
    /// The template of a settled fork starter, or the server of a starter with its own executable.
    own_server: PerProcess<Slot>,
}

impl Starter {
    /// Makes ready to start processes by `method`. Starts none.
    ///
    /// # Errors
    ///
    /// [`StartError::NotInitialized`] for spawn and forkserver, when `main` has not called
    /// [`init`](crate::init); [`StartError::System`] with EPERM for those two, when this program
    /// runs with more rights than its caller's (set-user-id).
    pub fn new(method: StartMethod) -> Result<Self, StartError> {
        Self::with(method, ForeignThreads::Refuse)
    }

    /// A starter that forks even while other threads run.
    ///
    /// # Safety
    ///
    /// The child has one thread, and every lock that another thread held at the moment of the fork
    /// stays held in it: forked children may wait for ever on a lock another thread held. The
    /// caller promises that neither the entry nor anything it calls needs such a lock (the heap of
    /// glibc is the exception: it is usable after fork(2)). If the boot changes the environment,
    /// the child takes the lock of the environment even before its entry; a child that waits there
    /// says no hello, and [`Child::wait_hello`](crate::Child::wait_hello) gives it up in time.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    #[expect(unsafe_code, reason = "the caller must promise what no check of this crate can find out")]
    pub unsafe fn fork_despite_threads() -> Result<Self, StartError> {
        Self::with(StartMethod::Fork, ForeignThreads::Tolerate)
    }

    fn with(method: StartMethod, foreign: ForeignThreads) -> Result<Self, StartError> {
        // Asked for fork too: a re-executed child must never get any further than this.
        let initialized = entry::check_initialized();
        if !initialized && method != StartMethod::Fork {
            return Err(StartError::NotInitialized);
        }
        if method != StartMethod::Fork && calls::is_secure_execution() {
            // Its children would not believe their environment, and run main instead.
            let doing = "executing a set-user-id program as its own child";
            return Err(StartError::System { doing, errno: libc::EPERM });
        }
        Ok(Self { method, foreign, executable: None, own_server: PerProcess::new() })
    }

    /// Executes the program at `path` instead of this one, which it must be a copy of: another
    /// build refuses to run.
    ///
    /// For programs that cannot execute /proc/self/exe, because it is a loader or an emulator. With
    /// forkserver, this starter gets a server of its own. Fork executes nothing.
    #[must_use]
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = Some(path.into());
        self
    }

    /// The method given to [`new`](Self::new).
    #[must_use]
    pub fn method(&self) -> StartMethod {
        self.method
    }

    /// Starts a process. Returns as soon as it exists: whether it came up is told by
    /// [`Child::wait_hello`].
    ///
    /// # Errors
    ///
    /// [`StartError::ForeignThreads`] for fork; [`StartError::BootTooLarge`],
    /// [`StartError::NestedTooDeep`], [`StartError::FunctionNotFound`] and
    /// [`StartError::Environment`] for what `boot` asks, and [`StartError::Directory`] for a path that
    /// is too long or empty;
    /// [`StartError::Forkserver`], [`StartError::Preload`] and [`StartError::TemplateDied`] for the
    /// server in between; [`StartError::System`] when the system says no.
    pub fn start(&self, boot: &Boot<'_>) -> Result<Child, StartError> {
        self.several().start(boot)
    }

    /// Starts several processes, one after the other, that do not wait for each other.
    #[must_use]
    pub fn several(&self) -> Starts<'_> {
        Starts { starter: self, births: None }
    }

    /// For fork: keeps the state of this moment. All later starts of this starter are forked from a
    /// *template*, a copy of this process as it is now; foreign threads may be started after this.
    ///
    /// Does nothing the second time, and nothing for the other methods.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn settle(&self) -> Result<(), StartError> {
        let mut starts = self.several();
        starts.settle()?;
        starts.finish()
    }

    /// Where the server is, or will be, that starts processes for this starter: of its own, or shared with others.
    fn slot(&self) -> &Slot {
        match (self.method, &self.executable) {
            (StartMethod::Forkserver, None) => forkserver::shared(),
            _ => self.own_server.get(),
        }
    }

    /// Tells the template, or the server that is this starter's own, to end, and does not wait for that: dropping the
    /// starter does. Processes that they have started live on.
    ///
    /// Does nothing while a start is under way, and nothing for starters that have neither.
    pub fn dismiss(&self) {
        self.own_server.get().dismiss();
    }
}

/// Several starts, one after the other, that do not wait for each other; made by [`Starter::several`].
///
/// A child that was forked needs a moment to let go of what it has inherited, by which the kernel tells others that
/// this process has died. [`Starter::start`] waits for that. Here, all wait together: in [`finish`](Self::finish), or
/// when this is dropped. Until then, if this process is killed while one of the children is
/// stopped by a signal, the others live on as long as that one.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, StartMethod, Starter};
///
/// fn seven(_: Birth) -> u8 {
///     7
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     start_methods::init();
///     let starter = Starter::new(StartMethod::Spawn)?;
///     let mut starts = starter.several();
///     let children = [starts.start(&Boot::new(seven))?, starts.start(&Boot::new(seven))?];
///     starts.finish()?;
///     for child in children {
///         assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(7));
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Starts<'a> {
    starter: &'a Starter,
    births: Option<Births>,
}

impl Starts<'_> {
    /// As [`Starter::start`].
    ///
    /// # Errors
    ///
    /// As for [`Starter::start`].
    pub fn start(&mut self, boot: &Boot<'_>) -> Result<Child, StartError> {
        // It is looked at before anything is made for it.
        Order { starter: self.starter, births: &mut self.births, asked: None }.start(boot)
    }

    /// Orders a process that is to be told in a moment what it is: a fork server, or a template, if there is one, makes
    /// it meanwhile.
    ///
    /// Nobody else can order one from the same server before this order is served, or dropped.
    #[must_use]
    pub fn order(&mut self) -> Order<'_> {
        let starter = self.starter;
        let asked = match starter.method {
            StartMethod::Fork | StartMethod::Forkserver => starter.slot().ask(),
            StartMethod::Spawn => None,
        };
        Order { starter, births: &mut self.births, asked }
    }

    /// As [`Starter::settle`], but does not wait until the template serves.
    ///
    /// # Errors
    ///
    /// As for [`Starter::start`].
    pub fn settle(&mut self) -> Result<(), StartError> {
        let starter = self.starter;
        match starter.method {
            StartMethod::Fork => {
                starter.own_server.get().fill(|| Server::fork_template(starter.foreign, births(&mut self.births)?))
            }
            StartMethod::Spawn | StartMethod::Forkserver => Ok(()),
        }
    }

    /// Waits until all have let go of what was this process's, and until the template serves, if there is one.
    ///
    /// # Errors
    ///
    /// That the template does not come up.
    pub fn finish(self) -> Result<(), StartError> {
        drop(self.births);
        match self.starter.method {
            StartMethod::Fork => self.starter.own_server.get().wait_until_ready(),
            StartMethod::Spawn | StartMethod::Forkserver => Ok(()),
        }
    }
}

/// A process that has been ordered, and will be told what it is; made by [`Starts::order`]. Dropping it gives the
/// process up.
///
/// While it lives, its thread must do nothing else with the server that it is from: that would wait for ever. All
/// starters by forkserver that have no executable of their own share one, and so do [`forkserver`](crate::forkserver)'s
/// functions.
pub struct Order<'a> {
    starter: &'a Starter,
    births: &'a mut Option<Births>,
    asked: Option<Asked<'a>>,
}

impl Order<'_> {
    /// As [`Starter::start`].
    ///
    /// # Errors
    ///
    /// As for [`Starter::start`].
    pub fn start(self, boot: &Boot<'_>) -> Result<Child, StartError> {
        let Self { starter, births: pipe, asked } = self;
        let executable = starter.executable.as_deref();
        match starter.method {
            StartMethod::Fork => match starter.slot().start_from_template(asked, boot) {
                Some(result) => result,
                None => fork::start(boot, starter.foreign, births(pipe)?),
            },
            StartMethod::Spawn => spawn::start(boot, StartMethod::Spawn, executable),
            StartMethod::Forkserver => starter.slot().start(asked, boot, executable),
        }
    }
}

impl fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("starter", self.starter).field("is_under_way", &self.asked.is_some()).finish()
    }
}

/// The pipe for the births of one [`Starts`], created before the first fork.
fn births(pipe: &mut Option<Births>) -> Result<&Births, StartError> {
    // Initializes the cell before the fork. Were another thread of a `fork_despite_threads` parent inside the
    // initialization at that moment, the child would wait for it for ever.
    forkserver::shared();
    match pipe {
        Some(births) => Ok(births),
        none => Ok(none.insert(Births::new()?)),
    }
}

const _: () = {
    const fn is_shareable<T: Send + Sync>() {}
    is_shareable::<Starter>();
    is_shareable::<Child>();
    is_shareable::<crate::sys::socket::Socket>();
};

/// Starts one process by `method`: [`Starter::new`] and [`Starter::start`].
///
/// # Errors
///
/// As for both.
pub fn start(method: StartMethod, boot: &Boot<'_>) -> Result<Child, StartError> {
    Starter::new(method)?.start(boot)
}
