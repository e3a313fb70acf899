//! [`Starter`]: a start method, ready to be used many times.
//!
//! # Invariants
//!
//! - No process is started before it is certain that a re-executed `main` would call `init()`.
//! - A starter copied by a fork shares nothing with the original: its template or server belongs to the other process.

use std::fmt;
use std::path::PathBuf;

use crate::birth::boot::Boot;
use crate::birth::entry;
use crate::child::child::Child;
use crate::error::StartError;
use crate::error::is_of_tokio;
use crate::method::StartMethod;
use crate::start::fork;
use crate::start::fork::Births;
use crate::start::forkserver;
use crate::start::forkserver::ForkRequest;
use crate::start::forkserver::Launch;
use crate::start::forkserver::Server;
use crate::start::forkserver::Slot;
use crate::start::spawn;
use crate::sys::calls;
use crate::sys::process::PerProcess;
use crate::sys::threads;
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
    choice: Choice,
    executable: Option<PathBuf>,
    /// The template of a settled fork starter, or the server of a starter with its own executable.
    own_server: PerProcess<Slot>,
}

/// Whose choice the start method is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Users,
    Ours,
}

impl Starter {
    /// A starter that uses `method`. Starts no process.
    ///
    /// # Errors
    ///
    /// - [`StartError::NotInitialized`]: for spawn and forkserver, when `main` has not called [`init`](crate::init).
    /// - [`StartError::System`] with EPERM: for spawn and forkserver, when this program runs with more rights than its
    ///   caller has (set-user-id).
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{StartError, StartMethod, Starter};
    ///
    /// assert!(matches!(Starter::new(StartMethod::Spawn), Err(StartError::NotInitialized)));
    /// start_methods::init();
    /// assert!(Starter::new(StartMethod::Spawn).is_ok());
    /// ```
    pub fn new(method: StartMethod) -> Result<Self, StartError> {
        Self::with(method, ForeignThreads::Refuse)
    }

