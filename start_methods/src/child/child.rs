//! [`Child`]: a started process, with its pidfd, its control socket, and how it ended.
//!
//! # Invariants
//!
//! - A process is addressed by its [`Handle`]. Its id is used only while it cannot have been reaped.
//! - Once an exit was reported, every later call returns the same one.
//! - The lifeline lives as long as the child: for a process that is still alive, dropping its child has the same effect
//!   as the parent's death.
//! - A refused SIGKILL is never without effect: the lifeline is cut, and the kernel kills the process.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::read;

use crate::child::handle::Handle;
use crate::child::lifeline::Lifeline;
use crate::child::tree;
use crate::child::tree::PIDFD_SIGNAL_PROCESS_GROUP;
use crate::child::unreaped;
use crate::error::StartError;
use crate::exit::Exit;
use crate::message;
use crate::message::Hello;
use crate::message::Message;
use crate::message::Refusal;
use crate::message::Refused;
use crate::sys::calls;
use crate::sys::fd;
use crate::sys::fd::PrivateFd;
use crate::sys::image;
use crate::sys::process;
use crate::sys::socket::Received;
use crate::sys::socket::Socket;
use crate::sys::wait;
use crate::sys::wait::Pauses;

/// How long to wait for the status of a dead process from the server that reaps it.
const STATUS_TIMEOUT: Duration = Duration::from_millis(250);

/// How long the kernel may take from the moment at which a process is dead and cannot be reaped here until it publishes
/// the status.
const REAPED_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a process may continue after it has closed its control socket without a hello.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long dropping a [`Child`] waits for the killed process.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum length of a child's first message: a refusal with the longest path fits.
const HELLO_MAX: usize = 8 * 1024;

/// A started process, killed when this is dropped.
///
/// Dropping a child that was not waited for sends SIGKILL to its process group and reaps it. This takes as long as the
/// kernel needs to end the process, but at most a second. A process that cannot be reaped by then (a tracer holds it, or
/// the kernel does not end it) is reaped by the next start or drop that can.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use start_methods::{Birth, Boot, StartMethod};
///
/// fn seven(_: Birth) -> u8 {
///     7
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     start_methods::init();
///     let child = start_methods::start(StartMethod::Spawn, &Boot::new(seven))?;
///     child.wait_hello(Duration::from_secs(10))?;
///     assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(7));
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Child {
    handle: Handle,
    /// The process that started it.
    owner: u32,
    control: Socket,
    /// The read end of the pipe by which a server reports the status; `None` for children of this process.
    status: Option<PrivateFd>,
    state: Mutex<State>,
    lifeline: Lifeline,
}

#[derive(Debug, Default)]
struct State {
    exit: Option<Exit>,
    /// When the process was first seen to be dead although its status was not available yet.
    dead_since: Option<Instant>,
    /// The server is gone or has sent an invalid status: only the kernel can report the status now.
    status_lost: bool,
    hello: HelloState,
}

#[derive(Debug, Default)]
enum HelloState {
    #[default]
    Awaited,
    Received,
    Failed(StartError),
}

impl Child {
    /// A child of this process.
    pub(crate) fn direct(handle: Handle, control: Socket, lifeline: Lifeline) -> Self {
        Self::new(handle, control, None, lifeline)
    }

    /// A child of a fork server, which reports its status through a pipe.
    pub(crate) fn of_server(handle: Handle, [control, status]: [PrivateFd; 2], lifeline: Lifeline) -> Self {
        Self::new(handle, Socket::from_fd(control), Some(status), lifeline)
    }

    fn new(handle: Handle, control: Socket, status: Option<PrivateFd>, lifeline: Lifeline) -> Self {
        unreaped::reap();
        let (owner, state) = (std::process::id(), Mutex::default());
        Self { handle, owner, control, status, state, lifeline }
    }

