//! The parent's end of a fork server: one request, one reply, and nothing believed.
//!
//! # Invariants
//!
//! - A reply is used only if it is whole, answers the question that was asked, and brings the
//!   descriptors it promises; all others are closed.
//! - A server about which there is any doubt is not asked a second time.
//! - What is signalled as a child is one: its pidfd is of the process that the server names, and that is the server's.

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::birth::boot::Boot;
use crate::child::child::Child;
use crate::child::lifeline::Lifeline;
use crate::child::lifeline::OPENING;
use crate::child::proc_info;
use crate::child::proc_info::Stat;
use crate::error::StartError;
use crate::message;
use crate::message::Ready;
use crate::message::Reply;
use crate::message::Request;
use crate::method::StartMethod;
use crate::start::fork;
use crate::start::fork::Births;
use crate::start::forkserver::server;
use crate::start::spawn;
use crate::sys::calls;
use crate::sys::fd::LOWEST;
use crate::sys::fd::PrivateFd;
use crate::sys::image;
use crate::sys::socket::Received;
use crate::sys::threads::ForeignThreads;
use crate::sys::wait;

/// How long a new server may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may take to answer a request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest message of a server that is read: the text of a panic in a preload fits.
const REPLY_MAX: usize = 4096;

/// How long a silent server may be stopped before it is given up. One that is only slow has its time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A fork server or a template that runs, as far as is known. Dropping it ends and reaps it.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    /// It has said that it serves.
    is_ready: bool,
    requests: u64,
}

/// Why a server is not to be asked again.
#[derive(Debug)]
pub(crate) struct Broken {
    detail: String,
}

/// Why nothing was heard from a server.
#[derive(Debug)]
enum Unheard {
    Broken(Broken),
    /// Its message came, without the descriptors: there is no room for them here.
    TableFull(io::Error),
}

