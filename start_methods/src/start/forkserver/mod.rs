//! Start method *forkserver*, seen from the parent: find or start the server, ask it for a child.
//!
//! ```text
//!  Starter ──▶ Slot ──Request──▶ server ──fork──▶ child
//!               ▲                  │                │
//!               └──Reply + 3 fds───┘                │ Hello, and all the rest,
//!                                                   ▼ over the child's own socket
//! ```
//!
//! The template of a settled *fork* starter is the same server, made by a fork of the parent.
//!
//! # Invariants
//!
//! - One request is under way at a time, and each has a reply, wanted or not; a server that does not keep to that
//!   is killed.
//! - The server is reached by an inherited socketpair only: it has no name that others could find.

mod client;
pub(crate) mod server;

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use client::Broken;
pub(crate) use client::Server;

use crate::birth::boot::Boot;
use crate::birth::boot::PreparedBoot;
use crate::child::child::Child;
use crate::child::lifeline::Lifeline;
use crate::child::lifeline::MAKING;
use crate::error::StartError;
use crate::method::StartMethod;
use crate::sys::image;
use crate::sys::process;
use crate::sys::process::PerProcess;

static STATE: PerProcess<State> = PerProcess::new();

#[derive(Debug, Default)]
struct State {
    /// The fork server that all starters share.
    shared: Slot,
    /// What it runs before it serves.
    preloads: Mutex<Vec<fn()>>,
}

/// The place of a server, empty until there is one.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    server: Mutex<Option<Server>>,
}

/// A child that a server was asked for, before it was known what the child is to do. Nobody else asks meanwhile.
pub(crate) struct Asked<'a> {
    /// Who has asked, and must hear the answer.
    pid: u32,
    slot: MutexGuard<'a, Option<Server>>,
    /// What came of asking; `None` once the answer was taken.
    asked: Option<Result<Result<Arc<Lifeline>, StartError>, Broken>>,
}

impl Asked<'_> {
    fn answer(&mut self) -> Result<Result<Child, StartError>, Broken> {
        let server = self.slot.as_mut().expect("it was asked");
        match self.asked.take().expect("an answer is taken once")? {
            Ok(lifeline) => server.answer(&lifeline),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        // Nobody wants the child any more; but every request has its reply. It is not a forked copy's to take.
        if self.asked.is_some()
            && self.pid == std::process::id()
            && let Err(broken) = self.answer()
            && let Some(server) = &*self.slot
        {
            log::warn!("a fork server is given up: {broken}");
            server.kill();
        }
    }
}

impl Slot {
    /// Has the server fork a child for a boot that is made meanwhile. `None` if there is no server.
    pub(crate) fn ask(&self) -> Option<Asked<'_>> {
        let mut slot = process::lock(&self.server);
        let server = slot.as_mut()?;
        let asked = match Lifeline::get() {
            Ok(lifeline) => server.ask(&lifeline).map(|asked| asked.map(|()| lifeline)),
            Err(error) => Ok(Err(StartError::system(MAKING)(error))),
        };
        Some(Asked { pid: std::process::id(), slot, asked: Some(asked) })
    }

    /// A child from this slot's server, which is started when there is none, and replaced once
    /// when it fails.
    pub(crate) fn start(
        &self,
        asked: Option<Asked<'_>>,
        boot: &Boot<'_>,
        executable: Option<&Path>,
    ) -> Result<Child, StartError> {
        let prepared = boot.prepare(StartMethod::Forkserver)?;
        let Some(mut asked) = asked.or_else(|| self.ask()) else {
            let mut slot = process::lock(&self.server);
            return match fork_from(&mut slot, executable, &prepared) {
                Ok(answer) => deliver(answer, &prepared),
                Err(broken) => start_again(&mut slot, &broken, executable, &prepared),
            };
        };
        match asked.answer() {
            Ok(answer) => deliver(answer, &prepared),
            Err(broken) => start_again(&mut asked.slot, &broken, executable, &prepared),
        }
    }

    /// A child from a template, which nothing can replace. `None` if there is no template.
    pub(crate) fn start_from_template(
        &self,
        asked: Option<Asked<'_>>,
        boot: &Boot<'_>,
    ) -> Option<Result<Child, StartError>> {
        if asked.is_none() && process::lock(&self.server).is_none() {
            return None;
        }
        // Before it is asked, if that has not been done yet.
        let prepared = match boot.prepare(StartMethod::Fork) {
            Ok(prepared) => prepared,
            Err(error) => return Some(Err(error)),
        };
        let mut asked = asked.or_else(|| self.ask())?;
        Some(match asked.answer() {
            Ok(answer) => deliver(answer, &prepared),
            Err(broken) => {
                // It stays in its place, dead: a start must not silently fork today's state.
                log::warn!("the template is given up: {broken}");
                asked.slot.as_ref().inspect(|server| server.kill());
                Err(StartError::TemplateDied)
            }
        })
    }

    /// Puts a server here, made by `make`, unless there is one.
    pub(crate) fn fill(&self, make: impl FnOnce() -> Result<Server, StartError>) -> Result<(), StartError> {
        let mut slot = process::lock(&self.server);
        if slot.is_none() {
            *slot = Some(make()?);
        }
        Ok(())
    }

    /// Waits until the server serves, if there is one.
    ///
    /// One that does not come up is given up: the slot is empty then.
    pub(crate) fn wait_until_ready(&self) -> Result<(), StartError> {
        let mut slot = process::lock(&self.server);
        let ready = slot.as_mut().map_or(Ok(()), Server::wait_until_ready);
        if ready.is_err() {
            drop(slot.take());
        }
        ready
    }

    /// Tells the server to end, if there is one and nobody waits for it to answer. Does not wait for its end.
    pub(crate) fn dismiss(&self) {
        if let Ok(slot) = self.server.try_lock()
            && let Some(server) = slot.as_ref()
        {
            server.dismiss();
        }
    }

    fn running(&self) -> Option<u32> {
        process::lock(&self.server).as_ref().and_then(Server::running)
    }
}

