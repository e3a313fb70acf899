//! A started process as its parent sees it: what has come from it, and waiting for more.
//!
//! Any number of threads may wait for one process. One of them *watches*: it sleeps in poll(2), without the lock. The
//! others sleep on the condition variable. When the watcher wakes, for whatever reason, it wakes the others, so that one
//! of those that go on waiting watches next.
//!
//! Any thread that comes may take in what is there, also while another watches. What it takes no longer wakes the watcher,
//! which may be between the lock and poll(2). That is harmless for all messages but the outcome, behind which no other
//! message comes. So the thread that takes the outcome shuts the socket down for reading: from then on it is at its end,
//! and that wakes the watcher, whenever it begins to sleep.
//!
//! # Invariants
//!
//! - Nothing waits under the lock.
//! - The end of the process is looked for before its socket is read: what it sent before its end is there by then. So an
//!   outcome that was sent counts, however the process ended.
//! - The first outcome is the only one: nothing is read after it.
//! - A forked copy of this process does nothing.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use nix::sys::socket::Shutdown;
use nix::sys::socket::shutdown;
use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::MutexGuard;
use start_methods::Boot;
use start_methods::Child;
use start_methods::Exit;
use start_methods::PrivateFd;
use start_methods::Received;
use start_methods::StartError;
use start_methods::Starter;

use super::error::ProcessError;
use super::message;
use super::message::Message;
use super::message::Settled;
use super::message::Setup;
use crate::error::Panic;
use crate::error::Side;
use crate::sys::condvar;
use crate::sys::failpoint::failpoint;
use crate::sys::identity::Born;
use crate::sys::owner_process::OwnerProcess;
use crate::sys::poll::poll_until;
use crate::sys::start_choice::HELLO_TIMEOUT;
use crate::sys::table_full::is_table_full;
use crate::transport::answer::NO_DESCRIPTOR;
use crate::transport::control;
use crate::transport::first_call::FirstCall;
use crate::transport::frame::FRAME_MAX;

/// How long a process may take to end once its function has returned, before its outcome is taken without its end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_millis(500);
/// How long a killed process may take to end before it is left behind.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before descriptors are sent again, of which too many were on their way. Nothing tells when they are not.
const RESEND_PAUSE: Duration = Duration::from_millis(1);

/// Whether a new process is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    /// No: its settings cannot be refused, or none were asked for.
    None,
    /// Until it has the settings that were asked for.
    Settings,
}

/// A started process.
#[derive(Debug)]
pub(super) struct Running {
    name: String,
    owner: OwnerProcess,
    // Before the starter, whose server may have to reap it.
    child: Child,
    /// It may have a server of its own, which lives as long as this.
    _starter: Starter,
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    last_words: Option<Box<Panic>>,
    settled: Option<(Arc<Settled>, Instant)>,
    /// A thread sleeps at the descriptors.
    is_watched: bool,
}

/// What may come from a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its hello.
    Greeting,
    /// Its outcome.
    Working,
    /// Only its end.
    Silent,
}

/// Whether a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    /// It has ended, and how is not known yet.
    Dying,
    Ended(Exit),
}