impl Broken {
    /// Sorts the failures of a launch: those that a second one need not meet again, and (as `Ok`)
    /// those that are final.
    pub(crate) fn by_accident(error: StartError) -> Result<StartError, Self> {
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
    /// Starts a fork server by executing this program, or `executable`, and waits until it serves.
    ///
    /// The preloads are the user's and may take their time.
    pub(crate) fn launch(executable: Option<&Path>, preloads: Vec<fn()>) -> Result<Self, StartError> {
        let preloads: Vec<_> = preloads
            .into_iter()
            .map(|f| {
                let address = f as usize;
                image::locate(address).ok_or(StartError::FunctionNotFound { address })
            })
            .collect::<Result<_, _>>()?;
        let payload = server::encode_preloads(&preloads);
        let boot = Boot::new(server::serve).name("forkserver").payload(&payload);
        let mut server = Self::new(spawn::start(&boot, StartMethod::Forkserver, executable)?);
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Forks a template off this process. Does not wait until it serves.
    pub(crate) fn fork_template(foreign: ForeignThreads, births: &Births) -> Result<Self, StartError> {
        let payload = server::encode_preloads(&[]);
        let boot = Boot::new(server::serve).name("fork-template").payload(&payload);
        Ok(Self::new(fork::start(&boot, foreign, births)?))
    }

    fn new(process: Child) -> Self {
        Self { process, is_ready: false, requests: 0 }
    }

    /// Waits until it serves.
    pub(crate) fn wait_until_ready(&mut self) -> Result<(), StartError> {
        if self.is_ready {
            return Ok(());
        }
        wait_for_a_word(&self.process, HELLO_TIMEOUT)?;
        let broken = |broken: Broken| StartError::Forkserver { detail: broken.to_string() };
        let (bytes, fds) = match self.receive(None) {
            Ok(message) => message,
            Err(Unheard::Broken(error)) => return Err(broken(error)),
            Err(Unheard::TableFull(error)) => {
                return Err(StartError::system("hearing from a fork server")(error));
            }
        };
        match message::decode::<Ready>(&bytes) {
            Ok(Ready { outcome: Ok(()) }) if fds.is_empty() => {
                self.is_ready = true;
                Ok(())
            }
            Ok(Ready { outcome: Err(message) }) => Err(StartError::Preload { message }),
            Ok(_) => Err(broken(self.broken("it sent descriptors nobody asked for"))),
            Err(error) => Err(broken(self.broken(&error.to_string()))),
        }
    }

    /// Its process id, unless it has ended.
    pub(crate) fn running(&self) -> Option<u32> {
        let ended = matches!(self.process.try_wait(), Ok(Some(_)));
        (!ended).then(|| self.process.pid())
    }

    /// Has it end. Whatever it has started is in groups of its own.
    pub(crate) fn dismiss(&self) {
        let _result = self.process.signal(Signal::SIGKILL);
    }

    /// Ends and reaps it.
    pub(crate) fn kill(&self) {
        let _result = self.process.kill();
        let _exit = self.process.wait_timeout(Duration::from_secs(1));
    }

    /// Has it fork a child, which waits for its boot message.
    ///
    /// The outer error condemns the server; the inner one is its honest answer.
    pub(crate) fn fork(&mut self, lifeline: &Arc<Lifeline>) -> Result<Result<Child, StartError>, Broken> {
        match self.ask(lifeline)? {
            Ok(()) => self.answer(lifeline),
            Err(error) => Ok(Err(error)),
        }
    }

    /// The first half of [`fork`](Self::fork): it forks from here on, if this says so.
    pub(crate) fn ask(&mut self, lifeline: &Arc<Lifeline>) -> Result<Result<(), StartError>, Broken> {
        self.wait_until_ready().map_err(|error| Broken { detail: error.to_string() })?;
        let own_end = match lifeline.open(LOWEST) {
            Ok(own_end) => own_end,
            Err(error) => return Ok(Err(StartError::system(OPENING)(error))),
        };
        // Only what is sent is counted: the server counts along.
        self.requests += 1;
        let request = message::encode(&Request { id: self.requests });
        match self.process.control().try_send(&[IoSlice::new(&request)], &[own_end.as_fd()]) {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Err(self.broken("it does not read its requests")),
            Err(error) => Err(self.broken(&format!("it cannot be asked: {error}"))),
        }
    }

    /// The second half of [`fork`](Self::fork).
    pub(crate) fn answer(&mut self, lifeline: &Arc<Lifeline>) -> Result<Result<Child, StartError>, Broken> {
        let (bytes, fds) = match self.receive(Some(Instant::now() + REPLY_TIMEOUT)) {
            Ok(reply) => reply,
            Err(Unheard::Broken(broken)) => return Err(broken),
            // Descriptors that do not fit our table are lost on the way. That is our trouble and not
            // the server's; the child sees the end of its socket and ends.
            Err(Unheard::TableFull(error)) => {
                return Ok(Err(StartError::system("receiving the descriptors of a child")(error)));
            }
        };
        let reply: Reply = message::decode(&bytes).map_err(|error| self.broken(&error.to_string()))?;
        if reply.id != self.requests {
            return Err(self.broken("it answered a question nobody asked"));
        }
        match reply.outcome {
            Ok(pid) => self.child(pid, fds, lifeline),
            Err(failure) => {
                let error = io::Error::from_raw_os_error(failure.errno);
                Ok(Err(StartError::system(failure.stage.doing())(error)))
            }
        }
    }

    fn child(
        &self,
        pid: u32,
        fds: Vec<PrivateFd>,
        lifeline: &Arc<Lifeline>,
    ) -> Result<Result<Child, StartError>, Broken> {
        let Ok(fds) = <[PrivateFd; 3]>::try_from(fds) else {
            return Err(self.broken("it sent the wrong number of descriptors"));
        };
        let pidfd = fds[1].as_fd();
        // One that has been reaped meanwhile is nobody's child, and nothing can be done to it.
        let is_child = match proc_info::is_child(pid, pidfd, self.process.pid()) {
            Ok(is_child) => is_child || !proc_info::is_unreaped(pidfd),
            // Our trouble and not the server's, as above.
            Err(error) => return Ok(Err(StartError::system("looking at a child in /proc")(error))),
        };
        if i32::try_from(pid).is_err() || pid == 0 || !is_child || !calls::is_unix_seqpacket(fds[0].as_fd()) {
            return Err(self.broken("what it sent is no child"));
        }
        Ok(Ok(Child::of_server(pid, fds, Arc::clone(lifeline))))
    }

    /// The next message; `None` waits for ever (but not for a dead server).
    fn receive(&self, deadline: Option<Instant>) -> Result<(Vec<u8>, Vec<PrivateFd>), Unheard> {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        let control = self.process.control();
        loop {
            // In this order: what it said before it died is in the socket when it is dead.
            let dead = matches!(self.process.try_wait(), Ok(Some(_)));
            match control.try_recv_into(&mut bytes, REPLY_MAX, &mut fds) {
                Ok(Received::Message(_)) => return Ok((bytes, fds)),
                Ok(Received::Empty) if !dead => {}
                Ok(Received::Empty | Received::Closed) => {
                    return Err(Unheard::Broken(self.broken("it is gone")));
                }
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    return Err(Unheard::TableFull(error));
                }
                Err(error) => return Err(Unheard::Broken(self.broken(&error.to_string()))),
            }
            let look = Instant::now() + LOOK_EVERY;
            let until = deadline.map_or(look, |deadline| deadline.min(look));
            match wait::readable(&[control.as_fd(), self.process.pidfd()], Some(until)) {
                Ok(true) => {}
                Ok(false) if is_stopped(&self.process) => return Err(Unheard::Broken(self.broken(STOPPED))),
                Ok(false) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
                Ok(false) => return Err(Unheard::Broken(self.broken("it does not answer"))),
                Err(error) => return Err(Unheard::Broken(self.broken(&error.to_string()))),
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

const STOPPED: &str = "it was stopped by a signal, and would answer nobody";

/// Whether somebody has stopped it. One that is traced is somebody's who looks at it, and has its time.
fn is_stopped(process: &Child) -> bool {
    // It is ours and not reaped as long as it is dropped by nobody, so the number is its own.
    Stat::of(process.pid()).is_ok_and(Stat::is_stopped)
}

/// [`Child::wait_hello`], which a process that is stopped need not be given all the time for.
fn wait_for_a_word(process: &Child, timeout: Duration) -> Result<(), StartError> {
    let give_up = Instant::now() + timeout;
    loop {
        let until = give_up.min(Instant::now() + LOOK_EVERY);
        let heard = wait::readable(&[process.control().as_fd(), process.pidfd()], Some(until));
        if heard.map_err(StartError::system("waiting for a fork server"))? || Instant::now() >= give_up {
            return process.wait_hello(give_up.saturating_duration_since(Instant::now()));
        }
        if is_stopped(process) {
            return Err(StartError::Forkserver { detail: format!("process {}: {STOPPED}", process.pid()) });
        }
    }
}

#[cfg(test)]
mod hostile;
