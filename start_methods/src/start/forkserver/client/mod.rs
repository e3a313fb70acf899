//! The parent's end of a fork server: sends one request, receives one reply, and trusts neither.
//!
//! # Invariants
//!
//! - A reply is used only if it is complete, matches the request, and carries the right descriptors; all other
//!   descriptors are closed.
//! - After any invalid or missing reply, the server gets no further request.
//! - Only children of the server are signalled as such: the pidfd must be of the process that the reply names, and that
//!   must be a child of the server.

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::birth::boot::Boot;
use crate::child::child::Child;
use crate::child::handle::Handle;
use crate::child::lifeline::Lifeline;
use crate::child::lifeline::MAKING;
use crate::child::proc_info;
use crate::child::proc_info::Stat;
use crate::error::StartError;
use crate::message;
use crate::message::ForkFailure;
use crate::message::NotReady;
use crate::message::Ready;
use crate::message::Reply;
use crate::message::Request;
use crate::method::StartMethod;
use crate::start::fork;
use crate::start::fork::Births;
use crate::start::forkserver::server;
use crate::start::forkserver::server::Plan;
use crate::start::spawn;
use crate::sys::calls;
use crate::sys::fd::LOWEST;
use crate::sys::fd::PrivateFd;
use crate::sys::image;
use crate::sys::socket::Received;
use crate::sys::threads::ForeignThreads;
use crate::sys::wait;

/// How long a new server may take to send its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may take to reply to a request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum length of a server's message: the text of a panic in a preload fits.
const REPLY_MAX: usize = 4096;

/// How often to check whether a server that does not reply is stopped by a signal. A slow one gets its full time.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A fork server or a template that is running, as far as is known. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    /// It has reported that it serves requests.
    is_ready: bool,
    requests: u64,
}

/// How a fork server is to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch<'a> {
    /// The program, if it is not this one.
    pub(crate) executable: Option<&'a Path>,
    /// Whether it forks beside threads.
    pub(crate) foreign: ForeignThreads,
}

/// Why a server gets no further request.
#[derive(Debug)]
pub(crate) struct Broken {
    detail: String,
}

/// Why nothing was received from a server.
#[derive(Debug)]
enum ReceiveError {
    Broken(Broken),
    /// Its message arrived without the descriptors: the descriptor table of this process is full.
    TableFull(io::Error),
}