    /// A starter that uses forkserver, or spawn where a fork server cannot work: when threads exist in it, started by
    /// code of this program that runs before [`init`](crate::init).
    ///
    /// Both give a child nothing of this process's memory, so a child does not notice the difference, unless there are
    /// [preloads](crate::forkserver::preload). With preloads it is forkserver only, and such threads are the error
    /// [`StartError::ServerThreads`].
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, StartMethod, Starter};
    ///
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let starter = Starter::automatic()?;
    /// assert_eq!(starter.method(), StartMethod::Forkserver);
    /// assert!(starter.start(&Boot::new(run))?.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn automatic() -> Result<Self, StartError> {
        let starter = Self::new(StartMethod::Forkserver)?;
        // The server would have the runtime's threads, and spawn is no way out.
        check_runtime()?;
        Ok(Self { choice: Choice::Ours, ..starter })
    }

    /// A starter that forks even while other threads run.
    ///
    /// # Safety
    ///
    /// The child has one thread. Every lock that another thread held at the fork stays locked in it, so the child may
    /// wait for it for ever. The caller promises that neither the entry nor anything that it calls needs such a lock.
    /// (The heap of glibc is an exception: it is usable after fork(2).) Such locks are in places where few expect them:
    /// that of the dynamic loader is taken by dlopen(3), by a backtrace and, before glibc 2.35, by a panic; those of std
    /// by printing, by reading and changing the environment, by a panic and by setting the panic hook. Up to the entry
    /// the child takes none of them, whatever the boot asks for.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, Starter};
    ///
    /// fn seven(_: Birth) -> u8 {
    ///     7
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     start_methods::init();
    ///     let thread = std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_millis(100)));
    ///     // SAFETY: `seven` takes no lock.
    ///     let starter = unsafe { Starter::fork_despite_threads() }?;
    ///     let child = starter.start(&Boot::new(seven))?;
    ///     assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(7));
    ///     thread.join().unwrap();
    ///     Ok(())
    /// }
    /// ```
    #[expect(unsafe_code, reason = "the caller must promise what no check of this crate can find out")]
    pub unsafe fn fork_despite_threads() -> Result<Self, StartError> {
        Self::with(StartMethod::Fork, ForeignThreads::Tolerate)
    }

    /// A starter whose fork server forks even while other threads exist in it. The server is this starter's own.
    ///
    /// Without this, a server refuses with [`StartError::ServerThreads`] if this program, or a library that it is
    /// linked with, starts threads before [`init`](crate::init).
    ///
    /// # Safety
    ///
    /// As for [`fork_despite_threads`](Self::fork_despite_threads), for the threads of the server: those that this
    /// program has started when `init` is called, and those that the [preloads](crate::forkserver::preload) start.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, Starter};
    ///
    /// fn seven(_: Birth) -> u8 {
    ///     7
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let _thread = std::thread::spawn(std::thread::park); // In the server too: it runs `main` up to `init`.
    ///     start_methods::init();
    ///     // SAFETY: the thread sleeps and holds no lock.
    ///     let starter = unsafe { Starter::forkserver_despite_threads() }?;
    ///     let child = starter.start(&Boot::new(seven))?;
    ///     assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(7));
    ///     Ok(())
    /// }
    /// ```
    #[expect(unsafe_code, reason = "the caller must promise what no check of this crate can find out")]
    pub unsafe fn forkserver_despite_threads() -> Result<Self, StartError> {
        Self::with(StartMethod::Forkserver, ForeignThreads::Tolerate)
    }

    fn with(method: StartMethod, foreign: ForeignThreads) -> Result<Self, StartError> {
        // Checked for fork too: a re-executed child whose `main` has not called `init()` must not get any further.
        let initialized = entry::check_initialized();
        if !initialized && method != StartMethod::Fork {
            return Err(StartError::NotInitialized);
        }
        if method != StartMethod::Fork && calls::is_secure_execution() {
            // Its children would not trust their environment, and would run `main` instead.
            let doing = "executing a set-user-id program as its own child";
            return Err(StartError::System { doing, errno: libc::EPERM });
        }
        if method == StartMethod::Spawn {
            check_runtime()?;
        }
        Ok(Self { method, foreign, choice: Choice::Users, executable: None, own_server: PerProcess::new() })
    }

    /// Executes the program at `path` instead of /proc/self/exe. It must be a copy of this program: another build
    /// refuses to run.
    ///
    /// For programs whose /proc/self/exe is a loader or an emulator. With forkserver, this starter gets a server of its
    /// own. No effect with fork.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, StartMethod, Starter};
    ///
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let starter = Starter::new(StartMethod::Spawn)?.executable(std::env::current_exe()?);
    /// assert!(starter.start(&Boot::new(run))?.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = Some(path.into());
        self
    }

    /// The method given to [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{StartMethod, Starter};
    ///
    /// let starter = Starter::new(StartMethod::Fork)?;
    /// assert_eq!(starter.method(), StartMethod::Fork);
    /// # Ok::<(), start_methods::StartError>(())
    /// ```
    #[must_use]
    pub fn method(&self) -> StartMethod {
        self.method
    }

    /// Starts a process. Returns as soon as it exists; [`Child::wait_hello`] reports whether it started successfully.
    ///
    /// # Errors
    ///
    /// - [`StartError::ForeignThreads`]: fork was refused.
    /// - [`StartError::BootTooLarge`], [`StartError::FunctionNotFound`], [`StartError::Environment`]: `boot` cannot be
    ///   sent.
    /// - [`StartError::Directory`]: the path in `boot` is too long or empty.
    /// - [`StartError::NestedTooDeep`]: this process is of the last generation allowed.
    /// - [`StartError::Forkserver`], [`StartError::ServerThreads`], [`StartError::Preload`],
    ///   [`StartError::TemplateDied`]: the fork server or the template has failed.
    /// - [`StartError::System`]: a system call failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, StartMethod, Starter};
    ///
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let starter = Starter::new(StartMethod::Forkserver)?;
    /// let boot = Boot::new(run);
    /// let (first, second) = (starter.start(&boot)?, starter.start(&boot)?);
    /// assert!(first.wait()?.success() && second.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(&self, boot: &Boot<'_>) -> Result<Child, StartError> {
        self.several().start(boot)
    }

    /// For several starts in a row that need not wait for each other: see [`Starts`].
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, StartMethod, Starter};
    ///
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let starter = Starter::new(StartMethod::Fork)?;
    /// let mut starts = starter.several();
    /// let children = [starts.start(&Boot::new(run))?, starts.start(&Boot::new(run))?];
    /// starts.finish()?;
    /// # drop(children);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn several(&self) -> Starts<'_> {
        Starts { starter: self, births: None }
    }

    /// For fork: preserves the present state of this process. All later starts of this starter are forked from a
    /// *template*, a copy of this process as it is now. Foreign threads may be started after this.
    ///
    /// Has no effect while the template lives, or for the other methods. A template that has died is replaced by a copy of
    /// this process as it is now: here, or by a starter of [`fork_despite_threads`](Self::fork_despite_threads) at the
    /// next start.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use start_methods::{Birth, Boot, StartMethod, Starter};
    ///
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let starter = Starter::new(StartMethod::Fork)?;
    /// starter.settle()?;
    /// let thread = std::thread::spawn(|| std::thread::sleep(Duration::from_millis(100)));
    /// assert!(starter.start(&Boot::new(run))?.wait()?.success()); // Not refused.
    /// # thread.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn settle(&self) -> Result<(), StartError> {
        let mut starts = self.several();
        starts.settle()?;
        starts.finish()
    }

    /// The slot of the server that starts processes for this starter: its own, or the shared one.
    fn slot(&self) -> &Slot {
        match (self.method, &self.executable, self.foreign) {
            (StartMethod::Forkserver, None, ForeignThreads::Refuse) => forkserver::shared(),
            _ => self.own_server.get(),
        }
    }

    /// Whether the next start is by spawn although the method is forkserver.
    fn avoids_server(&self) -> bool {
        self.choice == Choice::Ours && forkserver::is_out_of_use()
    }

    /// Starts a process by a fork server, or by spawn if this starter may choose and a server cannot work.
    fn start_by_server(&self, request: Option<ForkRequest<'_>>, boot: &Boot<'_>) -> Result<Child, StartError> {
        let executable = self.executable.as_deref();
        if request.is_none() && self.avoids_server() {
            return spawn::start(boot, StartMethod::Spawn, executable);
        }
        let how = Launch { executable, foreign: self.foreign };
        match self.slot().start(request, boot, how) {
            Err(error @ StartError::ServerThreads { .. })
                if self.choice == Choice::Ours && forkserver::put_out_of_use() =>
            {
                log::warn!("processes are started by spawn: {error}");
                spawn::start(boot, StartMethod::Spawn, executable)
            }
            result => result,
        }
    }

    /// Ends the template, or the server that is this starter's own. Does not wait for its end; dropping the starter
    /// does. Processes that it has started live on.
    ///
    /// Has no effect while a start is in progress, or for starters that have neither.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{StartMethod, Starter};
    ///
    /// # start_methods::init();
    /// let starter = Starter::new(StartMethod::Fork)?;
    /// starter.settle()?;
    /// starter.dismiss(); // The template ends while this process does something else.
    /// drop(starter);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dismiss(&self) {
        self.own_server.get().dismiss();
    }
}

