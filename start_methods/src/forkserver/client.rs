//! The parent's end of a fork server: one request, one reply, and nothing believed.
//!
//! # Invariants
//!
//! - A reply is used only if it is whole, answers the question that was asked, and brings the
//!   descriptors it promises; all others are closed.
//! - A server about which there is any doubt is not asked a second time.

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::boot::Boot;
use crate::child::Child;
use crate::error::StartError;
use crate::fd::PrivateFd;
use crate::fork;
use crate::forkserver::server;
use crate::image;
use crate::lifeline::Lifeline;
use crate::message;
use crate::message::Ready;
use crate::message::Reply;
use crate::message::Request;
use crate::method::StartMethod;
use crate::process;
use crate::socket::Received;
use crate::spawn;
use crate::sys;
use crate::threads::ForeignThreads;
use crate::wait;

/// How long a new server may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may take to answer a request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// A fork server or a template that runs, as far as is known. Dropping it ends and reaps it.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
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
    pub(crate) fn launch(executable: Option<&Path>) -> Result<Self, StartError> {
        let preloads = process::lock(&process::current().preloads).clone();
        let preloads: Vec<_> = preloads
            .into_iter()
            .map(|f| {
                let address = f as usize;
                image::locate(address).ok_or(StartError::FunctionNotFound { address })
            })
            .collect::<Result<_, _>>()?;
        let payload = server::encode_preloads(&preloads);
        let boot = Boot::new(server::serve).name("forkserver").payload(&payload);
        let process = spawn::start(&boot, StartMethod::Forkserver, executable)?;
        Self::when_ready(process)
    }

    /// Forks a template off this process.
    pub(crate) fn fork_template(foreign: ForeignThreads) -> Result<Self, StartError> {
        let payload = server::encode_preloads(&[]);
        let boot = Boot::new(server::serve).name("fork-template").payload(&payload);
        let process = fork::start(&boot, foreign)?;
        Self::when_ready(process)
    }

    fn when_ready(process: Child) -> Result<Self, StartError> {
        process.wait_hello(HELLO_TIMEOUT)?;
        let server = Self { process, requests: 0 };
        let broken = |broken: Broken| StartError::Forkserver { detail: broken.to_string() };
        let (bytes, fds) = match server.receive(None) {
            Ok(message) => message,
            Err(Unheard::Broken(error)) => return Err(broken(error)),
            Err(Unheard::TableFull(error)) => {
                return Err(StartError::system("hearing from a fork server")(error));
            }
        };
        match message::decode::<Ready>(&bytes) {
            Ok(Ready { outcome: Ok(()) }) if fds.is_empty() => Ok(server),
            Ok(Ready { outcome: Err(message) }) => Err(StartError::Preload { message }),
            Ok(_) => Err(broken(server.broken("it sent descriptors nobody asked for"))),
            Err(error) => Err(broken(server.broken(&error.to_string()))),
        }
    }

    /// Its process id, unless it has ended.
    pub(crate) fn running(&self) -> Option<u32> {
        let ended = matches!(self.process.try_wait(), Ok(Some(_)));
        (!ended).then(|| self.process.pid())
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
        self.requests += 1;
        let id = self.requests;
        let request = message::encode(&Request { id });
        match self.process.control().try_send(&[IoSlice::new(&request)], &[]) {
            Ok(true) => {}
            Ok(false) => return Err(self.broken("it does not read its requests")),
            Err(error) => return Err(self.broken(&format!("it cannot be asked: {error}"))),
        }
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
        if reply.id != id {
            return Err(self.broken("it answered a question nobody asked"));
        }
        match reply.outcome {
            Ok(pid) => self.child(pid, fds, lifeline).map(Ok),
            Err(failure) => {
                let error = io::Error::from_raw_os_error(failure.errno);
                Ok(Err(StartError::system(failure.stage.doing())(error)))
            }
        }
    }

    fn child(&self, pid: u32, fds: Vec<PrivateFd>, lifeline: &Arc<Lifeline>) -> Result<Child, Broken> {
        let Ok(fds) = <[PrivateFd; 3]>::try_from(fds) else {
            return Err(self.broken("it sent the wrong number of descriptors"));
        };
        if i32::try_from(pid).is_err() || pid == 0 || !sys::is_unix_seqpacket(fds[0].as_fd()) {
            return Err(self.broken("what it sent is no child"));
        }
        Ok(Child::of_server(pid, fds, Arc::clone(lifeline)))
    }

    /// The next message; `None` waits for ever (but not for a dead server).
    fn receive(&self, deadline: Option<Instant>) -> Result<(Vec<u8>, Vec<PrivateFd>), Unheard> {
        let mut buffer = vec![0; 4096];
        let mut fds = Vec::new();
        let control = self.process.control();
        loop {
            // In this order: what it said before it died is in the socket when it is dead.
            let dead = matches!(self.process.try_wait(), Ok(Some(_)));
            match control.try_recv(&mut buffer, &mut fds) {
                Ok(Received::Message(len)) => {
                    buffer.truncate(len);
                    return Ok((buffer, fds));
                }
                Ok(Received::Empty) if !dead => {}
                Ok(Received::Empty | Received::Closed) => {
                    return Err(Unheard::Broken(self.broken("it is gone")));
                }
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    return Err(Unheard::TableFull(error));
                }
                Err(error) => return Err(Unheard::Broken(self.broken(&error.to_string()))),
            }
            match wait::readable(&[control.as_fd(), self.process.pidfd()], deadline) {
                Ok(true) => {}
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