    /// Its process id, for messages. To address the process use [`signal`](Self::signal).
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(run))?;
    /// println!("started process {}", child.pid());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.handle.pid()
    }

    /// Does not trust what the process sends on its control socket; see [`Socket::distrust`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let mut child = start_methods::start(StartMethod::Spawn, &Boot::new(run))?;
    /// child.distrust();
    /// # Ok::<(), start_methods::StartError>(())
    /// ```
    pub fn distrust(&mut self) {
        self.control.distrust();
    }

    /// The parent's end of the socket whose other end is [`Birth::control`](crate::Birth::control).
    ///
    /// The child's first message is its hello: call [`try_hello`](Self::try_hello) or [`wait_hello`](Self::wait_hello)
    /// until it has been received, and use the socket after that.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::IoSlice;
    /// use std::time::Duration;
    ///
    /// use start_methods::{Birth, Boot, Received, StartMethod};
    ///
    /// fn greet(birth: Birth) -> u8 {
    ///     birth.control.send(&[IoSlice::new(b"hello")], &[]).unwrap();
    ///     0
    /// }
    ///
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(greet))?;
    /// child.wait_hello(Duration::from_secs(10))?;
    /// let mut buffer = [0; 16];
    /// assert_eq!(child.control().recv(&mut buffer, &mut Vec::new())?, Received::Message(5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn control(&self) -> &Socket {
        &self.control
    }

    /// A descriptor that becomes readable, or hangs up, when the process has ended. For poll(2) and the like.
    ///
    /// A pidfd, except with fork where the system has none (valgrind, gVisor): then it is a pipe, which may hang up
    /// later than the process ends if that has forked another.
    ///
    /// # Examples
    ///
    /// ```
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    ///
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(run))?;
    /// poll(&mut [PollFd::new(child.pidfd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    /// assert!(child.try_wait()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.handle.end()
    }

    /// For a child of a fork server or a template: a descriptor that becomes readable, or hangs up, once its exit
    /// status is known, a moment after [`pidfd`](Self::pidfd) becomes readable. `None` for a child of this process.
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let spawned = start_methods::start(StartMethod::Spawn, &Boot::new(run))?;
    /// let forked = start_methods::start(StartMethod::Forkserver, &Boot::new(run))?;
    /// assert!(spawned.status_fd().is_none());
    /// assert!(forked.status_fd().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn status_fd(&self) -> Option<BorrowedFd<'_>> {
        self.status.as_ref().map(AsFd::as_fd)
    }

    /// How the process ended; `None` while it runs. Reaps it. Does not wait. May be called again after the end.
    ///
    /// The status of a child of a fork server arrives a moment after its end. Until then this returns `None`, for at
    /// most 250 ms. For a child of this process, it returns `None` as long as a tracer of the dead process (a debugger)
    /// has not seen the end: until then the kernel lets no other process have the status.
    ///
    /// # Errors
    ///
    /// When waitid(2), poll(2) or read(2) fails (never observed).
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// fn sleep(_: Birth) -> u8 {
    ///     std::thread::sleep(std::time::Duration::from_secs(1000));
    ///     0
    /// }
    ///
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(sleep))?;
    /// assert_eq!(child.try_wait()?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_wait(&self) -> io::Result<Option<Exit>> {
        // Held across the reap: reaping frees the id, which `signal_group_id` uses under the same lock.
        let mut state = process::lock(&self.state);
        if state.exit.is_none() {
            state.exit = match &self.status {
                None => self.reap(&mut state)?,
                Some(status) => self.receive_status(status, &mut state)?,
            };
        }
        Ok(state.exit)
    }

    /// Waits until the process ends, and returns how it ended. Reaps it.
    ///
    /// # Errors
    ///
    /// As for [`try_wait`](Self::try_wait).
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(run))?;
    /// assert!(child.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(&self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.wait_until(None)? {
                return Ok(exit);
            }
        }
    }

    /// As [`wait`](Self::wait), for at most `timeout`; `None` means that the process still runs, or is held by a tracer:
    /// see [`try_wait`](Self::try_wait).
    ///
    /// # Errors
    ///
    /// As for [`try_wait`](Self::try_wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn sleep(_: Birth) -> u8 { std::thread::sleep(Duration::from_secs(1000)); 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(sleep))?;
    /// assert_eq!(child.wait_timeout(Duration::from_millis(10))?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<Exit>> {
        // A timeout beyond the clock's range means no timeout.
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// Sends a signal to the process. Does nothing if it has ended.
    ///
    /// SIGKILL always works: if this process may not signal the other one, because it has dropped its privileges since
    /// or because the other one has changed its user, the kernel kills it by its lifeline.
    ///
    /// # Errors
    ///
    /// - EPERM when the process is not to be signalled by this user, and the signal is not SIGKILL.
    /// - ENOSYS for any signal but SIGKILL, if the process is a child of a fork server or a template and the system has
    ///   no pidfds (valgrind, gVisor, filters of system calls).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::process::ExitStatusExt;
    /// use std::time::Duration;
    ///
    /// use nix::sys::signal::Signal;
    ///
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn sleep(_: Birth) -> u8 { std::thread::sleep(Duration::from_secs(1000)); 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(sleep))?;
    /// child.wait_hello(Duration::from_secs(10))?;
    /// child.signal(Signal::SIGTERM)?;
    /// assert_eq!(child.wait()?.status().and_then(|status| status.signal()), Some(Signal::SIGTERM as i32));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let result = self.send(signal);
        if signal == Signal::SIGKILL && is_refused(&result) {
            self.lifeline.cut();
            return Ok(());
        }
        result
    }

    /// Sends a signal to the process group that the process leads: the process and its own children.
    ///
    /// Does nothing if the group is gone. Before Linux 6.9, a group whose leader has been reaped is out of reach.
    ///
    /// # Errors
    ///
    /// EPERM when no process of the group is to be signalled by this user. With SIGKILL, the process itself is killed
    /// all the same, as by [`signal`](Self::signal).
    ///
    /// # Examples
    ///
    /// ```
    /// use nix::sys::signal::Signal;
    ///
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn sleep(_: Birth) -> u8 { std::thread::sleep(std::time::Duration::from_secs(1000)); 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(sleep))?;
    /// child.signal_group(Signal::SIGKILL)?;
    /// assert!(!child.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        let by_pidfd = |pidfd| calls::pidfd_send_signal(pidfd, signal as i32, PIDFD_SIGNAL_PROCESS_GROUP);
        let result = match self.handle.pidfd().map(by_pidfd) {
            Some(Err(error)) if error.raw_os_error() == Some(libc::EINVAL) => self.signal_group_id(signal),
            Some(result) if !is_refused(&result) => unless_gone(result),
            _ => self.signal_group_id(signal),
        };
        if signal == Signal::SIGKILL && is_refused(&result) {
            self.lifeline.cut();
        }
        result
    }

    /// Sends SIGKILL to the process and to its process group. Processes of the group that this user may not signal are
    /// out of reach; the process itself is not.
    ///
    /// # Errors
    ///
    /// When pidfd_send_signal(2) fails for another reason than a missing permission (never observed).
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn sleep(_: Birth) -> u8 { std::thread::sleep(std::time::Duration::from_secs(1000)); 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(sleep))?;
    /// child.kill()?;
    /// assert!(child.wait()?.to_string().starts_with("killed by SIGKILL"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn kill(&self) -> io::Result<()> {
        // Both, whether or not the first fails: the process may have left its group.
        let group = self.signal_group(Signal::SIGKILL);
        self.signal(Signal::SIGKILL).and(unless_refused(group))
    }

    /// Sends SIGKILL to the process and to all its descendants, whatever groups and sessions they have created.
    ///
    /// The processes are stopped first, so that they start no others meanwhile, and found through /proc, from parent to
    /// child. This does not wait for their end, and takes a few milliseconds at most, however many there are. Out of
    /// reach are processes whose own parent had ended before (daemons), unless they are in the process group, and
    /// processes of other users. Where the kernel does not list children, and if the process has ended already, this is
    /// the same as [`kill`](Self::kill).
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    /// use std::time::Duration;
    ///
    /// use start_methods::{Birth, Boot, StartMethod};
    ///
    /// fn run_program(_: Birth) -> u8 {
    ///     Command::new("sleep").arg("1000").status().map_or(1, |_| 0)
    /// }
    ///
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(run_program))?;
    /// child.wait_hello(Duration::from_secs(10))?;
    /// child.kill_tree()?; // The program is killed too.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn kill_tree(&self) -> io::Result<()> {
        // Descendants are found and signalled only through pidfds.
        let Some(pidfd) = self.handle.pidfd() else {
            return self.kill();
        };
        // The group at once: from here on none of its members can start a process.
        let _result = self.signal_group(Signal::SIGSTOP);
        unless_refused(self.signal(Signal::SIGSTOP))?;
        tree::kill_descendants(self.pid(), pidfd);
        self.kill()
    }

    /// Whether the process has sent its hello; `None` means not yet. Does not wait for it.
    ///
    /// # Errors
    ///
    /// - [`StartError::Directory`], [`StartError::Limit`], [`StartError::Refused`]: the process refuses to run.
    /// - [`StartError::DiedBeforeHello`]: it has ended.
    /// - [`StartError::Protocol`]: it sent any other message.
    ///
    /// In each case the process is killed if it still runs, and later calls return the same error.
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(run))?;
    /// while child.try_hello()?.is_none() {
    ///     std::thread::yield_now(); // Do something useful.
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_hello(&self) -> Result<Option<()>, StartError> {
        let mut state = process::lock(&self.state);
        match &state.hello {
            HelloState::Received => return Ok(Some(())),
            HelloState::Failed(error) => return Err(error.clone()),
            HelloState::Awaited => {}
        }
        let waiting = StartError::system("waiting for a hello");
        // Death first, then the socket: what the process sent before it died is in the socket by then.
        let dead = self.is_dead().map_err(&waiting)?;
        match self.receive_hello() {
            Ok(FirstMessage::Hello) => {
                state.hello = HelloState::Received;
                Ok(Some(()))
            }
            Ok(FirstMessage::NotYet) if !dead => Ok(None),
            Ok(FirstMessage::NotYet | FirstMessage::Closed) => {
                // Unlocked first: `kill_and_fail` and `try_wait` lock the state themselves.
                drop(state);
                match self.try_wait() {
                    Ok(Some(exit)) => self.kill_and_fail(StartError::DiedBeforeHello { pid: self.pid(), exit }),
                    // It is about to end, or its status is about to arrive.
                    Ok(None) => Ok(None),
                    Err(error) => self.kill_and_fail(waiting(error)),
                }
            }
            Err(error) => {
                drop(state);
                self.kill_and_fail(error)
            }
        }
    }

    /// Whether the process has closed its control socket: it is about to end, or will at least send nothing more.
    ///
    /// # Examples
    ///
    /// ```
    /// # use start_methods::{Birth, Boot, StartMethod};
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(run))?;
    /// child.wait()?;
    /// assert!(child.is_silenced());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_silenced(&self) -> bool {
        wait::hung_up(self.control.as_fd(), Duration::ZERO).unwrap_or(true)
    }

    /// Waits for the hello. A process that does not send it within `timeout` is killed.
    ///
    /// # Errors
    ///
    /// As for [`try_hello`](Self::try_hello), and [`StartError::HelloTimeout`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use start_methods::{Birth, Boot, StartError, StartMethod};
    ///
    /// # fn run(_: Birth) -> u8 { 0 }
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(run))?;
    /// child.wait_hello(Duration::from_secs(10))?;
    ///
    /// let boot = Boot::new(run).current_dir("/nowhere");
    /// let child = start_methods::start(StartMethod::Spawn, &boot)?;
    /// let error = child.wait_hello(Duration::from_secs(10)).unwrap_err();
    /// assert!(matches!(error, StartError::Directory { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_hello(&self, timeout: Duration) -> Result<(), StartError> {
        let deadline = Instant::now().checked_add(timeout);
        let mut pauses = Pauses::new();
        loop {
            // Close first, then the message: what the process sent before it closed the socket is readable by then.
            let closed = self.is_silenced();
            if self.try_hello()?.is_some() {
                return Ok(());
            }
            if closed {
                let exit = self.exit_after_close();
                return self.kill_and_fail(StartError::DiedBeforeHello { pid: self.pid(), exit });
            }
            let waiting = StartError::system("waiting for a hello");
            let in_time = match self.is_dead().map_err(&waiting)? {
                false => wait::readable(&[self.control.as_fd(), self.pidfd()], deadline).map_err(&waiting)?,
                // Dead, and its status is not available; a copy of its socket is open elsewhere.
                true => pauses.sleep(deadline),
            };
            if !in_time {
                return self.kill_and_fail(StartError::HelloTimeout { pid: self.pid(), timeout });
            }
        }
    }

    /// Kills a process that failed to start. The first error is returned from then on.
    fn kill_and_fail<T>(&self, error: StartError) -> Result<T, StartError> {
        // Errors are ignored: it may have ended by itself, or have left its group.
        let _result = self.kill();
        let mut state = process::lock(&self.state);
        if let HelloState::Failed(first) = &state.hello {
            return Err(first.clone());
        }
        state.hello = HelloState::Failed(error.clone());
        Err(error)
    }

    fn receive_hello(&self) -> Result<FirstMessage, StartError> {
        let protocol = |detail: String| StartError::Protocol { detail };
        let mut buffer = [0; HELLO_MAX];
        let mut fds = Vec::new();
        let bytes = match self.control.try_recv(&mut buffer, &mut fds) {
            Ok(Received::Message(len)) => &buffer[..len],
            Ok(Received::Empty) => return Ok(FirstMessage::NotYet),
            Ok(Received::Closed) => return Ok(FirstMessage::Closed),
            Err(error) => return Err(protocol(format!("its first message: {error}"))),
        };
        if !fds.is_empty() {
            return Err(protocol("its first message carries descriptors".to_owned()));
        }
        if message::kind_of(bytes) == Ok(Refused::KIND) {
            return match message::decode::<Refused>(bytes) {
                Ok(Refused { reason }) => Err(error_of(reason)),
                Err(error) => Err(protocol(error.to_string())),
            };
        }
        match message::decode::<Hello>(bytes) {
            Ok(hello) if hello.build_id == image::build_id() => Ok(FirstMessage::Hello),
            Ok(_) => Err(protocol("its hello is from another build".to_owned())),
            Err(error) => Err(protocol(error.to_string())),
        }
    }

    /// How a process ended that closed its control socket without a hello. If it still runs after a short time it is
    /// killed: without the socket it cannot be used.
    fn exit_after_close(&self) -> Exit {
        // A dying process closes its descriptors a moment before it counts as ended.
        if let Ok(Some(exit)) = self.wait_timeout(CLOSE_TIMEOUT) {
            return exit;
        }
        let _result = self.kill();
        self.wait_timeout(DROP_TIMEOUT).ok().flatten().unwrap_or(Exit::Unknown)
    }

    /// Whether the process has ended, even if its status is not known yet.
    pub(crate) fn is_dead(&self) -> io::Result<bool> {
        wait::is_readable(self.pidfd())
    }

    fn wait_until(&self, deadline: Option<Instant>) -> io::Result<Option<Exit>> {
        let mut pauses = Pauses::new();
        loop {
            // Before the status is asked for: an end in between is seen by the poll below, without a pause.
            let is_dead = self.is_dead()?;
            if let Some(exit) = self.try_wait()? {
                return Ok(Some(exit));
            }
            let in_time = match is_dead {
                false => self.wait_for_end(&mut pauses, deadline)?,
                true => self.wait_for_status(&mut pauses, deadline)?,
            };
            if !in_time {
                return self.try_wait();
            }
        }
    }

    /// Waits until the process may have ended; `false` if the deadline passed first.
    fn wait_for_end(&self, pauses: &mut Pauses, deadline: Option<Instant>) -> io::Result<bool> {
        match self.handle.pidfd() {
            Some(pidfd) => wait::readable(&[pidfd], deadline),
            // A process that the child has forked may hold the pipe open.
            None => pauses.wait_for_hangup(self.handle.end(), deadline),
        }
    }

    /// Waits until the status of the dead process may be available; `false` if the deadline passed first.
    fn wait_for_status(&self, pauses: &mut Pauses, deadline: Option<Instant>) -> io::Result<bool> {
        let (given_up, lost) = {
            let state = process::lock(&self.state);
            (state.dead_since.map(|since| since + STATUS_TIMEOUT), state.status_lost)
        };
        match (self.status_fd(), given_up) {
            // A closed pipe stays readable: `lost` keeps this from being a loop without a pause.
            (Some(status), Some(given_up)) if !lost => {
                let until = deadline.map_or(given_up, |deadline| deadline.min(given_up));
                wait::readable(&[status], Some(until))?;
                Ok(deadline.is_none_or(|deadline| Instant::now() < deadline))
            }
            // The pidfd stays readable, and no event reports that a tracer lets the process go.
            _ => pauses.wait_for_hangup(self.pidfd(), deadline),
        }
    }

    /// waitid(2) of a child of this process.
    fn reap(&self, state: &mut State) -> io::Result<Option<Exit>> {
        match self.handle.reap() {
            Ok(status) => Ok(status.map(Exit::from_raw)),
            // Other code has reaped it, or SIGCHLD is ignored and the kernel has.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                // Without a pidfd its end is known only by this error: it was a child of this process.
                if self.handle.pidfd().is_none() {
                    return Ok(Some(Exit::Unknown));
                }
                let dead = self.is_dead()?;
                Ok(if dead { self.published_exit(state, REAPED_TIMEOUT) } else { None })
            }
            Err(error) => Err(error),
        }
    }

    /// The status of a dead process that this process cannot reap, if the kernel reports it (Linux 6.15). It does so
    /// once the process has been reaped elsewhere; `None` until then, for at most `timeout`.
    fn published_exit(&self, state: &mut State, timeout: Duration) -> Option<Exit> {
        let is_late = state.dead_since.get_or_insert_with(Instant::now).elapsed() >= timeout;
        match calls::pidfd_exit_status(self.pidfd()) {
            Ok(Some(status)) => Some(Exit::from_raw(status)),
            Ok(None) if !is_late => None,
            Ok(None) | Err(_) => Some(Exit::Unknown),
        }
    }

    /// The status that the server has reported for its child.
    fn receive_status(&self, status: &PrivateFd, state: &mut State) -> io::Result<Option<Exit>> {
        if !self.is_dead()? {
            return Ok(None);
        }
        let elapsed = state.dead_since.get_or_insert_with(Instant::now).elapsed();
        let rest = STATUS_TIMEOUT.saturating_sub(elapsed);
        let mut word = [0; 4];
        let received = read(status, &mut word);
        let reported = (received == Ok(word.len())).then(|| Exit::from_word(i32::from_ne_bytes(word))).flatten();
        match received {
            Ok(_) if reported.is_some() => Ok(reported),
            Err(Errno::EAGAIN | Errno::EINTR) if !rest.is_zero() => Ok(None),
            // The server is gone or has sent nonsense. The kernel publishes the status in the pidfd once the process
            // has been reaped.
            _ => {
                state.status_lost = true;
                let answer = calls::pidfd_exit_status(self.pidfd()).ok().flatten().map(Exit::from_raw);
                Ok(answer.or(rest.is_zero().then_some(Exit::Unknown)))
            }
        }
    }

    /// Sends a signal by the pidfd. Where that is missing or refused, a child of this process has it by its id.
    fn send(&self, signal: Signal) -> io::Result<()> {
        let by_pidfd = |pidfd| unless_gone(calls::pidfd_send_signal(pidfd, signal as i32, 0));
        match self.handle.pidfd().map(by_pidfd) {
            Some(result) if !is_refused(&result) => result,
            _ if self.status.is_none() => self.signal_by_id(signal),
            Some(result) => result,
            None => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }

    /// Without pidfds: signals a child of this process by its id.
    fn signal_by_id(&self, signal: Signal) -> io::Result<()> {
        // Held so that no other thread reaps the process, which would free its id, before it is signalled.
        let state = process::lock(&self.state);
        match state.exit {
            None => unless_gone(self.handle.signal_by_id(signal)),
            Some(_) => Ok(()),
        }
    }

    /// Before Linux 6.9, and without pidfds: signals the group by its id, as long as the id cannot have been reused.
    fn signal_group_id(&self, signal: Signal) -> io::Result<()> {
        // Held so that no other thread reaps the process, which would free its id, before it is signalled.
        let state = process::lock(&self.state);
        let reaped = match &self.status {
            None => state.exit.is_some(),
            Some(_) => wait::is_readable(self.pidfd())?,
        };
        if reaped {
            return Ok(());
        }
        unless_gone(killpg(calls::pid_t(self.pid()), signal).map_err(io::Error::from))
    }
}