impl Broken {
    /// Sorts the errors of a launch: `Err` if a second attempt may succeed, `Ok` if the error is final.
    pub(crate) fn unless_final(error: StartError) -> Result<StartError, Self> {
        match error {
            StartError::HelloTimeout { .. } | StartError::DiedBeforeHello { .. } | StartError::Protocol { .. } => {
                Err(Self { detail: error.to_string() })
            }
            StartError::Forkserver { detail } => Err(Self { detail }),
            error => Ok(error),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl Server {
    /// Starts a fork server by executing this program, or another, and waits until it is ready.
    ///
    /// The preloads are user code, which may take any time.
    pub(crate) fn launch(how: Launch<'_>, preloads: Vec<fn()>) -> Result<Self, StartError> {
        let preloads: Vec<_> = preloads
            .into_iter()
            .map(|f| {
                let address = f as usize;
                image::locate(address).ok_or(StartError::FunctionNotFound { address })
            })
            .collect::<Result<_, _>>()?;
        let payload = Plan { preloads, foreign: how.foreign }.encode();
        let boot = Boot::new(server::serve).name("forkserver").payload(&payload);
        let mut server = Self::new(spawn::start(&boot, StartMethod::Forkserver, how.executable)?);
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Forks a template from this process. Does not wait until it is ready.
    pub(crate) fn fork_template(foreign: ForeignThreads, births: &Births) -> Result<Self, StartError> {
        // The copy has one thread, whatever this process has.
        let payload = Plan { preloads: Vec::new(), foreign: ForeignThreads::Refuse }.encode();
        let boot = Boot::new(server::serve).name("fork-template").payload(&payload);
        Ok(Self::new(fork::start(&boot, foreign, births)?))
    }

    fn new(process: Child) -> Self {
        Self { process, is_ready: false, requests: 0 }
    }

    /// Waits until the server serves requests.
    pub(crate) fn wait_until_ready(&mut self) -> Result<(), StartError> {
        if self.is_ready {
            return Ok(());
        }
        wait_hello_unless_stopped(&self.process, HELLO_TIMEOUT)?;
        let broken = |broken: Broken| StartError::Forkserver { detail: broken.to_string() };
        let (bytes, fds) = match self.receive(None) {
            Ok(message) => message,
            Err(ReceiveError::Broken(error)) => return Err(broken(error)),
            Err(ReceiveError::TableFull(error)) => {
                return Err(StartError::system("receiving from a fork server")(error));
            }
        };
        match message::decode::<Ready>(&bytes) {
            Ok(Ready { outcome: Ok(()) }) if fds.is_empty() => {
                self.is_ready = true;
                Ok(())
            }
            Ok(Ready { outcome: Err(NotReady::Preload(message)) }) => Err(StartError::Preload { message }),
            Ok(Ready { outcome: Err(NotReady::Threads { count, names }) }) => {
                Err(StartError::ServerThreads { count, names })
            }
            Ok(_) => Err(broken(self.broken("it sent unexpected descriptors"))),
            Err(error) => Err(broken(self.broken(&error.to_string()))),
        }
    }

    /// Its process id, unless it has ended.
    pub(crate) fn running(&self) -> Option<u32> {
        // Not by its status, which a tracer may withhold.
        let ended = self.process.is_dead().unwrap_or(true);
        let _exit = self.process.try_wait();
        (!ended).then(|| self.process.pid())
    }

    /// Kills it, without waiting. The processes that it has started are in groups of their own.
    pub(crate) fn dismiss(&self) {
        let _result = self.process.signal(Signal::SIGKILL);
    }

    /// Kills and reaps it.
    pub(crate) fn kill(&self) {
        let _result = self.process.kill();
        let _exit = self.process.wait_timeout(Duration::from_secs(1));
    }

    /// Forks a child, which waits for its boot message.
    ///
    /// The outer error means that the server is broken; the inner one is a failure that it has reported properly.
    pub(crate) fn fork(&mut self) -> Result<Result<Child, StartError>, Broken> {
        match self.send_request()? {
            Ok(lifeline) => self.receive_reply(lifeline),
            Err(error) => Ok(Err(error)),
        }
    }

    /// The first half of [`fork`](Self::fork): sends the request, after which the server forks. Returns the lifeline of
    /// the child.
    pub(crate) fn send_request(&mut self) -> Result<Result<Lifeline, StartError>, Broken> {
        self.wait_until_ready().map_err(|error| Broken { detail: error.to_string() })?;
        let (lifeline, their_end) = match Lifeline::new(LOWEST) {
            Ok(ends) => ends,
            Err(error) => return Ok(Err(StartError::system(MAKING)(error))),
        };
        // Counted only if it is sent: the server counts the requests that it receives.
        self.requests += 1;
        let request = message::encode(&Request { id: self.requests });
        match self.process.control().try_send(&[IoSlice::new(&request)], &[their_end.as_fd()]) {
            Ok(true) => Ok(Ok(lifeline)),
            Ok(false) => Err(self.broken("it does not read its requests")),
            Err(error) => Err(self.broken(&format!("it cannot be sent a request: {error}"))),
        }
    }

    /// The second half of [`fork`](Self::fork): receives the reply.
    pub(crate) fn receive_reply(&mut self, lifeline: Lifeline) -> Result<Result<Child, StartError>, Broken> {
        let (bytes, fds) = match self.receive(Some(Instant::now() + REPLY_TIMEOUT)) {
            Ok(reply) => reply,
            Err(ReceiveError::Broken(broken)) => return Err(broken),
            // Descriptors that do not fit into our table are lost. That is not the server's fault. The child sees its
            // socket closed, and ends.
            Err(ReceiveError::TableFull(error)) => {
                return Ok(Err(StartError::system("receiving the descriptors of a child")(error)));
            }
        };
        let reply: Reply = message::decode(&bytes).map_err(|error| self.broken(&error.to_string()))?;
        if reply.id != self.requests {
            return Err(self.broken("it replied to a request that was not sent"));
        }
        match reply.outcome {
            Ok(pid) => self.child(pid, fds, lifeline),
            Err(ForkFailure::System { stage, errno }) => Ok(Err(StartError::System { doing: stage.doing(), errno })),
            Err(ForkFailure::Threads { count, names }) => Ok(Err(StartError::ServerThreads { count, names })),
        }
    }

    fn child(&self, pid: u32, fds: Vec<PrivateFd>, lifeline: Lifeline) -> Result<Result<Child, StartError>, Broken> {
        let Ok([control, end, status]) = <[PrivateFd; 3]>::try_from(fds) else {
            return Err(self.broken("it sent the wrong number of descriptors"));
        };
        let has_pidfds = !fork::lacks_pidfds();
        let is_child = match has_pidfds {
            true => self.is_child(pid, end.as_fd()),
            // It is killed by its lifeline, not by its id.
            false => Stat::of(pid).map(|stat| stat.is_child_of(self.process.pid())),
        };
        let is_child = match is_child {
            Ok(is_child) => is_child,
            // Not the server's fault, as above.
            Err(error) => return Ok(Err(StartError::system("checking a child in /proc")(error))),
        };
        if i32::try_from(pid).is_err() || pid == 0 || !is_child || !calls::is_unix_seqpacket(control.as_fd()) {
            return Err(self.broken("the process that it sent is not its child"));
        }
        let handle = if has_pidfds { Handle::of_pidfd(pid, end) } else { Handle::of_pipe(pid, end) };
        Ok(Ok(Child::of_server(handle, [control, status], lifeline)))
    }

    fn is_child(&self, pid: u32, pidfd: BorrowedFd<'_>) -> io::Result<bool> {
        // A child that has been reaped meanwhile has no parent, and cannot be signalled.
        let is_child = proc_info::is_child(pid, pidfd, self.process.pid())?;
        Ok(is_child || !proc_info::is_unreaped(pidfd))
    }

    /// The next message. Without a deadline it waits as long as the server lives.
    fn receive(&self, deadline: Option<Instant>) -> Result<(Vec<u8>, Vec<PrivateFd>), ReceiveError> {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        let control = self.process.control();
        loop {
            // Death first, then the socket: what the server sent before it died is in the socket by then.
            // Not by its status, which a tracer may withhold.
            let dead = self.process.is_dead().unwrap_or(true);
            match control.try_recv_into(&mut bytes, REPLY_MAX, &mut fds) {
                Ok(Received::Message(_)) => return Ok((bytes, fds)),
                Ok(Received::Empty) if !dead => {}
                Ok(Received::Empty | Received::Closed) => {
                    return Err(ReceiveError::Broken(self.broken("it is gone")));
                }
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    return Err(ReceiveError::TableFull(error));
                }
                Err(error) => return Err(ReceiveError::Broken(self.broken(&error.to_string()))),
            }
            let next_check = Instant::now() + STOP_CHECK_INTERVAL;
            let until = deadline.map_or(next_check, |deadline| deadline.min(next_check));
            match wait::readable(&[control.as_fd(), self.process.pidfd()], Some(until)) {
                Ok(true) => {}
                Ok(false) if is_stopped(&self.process) => return Err(ReceiveError::Broken(self.broken(STOPPED))),
                Ok(false) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
                Ok(false) => return Err(ReceiveError::Broken(self.broken("it does not reply"))),
                Err(error) => return Err(ReceiveError::Broken(self.broken(&error.to_string()))),
            }
        }
    }

    fn broken(&self, what: &str) -> Broken {
        let exit = match self.process.wait_timeout(Duration::from_millis(10)) {
            Ok(Some(exit)) => format!(" ({exit})"),
            _ => String::new(),
        };
        Broken { detail: format!("process {}: {what}{exit}", self.process.pid()) }
    }
}

const STOPPED: &str = "it was stopped by a signal and cannot reply";

/// Whether a signal has stopped it. A process stopped by a tracer does not count: it is being debugged, and gets its
/// full time.
fn is_stopped(process: &Child) -> bool {
    // It is our child and not reaped while `process` exists, so its id cannot have been reused.
    Stat::of(process.pid()).is_ok_and(Stat::is_stopped)
}

/// [`Child::wait_hello`], which returns early for a process that is stopped by a signal.
fn wait_hello_unless_stopped(process: &Child, timeout: Duration) -> Result<(), StartError> {
    let give_up = Instant::now() + timeout;
    loop {
        let until = give_up.min(Instant::now() + STOP_CHECK_INTERVAL);
        let readable = wait::readable(&[process.control().as_fd(), process.pidfd()], Some(until));
        if readable.map_err(StartError::system("waiting for a fork server"))? || Instant::now() >= give_up {
            let left = give_up.saturating_duration_since(Instant::now());
            // The process was given the whole time, not what is left of it now.
            return process.wait_hello(left).map_err(|error| match error {
                StartError::HelloTimeout { pid, .. } => StartError::HelloTimeout { pid, timeout },
                error => error,
            });
        }
        if is_stopped(process) {
            return Err(StartError::Forkserver { detail: format!("process {}: {STOPPED}", process.pid()) });
        }
    }
}

#[cfg(test)]
mod hostile;