/// The slot of the fork server that all starters of this process share.
pub(crate) fn shared() -> &'static Slot {
    &STATE.get().shared
}

fn preloads() -> Vec<fn()> {
    process::lock(&STATE.get().preloads).clone()
}

/// One attempt; an error means that there is no server any more, and that another may do better.
fn fork_from(
    slot: &mut Option<Server>,
    executable: Option<&Path>,
    prepared: &PreparedBoot<'_>,
) -> Result<Result<Child, StartError>, Broken> {
    let mut server = match slot.take() {
        Some(server) => server,
        None => match Server::launch(executable, preloads()) {
            Ok(server) => server,
            Err(error) => return Broken::by_accident(error).map(Err),
        },
    };
    // A broken one is dropped, which kills and reaps it; its children live on.
    let answer = server.fork(&prepared.lifeline)?;
    *slot = Some(server);
    Ok(answer)
}

/// The second attempt, and the last.
fn start_again(
    slot: &mut Option<Server>,
    broken: &Broken,
    executable: Option<&Path>,
    prepared: &PreparedBoot<'_>,
) -> Result<Child, StartError> {
    drop(slot.take());
    log::warn!("the fork server is replaced: {broken}");
    match fork_from(slot, executable, prepared) {
        Ok(answer) => deliver(answer, prepared),
        Err(broken) => Err(StartError::Forkserver { detail: broken.to_string() }),
    }
}

fn deliver(answer: Result<Child, StartError>, prepared: &PreparedBoot<'_>) -> Result<Child, StartError> {
    let child = answer?;
    prepared.send(child.control())?;
    Ok(child)
}

/// Has `f` run once in the fork server, before it serves: what it loads is shared by every child.
///
/// Several functions run in the order in which they were given. `f` must not leave threads behind:
/// the server would then be unfit to fork. A fork server that is started later, because this one
/// died or was [stopped](stop), runs them as well. Children of another start method do not.
///
/// # Errors
///
/// [`StartError::AlreadyRunning`] when it is too late; [`StartError::FunctionNotFound`] when `f` is
/// code made at run time. If `f` panics, the first start fails with [`StartError::Preload`].
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
    Ok(())
}

/// Ends this process's fork server and reaps it, if it runs; the next start makes a new one.
///
/// Its children live on, but how they end may be [`Exit::Unknown`](crate::Exit::Unknown).
pub fn stop() {
    let server = process::lock(&shared().server).take();
    drop(server);
}

/// The process id of this process's fork server, if it runs.
#[must_use]
pub fn pid() -> Option<u32> {
    shared().running()
}
