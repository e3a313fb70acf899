//! Start method *forkserver*, in the parent: starts the server if there is none, and requests children from it.
//!
//! ```text
//!  Starter ──▶ Slot ──Request──▶ server ──fork──▶ child
//!               ▲                  │                │
//!               └──Reply + 3 fds───┘                │ Hello, and all further messages,
//!                                                   ▼ over the child's own socket
//! ```
//!
//! The template of a settled *fork* starter is the same server, forked from the parent instead of executed.
//!
//! Also called: zygote process, preforking.
//!
//! # Invariants
//!
//! - One request at a time is in progress, and each has a reply, even if its child is not needed any more. A server
//!   that violates this is killed.
//! - The server is reached by an inherited socketpair only: it has no name that another process could find.

mod client;
pub(crate) mod server;

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::TryLockError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use client::Broken;
pub(crate) use client::Launch;
pub(crate) use client::Server;

use crate::birth::boot::Boot;
use crate::birth::boot::PreparedBoot;
use crate::child::child::Child;
use crate::child::lifeline::Lifeline;
use crate::error::StartError;
use crate::method::StartMethod;
use crate::sys::image;
use crate::sys::process;
use crate::sys::process::PerProcess;
use crate::sys::threads;

static STATE: PerProcess<State> = PerProcess::new();

#[derive(Debug, Default)]
struct State {
    /// The fork server that all starters share.
    shared: Slot,
    /// What it runs before it serves requests.
    preloads: Mutex<Vec<fn()>>,
    /// A server has found threads in its process, and so would the next one. A hint: what it guards is correct, if
    /// slower, with either value, so Relaxed everywhere.
    has_threads: AtomicBool,
}

/// The slot of a server, empty until there is one.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    server: Mutex<Option<Server>>,
}

/// A child that was requested from a server before it is known what it will run. Holds the server's lock.
pub(crate) struct ForkRequest<'a> {
    /// The process that sent the request, and must receive the reply.
    pid: u32,
    slot: MutexGuard<'a, Option<Server>>,
    /// The result of sending the request; `None` once the reply was received.
    sent: Option<Result<Result<Lifeline, StartError>, Broken>>,
}

