//! The fork server process: runs the preloads, then forks children on request and reaps them at once.
//!
//! It is the entry of an ordinary child with one thread, executed (the fork server) or forked (the template of a
//! settled starter).
//!
//! ```text
//!             request socket ──▶ fork ──▶ reply {pid, control end, pidfd, status pipe}
//!  poll ──▶ {
//!             pidfd of a child ──▶ waitid ──▶ status word into its status pipe
//! ```
//!
//! # Invariants
//!
//! - Every request has a reply, even if it fails.
//! - A child is reaped as soon as it is dead, and only by its pidfd. While a tracer holds a dead child, its pidfd is not
//!   polled: it would be readable all the time. The child is tried again after growing pauses.
//! - The server ends when the request socket is closed. It leaves its children alone.

use std::io;
use std::io::IoSlice;
use std::io::Write;
use std::os::fd::AsFd;
use std::panic::catch_unwind;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use nix::unistd::write;
use serde::Deserialize;
use serde::Serialize;

use crate::birth::boot::Birth;
use crate::birth::function::preload_at;
use crate::child::handle::Handle;
use crate::error::StartError;
use crate::error::errno_of;
use crate::message;
use crate::message::ForkFailure;
use crate::message::NotReady;
use crate::message::Ready;
use crate::message::Reply;
use crate::message::Request;
use crate::message::Stage;
use crate::start::fork::Sentinel;
use crate::start::fork::fork_waiting;
use crate::sys::calls;
use crate::sys::calls::Disposition;
use crate::sys::failpoint::failpoint;
use crate::sys::fd;
use crate::sys::fd::PrivateFd;
use crate::sys::image::ImageRef;
use crate::sys::socket::Received;
use crate::sys::socket::Socket;
use crate::sys::threads;
use crate::sys::threads::ForeignThreads;
use crate::sys::threads::Hold;
use crate::sys::wait;
use crate::sys::wait::Pauses;

/// The exit code of a server that has received an invalid request.
const EXIT_CONFUSED: u8 = 70;

/// The exit code of a server that cannot serve.
const EXIT_NOT_READY: u8 = 71;

/// Maximum characters of a panic's text that are passed on: it must fit into one message.
const TEXT_MAX: usize = 500;

/// A child that has not been reaped.
struct Served {
    handle: Handle,
    status: PrivateFd,
    held: Option<Held>,
}

/// A dead child that a tracer holds.
struct Held {
    pauses: Pauses,
    try_at: Instant,
}

impl Served {
    /// The next attempt to reap it comes after a pause.
    fn hold(&mut self) {
        let mut pauses = self.held.take().map_or_else(Pauses::new, |held| held.pauses);
        let try_at = Instant::now() + pauses.next();
        self.held = Some(Held { pauses, try_at });
    }
}

/// A child that was just forked, and what the parent receives of it.
struct Forked {
    control: Socket,
    status: PrivateFd,
    served: Served,
}

/// The payload of the server's boot message: what it does before it serves, and whether it forks beside threads.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Plan {
    pub(crate) preloads: Vec<ImageRef>,
    pub(crate) foreign: ForeignThreads,
}

impl Plan {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("image references can always be encoded")
    }
}

/// The entry of a fork server.
pub(crate) fn serve(birth: Birth) -> u8 {
    // Signals from a terminal are for the parent, which ends this process by closing the socket.
    calls::set_disposition(libc::SIGINT, Disposition::Ignore);
    calls::set_disposition(libc::SIGHUP, Disposition::Ignore);
    let requests = birth.control;
    let outcome = prepare(&birth.payload);
    // Every child would write again what is in the buffer.
    let _result = io::stdout().flush();
    let foreign = outcome.as_ref().ok().copied();
    let ready = message::encode(&Ready { outcome: outcome.map(drop) });
    failpoint!("before_serve");
    if requests.send(&[IoSlice::new(&ready)], &[]).is_err() {
        return 0;
    }
    foreign.map_or(EXIT_NOT_READY, |foreign| serve_until_end(&requests, foreign))
}

