//! A process that was started: its pidfd, its control socket, and how it ended.
//!
//! # Invariants
//!
//! - A process is addressed by its pidfd. Its id is used only while it cannot have been reaped.
//! - Once an end was reported, every later question has the same answer.
//! - The lifeline lives as long as the child: dropping all children and the parent's death are the
//!   same event for whoever is still there.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::read;

use crate::child::lifeline::Lifeline;
use crate::child::tree;
use crate::child::tree::PIDFD_SIGNAL_PROCESS_GROUP;
use crate::error::StartError;
use crate::exit::Exit;
use crate::message;
use crate::message::Hello;
use crate::message::Message;
use crate::message::Refusal;
use crate::message::Refused;
use crate::sys::calls;
use crate::sys::fd::PrivateFd;
use crate::sys::image;
use crate::sys::process;
use crate::sys::socket::Received;
use crate::sys::socket::Socket;
use crate::sys::wait;

/// How long the status of a dead process may be on its way from the one who reaps it.
const STATUS_TIMEOUT: Duration = Duration::from_millis(250);

/// How long the kernel may need from "nobody can reap it" to "its status is published".
const REAPED_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a process may go on after it has closed its control socket without a hello.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a killed process is waited for when a [`Child`] is dropped.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest first message of a child that is read: a refusal with the longest path fits.
const HELLO_MAX: usize = 8 * 1024;

/// A process that was started, and is killed when this is dropped.
///
/// Dropping a child that was not waited for sends SIGKILL to its process group and reaps it; that
/// takes as long as the kernel needs to end it, but not more than a second.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    /// The process that started it.
    owner: u32,
    control: Socket,
    pidfd: PrivateFd,
    /// The read end of the pipe by which a server tells the status; `None` for our own children.
    status: Option<PrivateFd>,
    state: Mutex<State>,
    _lifeline: Arc<Lifeline>,
}

#[derive(Debug, Default)]
struct State {
    exit: Option<Exit>,
    /// When a server-born child was first seen to be dead.
    dead_since: Option<Instant>,
    /// The server is gone, or speaks nonsense: only the kernel can tell the status now.
    status_lost: bool,
    hello: Greeting,
}

#[derive(Debug, Default)]
enum Greeting {
    #[default]
    Awaited,
    Said,
    Failed(StartError),
}

impl Child {
    /// A child of this very process.
    pub(crate) fn direct(pid: u32, control: Socket, pidfd: PrivateFd, lifeline: Arc<Lifeline>) -> Self {
        Self::new(pid, control, pidfd, None, lifeline)
    }

    /// A child of a server's, which reports its status through a pipe.
    pub(crate) fn of_server(pid: u32, [control, pidfd, status]: [PrivateFd; 3], lifeline: Arc<Lifeline>) -> Self {
        Self::new(pid, Socket::from_fd(control), pidfd, Some(status), lifeline)
    }

    fn new(pid: u32, control: Socket, pidfd: PrivateFd, status: Option<PrivateFd>, lifeline: Arc<Lifeline>) -> Self {
        let (owner, state) = (std::process::id(), Mutex::default());
        Self { pid, owner, control, pidfd, status, state, _lifeline: lifeline }
    }

    /// Its process id. Good for messages; to address the process use [`signal`](Self::signal).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Our end of the socket whose other end is [`Birth::control`](crate::Birth::control).
    ///
    /// The child's first message is its hello, which [`try_hello`](Self::try_hello) or
    /// [`wait_hello`](Self::wait_hello) must have taken before the socket is the caller's.
    #[must_use]
    pub fn control(&self) -> &Socket {
        &self.control
    }