impl ForkRequest<'_> {
    fn receive(&mut self) -> Result<Result<Child, StartError>, Broken> {
        let server = self.slot.as_mut().expect("a request was sent to it");
        match self.sent.take().expect("a reply is received once")? {
            Ok(lifeline) => server.receive_reply(lifeline),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl Drop for ForkRequest<'_> {
    fn drop(&mut self) {
        // The child is not needed any more, but the reply must be received, or the next request would get it. A forked
        // copy must not take it from its parent.
        if self.sent.is_some()
            && self.pid == std::process::id()
            && let Err(broken) = self.receive()
            && let Some(server) = &*self.slot
        {
            log::warn!("a fork server is killed: {broken}");
            server.kill();
        }
    }
}

impl Slot {
    /// Locks the slot. A thread that waits for it counts as parked: the thread that has it may be about to fork, and then
    /// waits until all residents are parked.
    fn lock(&self) -> MutexGuard<'_, Option<Server>> {
        match self.server.try_lock() {
            Ok(slot) => slot,
            Err(TryLockError::WouldBlock) => threads::parked(|| process::lock(&self.server)),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        }
    }

    /// Requests a child, which the server forks while the boot is prepared. `None` if there is no server.
    pub(crate) fn request(&self) -> Option<ForkRequest<'_>> {
        let mut slot = self.lock();
        let server = slot.as_mut()?;
        let sent = server.send_request();
        Some(ForkRequest { pid: std::process::id(), slot, sent: Some(sent) })
    }

    /// Starts a child by this slot's server. A server is started if there is none, and replaced once if it fails.
    pub(crate) fn start(
        &self,
        request: Option<ForkRequest<'_>>,
        boot: &Boot<'_>,
        how: Launch<'_>,
    ) -> Result<Child, StartError> {
        let prepared = boot.prepare(StartMethod::Forkserver)?;
        let Some(mut request) = request.or_else(|| self.request()) else {
            // Held until the server is ready: concurrent starts wait for it and do not launch a second one.
            let mut slot = self.lock();
            return match fork_from(&mut slot, how) {
                Ok(child) => deliver(child, &prepared),
                Err(broken) => retry(&mut slot, &broken, how, &prepared),
            };
        };
        match request.receive() {
            Ok(child) => deliver(child, &prepared),
            Err(broken) => retry(&mut request.slot, &broken, how, &prepared),
        }
    }

    /// Starts a child by a template. One that has died is replaced by what `make` returns; if this process may not fork
    /// now, it stays in the slot, dead. `None` if there is no template.
    pub(crate) fn start_from_template(
        &self,
        request: Option<ForkRequest<'_>>,
        boot: &Boot<'_>,
        make: impl FnOnce() -> Result<Server, StartError>,
    ) -> Option<Result<Child, StartError>> {
        if request.is_none() && self.lock().is_none() {
            return None;
        }
        // Before the request, if that was not sent yet: a boot that fails its checks needs no child.
        let prepared = match boot.prepare(StartMethod::Fork) {
            Ok(prepared) => prepared,
            Err(error) => return Some(Err(error)),
        };
        let mut request = request.or_else(|| self.request())?;
        Some(match request.receive() {
            Ok(child) => deliver(child, &prepared),
            Err(broken) => {
                log::warn!("the template process is lost: {broken}");
                let slot = &mut request.slot;
                slot.as_ref().inspect(|server| server.kill());
                match replace_template(slot, make) {
                    Ok(()) => fork_from_template(slot).and_then(|child| deliver(Ok(child), &prepared)),
                    Err(error) => Err(error),
                }
            }
        })
    }

    /// Puts the server that `make` returns into the slot, unless there is one that lives.
    pub(crate) fn fill(&self, make: impl FnOnce() -> Result<Server, StartError>) -> Result<(), StartError> {
        let mut slot = self.lock();
        match slot.as_ref() {
            None => *slot = Some(make()?),
            Some(server) if server.running().is_none() => replace_template(&mut slot, make)?,
            Some(_) => {}
        }
        Ok(())
    }

    /// Waits until the server is ready, if there is one. A server that fails to start is removed from the slot.
    pub(crate) fn wait_until_ready(&self) -> Result<(), StartError> {
        let mut slot = self.lock();
        let ready = slot.as_mut().map_or(Ok(()), Server::wait_until_ready);
        if ready.is_err() {
            drop(slot.take());
        }
        ready
    }

    /// Kills the server, if there is one and no request is in progress. Does not wait for its end.
    pub(crate) fn dismiss(&self) {
        if let Ok(slot) = self.server.try_lock()
            && let Some(server) = slot.as_ref()
        {
            server.dismiss();
        }
    }

    fn running(&self) -> Option<u32> {
        self.lock().as_ref().and_then(Server::running)
    }
}

/// The slot of the fork server that all starters of this process share.
pub(crate) fn shared() -> &'static Slot {
    &STATE.get().shared
}

fn preloads() -> Vec<fn()> {
    process::lock(&STATE.get().preloads).clone()
}

/// Replaces a template that has died. An error of the new one leaves the dead one in the slot: a later start must not
/// fork this process where a template was asked for, and may try again to replace it.
fn replace_template(
    slot: &mut Option<Server>,
    make: impl FnOnce() -> Result<Server, StartError>,
) -> Result<(), StartError> {
    match make() {
        Ok(server) => {
            *slot = Some(server);
            Ok(())
        }
        Err(StartError::ForeignThreads { .. }) => Err(StartError::TemplateDied),
        Err(error) => Err(error),
    }
}

/// Starts a child by a new template. One that fails at once stays in the slot, dead, as in [`replace_template`].
fn fork_from_template(slot: &mut Option<Server>) -> Result<Child, StartError> {
    let template = slot.as_mut().expect("it has just been made");
    template.fork().unwrap_or_else(|broken| {
        template.kill();
        Err(StartError::Forkserver { detail: broken.to_string() })
    })
}