/// Several starts in a row that do not wait for each other; created by [`Starter::several`].
///
/// A forked child needs a moment to close its copies of the parent's descriptors, among them the one by which the
/// kernel detects this process's death. [`Starter::start`] waits for that. Here, one wait covers all children: in
/// [`finish`](Self::finish), or when this is dropped. Until then, if this process is killed while one of the children
/// is stopped by a signal, the others live as long as that child.
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
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod, Starter};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// # let starter = Starter::new(StartMethod::Spawn)?;
    /// let mut starts = starter.several();
    /// let child = starts.start(&Boot::new(run))?;
    /// # drop(child);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(&mut self, boot: &Boot<'_>) -> Result<Child, StartError> {
        // Without asking a server in advance: `boot` is checked before a child is made for it.
        Order { starter: self.starter, births: &mut self.births, request: None }.start(boot)
    }

    /// Orders a process before it is known what it will run: a fork server, or a template if there is one, forks it
    /// meanwhile.
    ///
    /// No other process can be ordered from the same server until this order is started or dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod, Starter};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// # let starter = Starter::new(StartMethod::Forkserver)?;
    /// let mut starts = starter.several();
    /// let order = starts.order();
    /// let payload = vec![7; 1024]; // Prepared while the server forks.
    /// let child = order.start(&Boot::new(run).payload(&payload))?;
    /// # drop(child);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn order(&mut self) -> Order<'_> {
        let starter = self.starter;
        let request = match starter.method {
            StartMethod::Forkserver if starter.avoids_server() => None,
            StartMethod::Fork | StartMethod::Forkserver => starter.slot().request(),
            StartMethod::Spawn => None,
        };
        Order { starter, births: &mut self.births, request }
    }

    /// As [`Starter::settle`], but does not wait until the template is ready.
    ///
    /// # Errors
    ///
    /// As for [`Starter::start`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{StartMethod, Starter};
    /// # start_methods::init();
    /// let starter = Starter::new(StartMethod::Fork)?;
    /// let mut starts = starter.several();
    /// starts.settle()?;
    /// // Do something else while the template starts.
    /// starts.finish()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn settle(&mut self) -> Result<(), StartError> {
        let starter = self.starter;
        match starter.method {
            StartMethod::Fork => {
                starter.own_server.get().fill(|| Server::fork_template(starter.foreign, births(&mut self.births)?))
            }
            StartMethod::Spawn | StartMethod::Forkserver => Ok(()),
        }
    }

    /// Waits until all children have closed their copies of this process's descriptors, and until the template is
    /// ready, if there is one.
    ///
    /// # Errors
    ///
    /// The template's error, if it failed to start.
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod, Starter};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// # let starter = Starter::new(StartMethod::Fork)?;
    /// let mut starts = starter.several();
    /// let child = starts.start(&Boot::new(run))?;
    /// starts.finish()?;
    /// # drop(child);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn finish(self) -> Result<(), StartError> {
        drop(self.births);
        match self.starter.method {
            StartMethod::Fork => self.starter.own_server.get().wait_until_ready(),
            StartMethod::Spawn | StartMethod::Forkserver => Ok(()),
        }
    }
}