    /// A descriptor that becomes readable when the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// For a child of a fork server or a template: a descriptor that becomes readable, or hangs
    /// up, once its exit status is known, which is a moment after [`pidfd`](Self::pidfd) does.
    #[must_use]
    pub fn status_fd(&self) -> Option<BorrowedFd<'_>> {
        self.status.as_ref().map(AsFd::as_fd)
    }

    /// How it ended; `None` while it runs. Reaps it.
    ///
    /// The status of a child of a fork server may be on its way for a moment after the end: this
    /// answers `None` until it is here, for at most 250 ms. May be asked again after the end.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked (never seen).
    pub fn try_wait(&self) -> io::Result<Option<Exit>> {
        let mut state = process::lock(&self.state);
        if state.exit.is_none() {
            state.exit = match &self.status {
                None => self.reap()?,
                Some(status) => self.receive_status(status, &mut state)?,
            };
        }
        Ok(state.exit)
    }

    /// How it ended, waiting for the end. Reaps it.
    ///
    /// # Errors
    ///
    /// As for [`try_wait`](Self::try_wait).
    pub fn wait(&self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.wait_until(None)? {
                return Ok(exit);
            }
        }
    }

    /// How it ended, waiting at most `timeout` for the end; `None` means that it still runs.
    ///
    /// # Errors
    ///
    /// As for [`try_wait`](Self::try_wait).
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<Exit>> {
        // A timeout beyond the clock's range is for ever.
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// Sends a signal to the process. Does nothing if it has ended.
    ///
    /// # Errors
    ///
    /// EPERM, when the process has changed its user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        unless_gone(calls::pidfd_send_signal(self.pidfd(), signal as i32, 0))
    }

    /// Sends a signal to the process group that the process leads, its own children included.
    ///
    /// Does nothing if the group is gone. Before Linux 6.9 a group whose leader has been reaped is
    /// out of reach.
    ///
    /// # Errors
    ///
    /// EPERM, when every process of the group has changed its user.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        let result = calls::pidfd_send_signal(self.pidfd(), signal as i32, PIDFD_SIGNAL_PROCESS_GROUP);
        match result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.signal_group_id(signal),
            result => unless_gone(result),
        }
    }

    /// Sends SIGKILL to the process and to its process group.
    ///
    /// # Errors
    ///
    /// As for [`signal`](Self::signal).
    pub fn kill(&self) -> io::Result<()> {
        // Both are tried, whatever comes of the first: the process may have left its group.
        let group = self.signal_group(Signal::SIGKILL);
        self.signal(Signal::SIGKILL).and(group)
    }

    /// Sends SIGKILL to the process and to all that descends from it, whatever groups and sessions it has made.
    ///
    /// The processes are stopped first, so that they start no others meanwhile, and found by way of /proc, child by
    /// child. This does not wait for their end, and takes a few milliseconds at most, however many there are. Out of
    /// reach are those whose own parent has ended before (daemons), unless they are in the process group, and those of
    /// other users. Where the kernel does not list children, and when the process has ended already, it is the same as
    /// [`kill`](Self::kill).
    ///
    /// # Errors
    ///
    /// As for [`signal`](Self::signal), of the process itself.
    pub fn kill_tree(&self) -> io::Result<()> {
        // The group at once: nobody in it starts anything from here on.
        let _result = self.signal_group(Signal::SIGSTOP);
        self.signal(Signal::SIGSTOP)?;
        tree::kill_descendants(self.pid, self.pidfd());
        self.kill()
    }

    /// Whether the process has said hello; `None` means not yet. Does not wait for it.
    ///
    /// # Errors
    ///
    /// [`StartError::Directory`], [`StartError::Limit`] and [`StartError::Refused`] when the process
    /// will not run; [`StartError::DiedBeforeHello`]; [`StartError::Protocol`] for any other message.
    /// In each case the process is killed if it still runs, and the answer stays the same.
    pub fn try_hello(&self) -> Result<Option<()>, StartError> {
        let mut state = process::lock(&self.state);
        match &state.hello {
            Greeting::Said => return Ok(Some(())),
            Greeting::Failed(error) => return Err(error.clone()),
            Greeting::Awaited => {}
        }
        let waiting = StartError::system("waiting for a hello");
        // In this order: what a process said before it died is in the socket when it is dead.
        let dead = wait::is_readable(self.pidfd()).map_err(&waiting)?;
        match self.receive_hello() {
            Ok(Heard::Hello) => {
                state.hello = Greeting::Said;
                Ok(Some(()))
            }
            Ok(Heard::Nothing) if !dead => Ok(None),
            Ok(Heard::Nothing | Heard::End) => {
                // `fail` and `try_wait` lock the state themselves.
                drop(state);
                match self.try_wait() {
                    Ok(Some(exit)) => self.fail(StartError::DiedBeforeHello { pid: self.pid, exit }),
                    // It is about to end, or how it ended is about to be known.
                    Ok(None) => Ok(None),
                    Err(error) => self.fail(waiting(error)),
                }
            }
            Err(error) => {
                drop(state);
                self.fail(error)
            }
        }
    }

    /// Whether the process has closed its control socket: it is about to end, and if it does not, nothing more will be
    /// heard of it.
    #[must_use]
    pub fn is_silenced(&self) -> bool {
        wait::hung_up(self.control.as_fd(), Duration::ZERO).unwrap_or(true)
    }

    /// Waits for the hello, for at most `timeout`; then the process is killed.
    ///
    /// # Errors
    ///
    /// As for [`try_hello`](Self::try_hello), and [`StartError::HelloTimeout`].
    pub fn wait_hello(&self, timeout: Duration) -> Result<(), StartError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            // In this order: what it said before it closed the socket is there when the socket is closed.
            let silenced = self.is_silenced();
            if self.try_hello()?.is_some() {
                return Ok(());
            }
            if silenced {
                let exit = self.exit_of_silent();
                return self.fail(StartError::DiedBeforeHello { pid: self.pid, exit });
            }
            let fds = [self.control.as_fd(), self.pidfd()];
            let in_time = wait::readable(&fds, deadline);
            if !in_time.map_err(StartError::system("waiting for a hello"))? {
                return self.fail(StartError::HelloTimeout { pid: self.pid, timeout });
            }
        }
    }

    /// Kills a process that failed to come up; the first error is the answer from then on.
    fn fail<T>(&self, error: StartError) -> Result<T, StartError> {
        // It may have ended by itself, or have left its group; either way it is of no use.
        let _result = self.kill();
        let mut state = process::lock(&self.state);
        if let Greeting::Failed(first) = &state.hello {
            return Err(first.clone());
        }
        state.hello = Greeting::Failed(error.clone());
        Err(error)
    }

    fn receive_hello(&self) -> Result<Heard, StartError> {
        let protocol = |detail: String| StartError::Protocol { detail };
        let mut buffer = [0; HELLO_MAX];
        let mut fds = Vec::new();
        let bytes = match self.control.try_recv(&mut buffer, &mut fds) {
            Ok(Received::Message(len)) => &buffer[..len],
            Ok(Received::Empty) => return Ok(Heard::Nothing),
            Ok(Received::Closed) => return Ok(Heard::End),
            Err(error) => return Err(protocol(format!("its first message: {error}"))),
        };
        if !fds.is_empty() {
            return Err(protocol("its first message carries descriptors".to_owned()));
        }
        if message::kind_of(bytes) == Ok(Refused::KIND) {
            return match message::decode::<Refused>(bytes) {
                Ok(Refused { reason }) => Err(refusal(reason)),
                Err(error) => Err(protocol(error.to_string())),
            };
        }
        match message::decode::<Hello>(bytes) {
            Ok(hello) if hello.build_id == image::build_id() => Ok(Heard::Hello),
            Ok(_) => Err(protocol("it says hello from another build".to_owned())),
            Err(error) => Err(protocol(error.to_string())),
        }
    }

    /// How a process ended that closed its control socket without a word. One that still runs
    /// after a moment is killed: without the socket it is of no use.
    fn exit_of_silent(&self) -> Exit {
        // Descriptors are closed a moment before the process counts as ended.
        if let Ok(Some(exit)) = self.wait_timeout(SILENCE_TIMEOUT) {
            return exit;
        }
        let _result = self.kill();
        self.wait_timeout(DROP_TIMEOUT).ok().flatten().unwrap_or(Exit::Unknown)
    }

    fn wait_until(&self, deadline: Option<Instant>) -> io::Result<Option<Exit>> {
        loop {
            if let Some(exit) = self.try_wait()? {
                return Ok(Some(exit));
            }
            let (dead_since, lost) = {
                let state = process::lock(&self.state);
                (state.dead_since, state.status_lost)
            };
            let in_time = match (dead_since, self.status_fd()) {
                // Dead, and the status not here yet: it is given up at a moment of its own.
                (Some(since), Some(status)) => {
                    let given_up = since + STATUS_TIMEOUT;
                    let until = deadline.map_or(given_up, |deadline| deadline.min(given_up));
                    if lost {
                        // A pipe at its end is readable for ever; what is left to wait for is that somebody reaps.
                        wait::hung_up(self.pidfd(), until.saturating_duration_since(Instant::now()))?;
                    } else {
                        wait::readable(&[status], Some(until))?;
                    }
                    deadline.is_none_or(|deadline| Instant::now() < deadline)
                }
                _ => wait::readable(&[self.pidfd()], deadline)?,
            };
            if !in_time {
                return self.try_wait();
            }
        }
    }

    /// waitid(2) of a child of our own.
    fn reap(&self) -> io::Result<Option<Exit>> {
        match calls::reap_pidfd(self.pidfd()) {
            Ok(status) => Ok(status.map(Exit::from_raw)),
            // Somebody was faster, or SIGCHLD is ignored and there is nothing to reap.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                let dead = wait::is_readable(self.pidfd())?;
                Ok(dead.then(|| self.exit_by_pidfd(REAPED_TIMEOUT)))
            }
            Err(error) => Err(error),
        }
    }

    /// What the server says about a child of its own.
    fn receive_status(&self, status: &PrivateFd, state: &mut State) -> io::Result<Option<Exit>> {
        if !wait::is_readable(self.pidfd())? {
            return Ok(None);
        }
        let elapsed = state.dead_since.get_or_insert_with(Instant::now).elapsed();
        let rest = STATUS_TIMEOUT.saturating_sub(elapsed);
        let mut word = [0; 4];
        let received = read(status, &mut word);
        let told = (received == Ok(word.len())).then(|| Exit::from_word(i32::from_ne_bytes(word))).flatten();
        match received {
            Ok(_) if told.is_some() => Ok(told),
            Err(Errno::EAGAIN | Errno::EINTR) if !rest.is_zero() => Ok(None),
            // The server is silent or gone; whoever reaps now publishes the status in the pidfd.
            _ => {
                state.status_lost = true;
                let answer = calls::pidfd_exit_status(self.pidfd()).ok().flatten().map(Exit::from_raw);
                Ok(answer.or(rest.is_zero().then_some(Exit::Unknown)))
            }
        }
    }

    /// The status of a dead process that is not ours to reap, if the kernel tells (Linux 6.15).
    fn exit_by_pidfd(&self, patience: Duration) -> Exit {
        let mut answer = calls::pidfd_exit_status(self.pidfd());
        if let Ok(None) = answer {
            // Dead and not reaped. It is published before the hang-up.
            let _reaped = wait::hung_up(self.pidfd(), patience);
            answer = calls::pidfd_exit_status(self.pidfd());
        }
        answer.ok().flatten().map_or(Exit::Unknown, Exit::from_raw)
    }

    /// Before Linux 6.9: by the group's id, as long as it is certain to be this group's.
    fn signal_group_id(&self, signal: Signal) -> io::Result<()> {
        // Held so that another thread does not reap the process meanwhile.
        let state = process::lock(&self.state);
        let reaped = match &self.status {
            None => state.exit.is_some(),
            Some(_) => wait::is_readable(self.pidfd())?,
        };
        if reaped {
            return Ok(());
        }
        unless_gone(killpg(calls::pid_t(self.pid), signal).map_err(io::Error::from))
    }
}

/// What there is to hear of a new process.
enum Heard {
    Hello,
    Nothing,
    End,
}

impl Drop for Child {
    fn drop(&mut self) {
        // A copy in a forked process has no right to kill its parent's children.
        if self.owner != std::process::id() || !self.pidfd.is_open_here() {
            return;
        }
        if process::lock(&self.state).exit.is_none() {
            let _result = self.kill();
            let _exit = self.wait_timeout(DROP_TIMEOUT);
        }
    }
}

/// What a process said that will not run.
fn refusal(refusal: Refusal) -> StartError {
    match refusal {
        Refusal::Directory { path, errno } => StartError::Directory { path: path.into(), errno },
        Refusal::Limit { resource, limit, errno } => {
            StartError::Limit { resource, soft: limit.soft, hard: limit.hard, errno }
        }
        Refusal::Other(reason) => StartError::Refused { reason },
    }
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result,
    }
}