/// Runs the preload functions, in a process that can fork before and after.
fn prepare(payload: &[u8]) -> Result<ForeignThreads, NotReady> {
    let plan: Plan = postcard::from_bytes(payload)
        .map_err(|error| NotReady::Preload(format!("the list of preload functions is malformed: {error}")))?;
    if plan.foreign == ForeignThreads::Refuse {
        // First, and apart from what the preloads leave: these threads are not theirs, and the cure is another.
        threads::check_only(|| 1).map_err(|error| match error {
            StartError::ForeignThreads { count, names } => NotReady::Threads { count, names },
            error => NotReady::Preload(error.to_string()),
        })?;
    }
    preload(plan.preloads).map_err(NotReady::Preload)?;
    if plan.foreign == ForeignThreads::Refuse {
        check_single_threaded().map_err(NotReady::Preload)?;
    }
    Ok(plan.foreign)
}

/// Runs the preload functions. A panic is returned as an error.
fn preload(preloads: Vec<ImageRef>) -> Result<(), String> {
    for name in preloads {
        let address = name.resolve_code().map_err(|error| format!("a preload function was not found: {error}"))?;
        let f = preload_at(address);
        if let Err(payload) = catch_unwind(f) {
            let text = payload
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| payload.downcast_ref::<String>().cloned());
            // Not dropped: the payload's destructor is foreign code and may panic again.
            std::mem::forget(payload);
            let text = text.unwrap_or_else(|| "a panic without a text".to_owned());
            return Err(text.chars().take(TEXT_MAX).collect());
        }
    }
    Ok(())
}

/// A server with threads would refuse every request; it is better to report that at once.
fn check_single_threaded() -> Result<(), String> {
    threads::check_only(|| 1).map_err(|error| match error {
        StartError::ForeignThreads { count, names } => format!(
            "it left {count} thread(s) running ({}), and a process with threads cannot be forked; \
             start them in the children",
            names.join(", ")
        ),
        error => error.to_string(),
    })
}

fn serve_until_end(requests: &Socket, foreign: ForeignThreads) -> u8 {
    let mut children: Vec<Served> = Vec::new();
    let mut answered = 0;
    loop {
        let (request_ready, dead) = match wait_for_work(requests, &children) {
            Ok(work) => work,
            Err(_) => return EXIT_CONFUSED,
        };
        // From the back, so that `swap_remove` does not move those that are still to be checked.
        for index in dead.into_iter().rev() {
            match report_if_dead(&children[index]) {
                true => drop(children.swap_remove(index)),
                false => children[index].hold(),
            }
        }
        if request_ready {
            let mut buffer = [0; 256];
            let mut fds = Vec::new();
            let len = match requests.try_recv(&mut buffer, &mut fds) {
                Ok(Received::Message(len)) => len,
                Ok(Received::Empty) => continue,
                Ok(Received::Closed) => return 0,
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    // The request was lost together with its descriptor, but its number is known.
                    answered += 1;
                    if reply_failure(requests, answered, system(Stage::Request, &error)).is_err() {
                        return 0;
                    }
                    continue;
                }
                Err(_) => return EXIT_CONFUSED,
            };
            match (message::decode::<Request>(&buffer[..len]), fds.pop()) {
                (Ok(request), Some(lifeline)) if fds.is_empty() => {
                    match answer(requests, request.id, lifeline, foreign) {
                        Ok(served) => {
                            answered = request.id;
                            children.extend(served);
                        }
                        Err(_) => return 0,
                    }
                }
                // Only the parent can send requests, so one of the two is broken. The parent can start another server.
                _ => return EXIT_CONFUSED,
            }
        }
    }
}