/// An ordered process, which does not know yet what it will run; created by [`Starts::order`]. Dropping it discards the
/// process.
///
/// While it exists, its thread must not use the same server otherwise: it would deadlock. All forkserver starters
/// without an executable of their own share one server, as do the functions of [`forkserver`](crate::forkserver).
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
///     let starter = Starter::new(StartMethod::Forkserver)?;
///     let mut starts = starter.several();
///     let child = starts.order().start(&Boot::new(seven))?;
///     assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(7));
///     Ok(())
/// }
/// ```
pub struct Order<'a> {
    starter: &'a Starter,
    births: &'a mut Option<Births>,
    request: Option<ForkRequest<'a>>,
}

impl Order<'_> {
    /// As [`Starter::start`].
    ///
    /// # Errors
    ///
    /// As for [`Starter::start`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod, Starter};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// # let starter = Starter::new(StartMethod::Spawn)?;
    /// # let mut starts = starter.several();
    /// let order = starts.order();
    /// assert!(order.start(&Boot::new(run))?.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(self, boot: &Boot<'_>) -> Result<Child, StartError> {
        let Self { starter, births: pipe, request } = self;
        let executable = starter.executable.as_deref();
        match starter.method {
            StartMethod::Fork => {
                let template = || match starter.foreign {
                    ForeignThreads::Tolerate => Server::fork_template(starter.foreign, births(pipe)?),
                    // This may be any thread, so that there are others. `settle` is called where there may be none.
                    ForeignThreads::Refuse => Err(StartError::TemplateDied),
                };
                match starter.slot().start_from_template(request, boot, template) {
                    Some(result) => result,
                    None => fork::start(boot, starter.foreign, births(pipe)?),
                }
            }
            StartMethod::Spawn => spawn::start(boot, StartMethod::Spawn, executable),
            StartMethod::Forkserver => starter.start_by_server(request, boot),
        }
    }
}

impl fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("starter", self.starter).field("is_under_way", &self.request.is_some()).finish()
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
/// As for [`Starter::new`] and [`Starter::start`].
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, StartMethod};
///
/// fn seven(_: Birth) -> u8 {
///     7
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     start_methods::init();
///     let child = start_methods::start(StartMethod::Forkserver, &Boot::new(seven))?;
///     assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(7));
///     Ok(())
/// }
/// ```
pub fn start(method: StartMethod, boot: &Boot<'_>) -> Result<Child, StartError> {
    Starter::new(method)?.start(boot)
}

/// A program that is spawned runs `main` up to `init`, and what is around that.
fn check_runtime() -> Result<(), StartError> {
    match is_of_tokio(&threads::names_before_init()) {
        true => Err(StartError::InRuntime),
        false => Ok(()),
    }
}