/// What a new process has sent.
enum FirstMessage {
    Hello,
    NotYet,
    Closed,
}

impl Drop for Child {
    fn drop(&mut self) {
        // A copy in a forked process must not kill its parent's children.
        if self.owner != std::process::id() || !self.handle.is_open_here() {
            return;
        }
        unreaped::reap();
        if process::lock(&self.state).exit.is_some() {
            return;
        }
        let _result = self.kill();
        match self.handle.pidfd() {
            Some(pidfd) => drop(wait::readable(&[pidfd], Instant::now().checked_add(DROP_TIMEOUT))),
            // The pipe hangs up while the process is still ending: only its status says that it has ended.
            None => drop(self.wait_timeout(DROP_TIMEOUT)),
        }
        // A child of a server is the server's to reap.
        if self.status.is_none() && matches!(self.try_wait(), Ok(None)) {
            unreaped::remember(self.handle.clone());
        }
    }
}

/// The error for a process that refuses to run.
fn error_of(refusal: Refusal) -> StartError {
    match refusal {
        Refusal::Directory { path, errno } => StartError::Directory { path: path.into(), errno },
        Refusal::Limit { resource, limit, errno } => {
            StartError::Limit { resource, soft: limit.soft, hard: limit.hard, errno }
        }
        Refusal::Other(reason) => StartError::Refused { reason },
    }
}

/// Missing permission, or a system without the call.
fn is_refused(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(fd::is_refusal)
}

fn unless_refused(result: io::Result<()>) -> io::Result<()> {
    if is_refused(&result) { Ok(()) } else { result }
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result,
    }
}