/// One attempt. After an error the slot is empty, and a second attempt may succeed.
fn fork_from(slot: &mut Option<Server>, how: Launch<'_>) -> Result<Result<Child, StartError>, Broken> {
    let mut server = match slot.take() {
        Some(server) => server,
        None => match Server::launch(how, preloads()) {
            Ok(server) => server,
            Err(error) => return Broken::unless_final(error).map(Err),
        },
    };
    // On failure the server is dropped, which kills and reaps it; its children live on.
    let child = server.fork()?;
    *slot = Some(server);
    Ok(child)
}

/// The second and last attempt.
fn retry(
    slot: &mut Option<Server>,
    broken: &Broken,
    how: Launch<'_>,
    prepared: &PreparedBoot<'_>,
) -> Result<Child, StartError> {
    drop(slot.take());
    log::warn!("the fork server is replaced: {broken}");
    match fork_from(slot, how) {
        Ok(child) => deliver(child, prepared),
        Err(broken) => Err(StartError::Forkserver { detail: broken.to_string() }),
    }
}

fn deliver(child: Result<Child, StartError>, prepared: &PreparedBoot<'_>) -> Result<Child, StartError> {
    let child = child?;
    prepared.send(child.control())?;
    Ok(child)
}

/// Whether starts that may use another method should not try a fork server (again).
pub(crate) fn is_out_of_use() -> bool {
    STATE.get().has_threads.load(Ordering::Relaxed)
}

/// Notes that a fork server has threads, unless there are preloads: what runs in another way would miss what they load.
/// Returns whether it was noted.
pub(crate) fn put_out_of_use() -> bool {
    let is_dispensable = process::lock(&STATE.get().preloads).is_empty();
    STATE.get().has_threads.store(is_dispensable, Ordering::Relaxed);
    is_dispensable
}

/// Runs `f` once in the fork server before it serves requests: all its children share what `f` loads.
///
/// Functions run in the order in which they were given. `f` must not leave threads behind: the server could not fork. A
/// fork server that is started later, because this one died or was [stopped](stop), runs them as well. Children of
/// other start methods do not.
///
/// # Errors
///
/// - [`StartError::AlreadyRunning`]: the fork server is already running.
/// - [`StartError::FunctionNotFound`]: `f` is code generated at run time.
///
/// If `f` panics, the first start fails with [`StartError::Preload`]. If threads exist in the server before `f` runs, it
/// fails with [`StartError::ServerThreads`].
///
/// # Examples
///
/// ```
/// use std::sync::OnceLock;
///
/// static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
///
/// fn load() {
///     TABLE.get_or_init(|| (0..1_000_000).collect());
/// }
///
/// start_methods::forkserver::preload(load)?;
/// # Ok::<(), start_methods::StartError>(())
/// ```
pub fn preload(f: fn()) -> Result<(), StartError> {
    let address = f as usize;
    image::locate(address).ok_or(StartError::FunctionNotFound { address })?;
    if let Some(pid) = pid() {
        return Err(StartError::AlreadyRunning { pid });
    }
    process::lock(&STATE.get().preloads).push(f);
    // From now on a fork server is not dispensable.
    STATE.get().has_threads.store(false, Ordering::Relaxed);
    Ok(())
}

/// Ends and reaps this process's fork server, if it runs. The next start creates a new one.
///
/// Its children live on, but how they end may be [`Exit::Unknown`](crate::Exit::Unknown).
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, StartMethod, forkserver};
///
/// # fn run(_: Birth) -> u8 { 0 }
/// # start_methods::init();
/// start_methods::start(StartMethod::Forkserver, &Boot::new(run))?.wait()?;
/// forkserver::stop();
/// assert_eq!(forkserver::pid(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn stop() {
    let server = shared().lock().take();
    drop(server);
    STATE.get().has_threads.store(false, Ordering::Relaxed);
}

/// The process id of this process's fork server, if it runs.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, StartMethod, forkserver};
///
/// # fn run(_: Birth) -> u8 { 0 }
/// # start_methods::init();
/// assert_eq!(forkserver::pid(), None);
/// let child = start_methods::start(StartMethod::Forkserver, &Boot::new(run))?;
/// assert!(forkserver::pid().is_some());
/// # drop(child);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn pid() -> Option<u32> {
    shared().running()
}