impl Running {
    /// Starts a process.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Start`], [`ProcessError::System`].
    pub(super) fn start(
        starter: Starter,
        boot: &Boot<'static>,
        born: Born,
        call: &FirstCall,
        trial: Trial,
    ) -> Result<Self, ProcessError> {
        let name = born.name.clone();
        let payload = control::encode(&Setup { call: call.in_boot(), born });
        let mut child = starter.start(&boot.clone().name(&name).payload(&payload))?;
        child.distrust();
        let started = Instant::now();
        send_arguments(&child, call, started + HELLO_TIMEOUT)?;
        if trial == Trial::Settings {
            child.wait_hello(HELLO_TIMEOUT)?;
        }
        let state = State { stage: Stage::Greeting, last_words: None, settled: None, is_watched: false };
        let (owner, state, changed) = (OwnerProcess::here(), Mutex::new(state), Condvar::new());
        Ok(Self { name, owner, child, _starter: starter, started, state, changed })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn child(&self) -> &Child {
        &self.child
    }

    /// Whether this is no forked copy.
    pub(super) fn is_here(&self) -> bool {
        self.owner.is_here()
    }

    /// Whether the process has ended. Reaps it.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end of the process and its outcome; `None` once the deadline has passed. A process that has sent its
    /// outcome and does not end is waited for [`LEAVE_TIMEOUT`] only.
    ///
    /// # Errors
    ///
    /// [`ProcessError::ForkedCopy`], [`ProcessError::System`]; [`ProcessError::Decode`] if this process has no descriptor
    /// for the outcome, which then stays where it is.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<Option<Arc<Settled>>, ProcessError> {
        if !self.is_here() {
            return Err(ProcessError::ForkedCopy);
        }
        let mut state = self.state.lock();
        loop {
            let life = self.advance(&mut state)?;
            let now = Instant::now();
            let due = match (&state.settled, state.stage) {
                (Some((settled, at)), _) => {
                    if matches!(life, Life::Ended(_)) || now >= *at + LEAVE_TIMEOUT {
                        return Ok(Some(Arc::clone(settled)));
                    }
                    Some(*at + LEAVE_TIMEOUT)
                }
                (None, Stage::Greeting) => Some(self.started + HELLO_TIMEOUT),
                (None, Stage::Working | Stage::Silent) => None,
            };
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(None);
            }
            let until = [deadline, due].into_iter().flatten().min();
            if state.is_watched {
                condvar::sleep(&self.changed, &mut state, until);
            } else {
                self.watch(&mut state, life, until);
            }
        }
    }

    /// Sleeps until something has come, or the process has ended, or until the deadline.
    fn watch(&self, state: &mut MutexGuard<'_, State>, life: Life, until: Option<Instant>) {
        let comes_more = state.stage != Stage::Silent && state.settled.is_none() && life == Life::Alive;
        state.is_watched = true;
        MutexGuard::unlocked(state, || {
            failpoint!("before_watch");
            if comes_more {
                let fds = [self.child.control().as_fd(), self.child.pidfd()];
                poll_until(&mut fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)), until);
            } else {
                // It also knows what to wait for once a process is dead and not reaped. An error is met again by
                // `advance`.
                drop(match until {
                    Some(until) => self.child.wait_timeout(until.saturating_duration_since(Instant::now())),
                    None => self.child.wait().map(Some),
                });
            }
        });
        state.is_watched = false;
        self.changed.notify_all();
    }

    /// Takes in what has come.
    fn advance(&self, state: &mut State) -> Result<Life, ProcessError> {
        let life = self.life()?;
        if state.stage == Stage::Greeting && state.settled.is_none() {
            self.greet(state, life);
        }
        if state.stage == Stage::Working && state.settled.is_none() {
            self.receive(state, life)?;
        }
        if let (Life::Ended(exit), None) = (life, &state.settled) {
            let panic = state.last_words.take();
            state.settle(Err(ProcessError::Died { pid: self.child.pid(), status: exit.status(), panic }));
        }
        Ok(life)
    }

    fn life(&self) -> Result<Life, ProcessError> {
        let waiting = "waiting for a process";
        if let Some(exit) = self.child.try_wait().map_err(ProcessError::system(waiting))? {
            return Ok(Life::Ended(exit));
        }
        let is_dead = poll_until(&mut [PollFd::new(self.child.pidfd(), PollFlags::POLLIN)], Some(Instant::now()));
        Ok(if is_dead { Life::Dying } else { Life::Alive })
    }

    /// Looks for the hello.
    fn greet(&self, state: &mut State, life: Life) {
        // In this order: what the process sent before it closed the socket is there when the socket is closed.
        let is_closed = self.child.is_silenced();
        match self.child.try_hello() {
            Ok(Some(())) => state.stage = Stage::Working,
            // The next look tells how it ended.
            Ok(None) if life != Life::Alive => {}
            Ok(None) if is_closed => {
                // It is about to end, or has become another program before it was one of ours.
                self.kill();
                state.stage = Stage::Silent;
            }
            Ok(None) if self.started.elapsed() < HELLO_TIMEOUT => {}
            Ok(None) => {
                self.kill();
                let error = StartError::HelloTimeout { pid: self.child.pid(), timeout: HELLO_TIMEOUT };
                state.settle(Err(error.into()));
            }
            // It has ended, as `advance` will tell.
            Err(StartError::DiedBeforeHello { .. }) => state.stage = Stage::Silent,
            Err(error) => state.settle(Err(error.into())),
        }
    }

    /// Reads the socket.
    fn receive(&self, state: &mut State, life: Life) -> Result<(), ProcessError> {
        let mut bytes = Vec::new();
        while state.settled.is_none() {
            let mut fds = Vec::new();
            match self.child.control().try_recv_or_leave(&mut bytes, FRAME_MAX, &mut fds) {
                Ok(Received::Message(_)) => self.on_message(state, &bytes, fds),
                Ok(Received::Empty) if life == Life::Alive => break,
                Ok(Received::Empty | Received::Closed) => {
                    state.stage = Stage::Silent;
                    break;
                }
                Err(error) if is_table_full(&error) => {
                    let message = NO_DESCRIPTOR.to_owned();
                    return Err(ProcessError::Decode { side: Side::Result, message });
                }
                Err(error) => self.on_nonsense(state, error.to_string()),
            }
        }
        Ok(())
    }

    fn on_message(&self, state: &mut State, bytes: &[u8], fds: Vec<PrivateFd>) {
        match message::parse(bytes, fds, self.child.pid()) {
            Ok(Message::Outcome(settled)) => {
                state.settle(settled);
                // Wakes the watcher. Fails only if the process has shut it down already, which wakes too.
                let _woken = shutdown(self.child.control().as_fd().as_raw_fd(), Shutdown::Read);
            }
            Ok(Message::LastWords(panic)) if state.last_words.is_none() => state.last_words = Some(Box::new(panic)),
            Ok(Message::LastWords(_)) => self.on_nonsense(state, "last words twice".to_owned()),
            Err(message) => self.on_nonsense(state, message),
        }
    }

    /// The process sent what none of this build sends: nothing that follows would be worth reading.
    fn on_nonsense(&self, state: &mut State, message: String) {
        self.kill();
        state.settle(Err(ProcessError::Protocol { pid: self.child.pid(), message }));
    }

    /// Kills the process; see [`Child::kill`], whose errors were never observed.
    fn kill(&self) {
        if let Err(error) = self.child.kill() {
            log::warn!("process {} cannot be killed: {error}", self.child.pid());
        }
    }

    /// Sends SIGTERM to the process group that the process leads, or will lead.
    ///
    /// # Errors
    ///
    /// As for [`Child::signal_group`].
    pub(super) fn terminate(&self) -> io::Result<()> {
        match self.child.try_hello() {
            Ok(Some(())) => self.child.signal_group(Signal::SIGTERM),
            // Before its hello it may lead no group yet, and has started no program.
            Ok(None) | Err(_) => self.child.signal(Signal::SIGTERM),
        }
    }

    /// Sends SIGINT to the process group that the process leads. Waits for its hello: before that, what a terminal sends
    /// is meant for the group of its parent, and is discarded.
    ///
    /// # Errors
    ///
    /// As for [`Child::signal_group`].
    pub(super) fn interrupt(&self) -> io::Result<()> {
        match self.child.wait_hello(HELLO_TIMEOUT) {
            Ok(()) => self.child.signal_group(Signal::SIGINT),
            // It was killed for that, or has ended.
            Err(_) => Ok(()),
        }
    }

    /// Ends the process: politely, then by force. Takes [`GRACE`] and [`REAP_TIMEOUT`] at most.
    pub(super) fn end(&self) {
        if self.has_ended() {
            return;
        }
        // Of a process that may not be signalled: it is killed below, by its lifeline.
        let _asked = self.terminate();
        if matches!(self.child.wait_timeout(GRACE), Ok(None)) {
            self.kill();
            let _ended = self.child.wait_timeout(REAP_TIMEOUT);
        }
    }

    /// Waits until the process has ended.
    pub(super) fn wait_for_end(&self) {
        let _ended = self.child.wait();
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }
}

impl State {
    fn settle(&mut self, settled: Settled) {
        self.settled.get_or_insert_with(|| (Arc::new(settled), Instant::now()));
    }
}

/// Sends what the boot message does not say. Waits while too many descriptors are on their way.
fn send_arguments(child: &Child, call: &FirstCall, give_up: Instant) -> Result<(), ProcessError> {
    loop {
        match call.send_rest(child.control()) {
            Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) && Instant::now() < give_up => {
                thread::sleep(RESEND_PAUSE);
            }
            sent => return sent.map_err(ProcessError::system("sending the arguments of a process")),
        }
    }
}