/// Waits for a request or a death. Returns whether there is a request, and the indices of the children to be reaped.
fn wait_for_work(requests: &Socket, children: &[Served]) -> io::Result<(bool, Vec<usize>)> {
    let mut fds = Vec::with_capacity(children.len() + 1);
    fds.push(PollFd::new(requests.as_fd(), PollFlags::POLLIN));
    let polled = children.iter().filter(|served| served.held.is_none());
    fds.extend(polled.map(|served| PollFd::new(served.handle.end(), PollFlags::POLLIN)));
    let next_try = children.iter().filter_map(|served| served.held.as_ref()).map(|held| held.try_at).min();
    wait::poll_until(&mut fds, next_try)?;
    let now = Instant::now();
    let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
    let is_requested = ready.next().unwrap_or(true);
    let mut is_due = |served: &Served| match &served.held {
        Some(held) => held.try_at <= now,
        None => ready.next().unwrap_or(true),
    };
    let due = (0..children.len()).filter(|index| is_due(&children[*index])).collect();
    Ok((is_requested, due))
}

/// Reaps the child and reports its status to the parent; `false` if it still runs.
fn report_if_dead(served: &Served) -> bool {
    match served.handle.reap() {
        Ok(None) => false,
        Ok(Some(status)) => {
            // Fails if the parent has dropped the child, and closed the pipe.
            let _result = write(&served.status, &status.to_ne_bytes());
            true
        }
        // Code of a preload has reaped it. The pipe is closed without a status.
        Err(_) => true,
    }
}

/// Forks one child and replies. An error means that the parent does not receive any more.
fn answer(requests: &Socket, id: u64, lifeline: PrivateFd, foreign: ForeignThreads) -> io::Result<Option<Served>> {
    failpoint!("before_fork");
    let forked = match fork_one(lifeline, foreign) {
        Ok(forked) => forked,
        Err(failure) => {
            reply_failure(requests, id, failure)?;
            return Ok(None);
        }
    };
    failpoint!("after_fork");
    let Forked { control, status, served } = forked;
    let (pid, pidfd) = (served.handle.pid(), served.handle.end());
    let reply = message::encode(&Reply { id, outcome: Ok(pid) });
    let sent = requests.send(&[IoSlice::new(&reply)], &[control.as_fd(), pidfd, status.as_fd()]);
    if let Err(error) = sent {
        // The child would end when our copy of its socket closes, but must not stay a zombie.
        let _result = served.handle.signal_by_id(Signal::SIGKILL);
        wait::reap_killed(pid);
        reply_failure(requests, id, system(Stage::Reply, &error))?;
        return Ok(None);
    }
    failpoint!("after_reply");
    Ok(Some(served))
}

fn reply_failure(requests: &Socket, id: u64, failure: ForkFailure) -> io::Result<()> {
    requests.send(&[IoSlice::new(&message::encode(&Reply { id, outcome: Err(failure) }))], &[])
}

fn system(stage: Stage, error: &io::Error) -> ForkFailure {
    ForkFailure::System { stage, errno: errno_of(error) }
}

fn fork_one(lifeline: PrivateFd, foreign: ForeignThreads) -> Result<Forked, ForkFailure> {
    let (ours, theirs) = Socket::pair().map_err(|error| system(Stage::Socket, &error))?;
    let (status, report) = fd::pipe(OFlag::O_NONBLOCK).map_err(|error| system(Stage::Pipe, &error))?;
    let hold = Hold::acquire(foreign).map_err(|error| match error {
        // Code of a library or of a preload, perhaps a signal handler, has started them since the server was ready.
        StartError::ForeignThreads { count, names } => ForkFailure::Threads { count, names },
        StartError::System { errno, .. } => ForkFailure::System { stage: Stage::Threads, errno },
        _ => ForkFailure::System { stage: Stage::Threads, errno: libc::EPROTO },
    })?;
    let sentinel = Sentinel::unless_pidfds().map_err(|error| system(Stage::Pipe, &error))?;
    let forked = fork_waiting(&hold, theirs, lifeline, None, sentinel);
    let handle = forked.map_err(|(stage, error)| system(stage, &error))?;
    Ok(Forked { control: ours, status, served: Served { handle, status: report, held: None } })
}
