//! The fork server's own life: preload, then fork on request and reap at once.
//!
//! It runs in a process with one thread, started by exec (the fork server) or by fork (the template
//! of a settled starter), as the entry of an ordinary child.
//!
//! ```text
//!             request socket ──▶ fork ──▶ reply {pid, control end, pidfd, status pipe}
//!  poll ──▶ {
//!             pidfd of a child ──▶ waitid ──▶ status word into its status pipe
//! ```
//!
//! # Invariants
//!
//! - Every request has a reply, also one that cannot be fulfilled.
//! - A child is reaped as soon as it is dead, and only by its pidfd.
//! - The end of the request socket is the end of the server; its children are not its business.

use std::io;
use std::io::IoSlice;
use std::io::Write;
use std::os::fd::AsFd;
use std::panic::catch_unwind;

use nix::fcntl::OFlag;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::unistd::write;

use crate::birth::boot::Birth;
use crate::birth::function::preload_at;
use crate::error::StartError;
use crate::error::errno_of;
use crate::message;
use crate::message::ForkFailure;
use crate::message::Ready;
use crate::message::Reply;
use crate::message::Request;
use crate::message::Stage;
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

/// The exit code of a server that was asked nonsense.
const EXIT_CONFUSED: u8 = 70;

/// The exit code of a server whose preload failed.
const EXIT_PRELOAD: u8 = 71;

/// How many characters of a panic's text are passed on: it must fit one message.
const TEXT_MAX: usize = 500;

/// A child that lives.
struct Ward {
    pidfd: PrivateFd,
    status: PrivateFd,
}

/// A child that was just forked, and what the parent gets of it.
struct Forked {
    pid: u32,
    control: Socket,
    status: PrivateFd,
    ward: Ward,
}

/// The payload of the server's boot message.
pub(crate) fn encode_preloads(preloads: &[ImageRef]) -> Vec<u8> {
    postcard::to_allocvec(preloads).expect("names of places can always be encoded")
}

/// The entry of a fork server.
pub(crate) fn serve(birth: Birth) -> u8 {
    // What the user types at a terminal is for the parent, who ends us by closing the socket.
    calls::set_disposition(libc::SIGINT, Disposition::Ignore);
    calls::set_disposition(libc::SIGHUP, Disposition::Ignore);
    let requests = birth.control;
    let outcome = preload(&birth.payload);
    // Half a line in the buffer would be written again by every child.
    let _result = io::stdout().flush();
    let code = if outcome.is_ok() { None } else { Some(EXIT_PRELOAD) };
    let ready = message::encode(&Ready { outcome });
    failpoint!("before_serve");
    if requests.send(&[IoSlice::new(&ready)], &[]).is_err() {
        return 0;
    }
    code.unwrap_or_else(|| serve_until_end(&requests))
}

/// Runs what the parent wants loaded. A panic is an answer.
fn preload(payload: &[u8]) -> Result<(), String> {
    let preloads: Vec<ImageRef> =
        postcard::from_bytes(payload).map_err(|error| format!("the list of preload functions is garbled: {error}"))?;
    for name in preloads {
        let address = name.resolve_code().map_err(|error| format!("a preload function was not found: {error}"))?;
        let f = preload_at(address);
        if let Err(payload) = catch_unwind(f) {
            let text = payload
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| payload.downcast_ref::<String>().cloned());
            // The payload's destructor is somebody's code and may panic again.
            std::mem::forget(payload);
            let text = text.unwrap_or_else(|| "a panic without a text".to_owned());
            return Err(text.chars().take(TEXT_MAX).collect());
        }
    }
    check_single_threaded()
}

/// A server with threads would refuse every request; better to say so at once.
fn check_single_threaded() -> Result<(), String> {
    threads::check_only(|| 1).map_err(|error| match error {
        StartError::ForeignThreads { count } => format!(
            "it left {count} thread(s) running, and a process with threads cannot be forked; \
             start them in the children"
        ),
        error => error.to_string(),
    })
}

fn serve_until_end(requests: &Socket) -> u8 {
    let mut wards: Vec<Ward> = Vec::new();
    let mut answered = 0;
    loop {
        let (request_ready, dead) = match wait_for_work(requests, &wards) {
            Ok(work) => work,
            Err(_) => return EXIT_CONFUSED,
        };
        // From the back, so that the places of those in front stay what they were.
        for index in dead.into_iter().rev() {
            if report_if_dead(&wards[index]) {
                wards.swap_remove(index);
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
                    // The request is lost with its descriptor, but its number is known.
                    answered += 1;
                    if reply_failure(requests, answered, Stage::Request, &error).is_err() {
                        return 0;
                    }
                    continue;
                }
                Err(_) => return EXIT_CONFUSED,
            };
            match (message::decode::<Request>(&buffer[..len]), fds.pop()) {
                (Ok(request), Some(lifeline)) if fds.is_empty() => match answer(requests, request.id, lifeline) {
                    Ok(ward) => {
                        answered = request.id;
                        wards.extend(ward);
                    }
                    Err(_) => return 0,
                },
                // Nobody but our own parent can ask: one of us is broken, and it can start another.
                _ => return EXIT_CONFUSED,
            }
        }
    }
}

/// Whether there is a request, and the places of the children that have died.
fn wait_for_work(requests: &Socket, wards: &[Ward]) -> io::Result<(bool, Vec<usize>)> {
    let mut fds = Vec::with_capacity(wards.len() + 1);
    fds.push(PollFd::new(requests.as_fd(), PollFlags::POLLIN));
    fds.extend(wards.iter().map(|ward| PollFd::new(ward.pidfd.as_fd(), PollFlags::POLLIN)));
    wait::poll_until(&mut fds, None)?;
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    let dead = (0..wards.len()).filter(|index| ready(&fds[index + 1])).collect();
    Ok((ready(&fds[0]), dead))
}

/// Reaps, and tells the parent how it ended; `false` if it still runs.
fn report_if_dead(ward: &Ward) -> bool {
    match calls::reap_pidfd(ward.pidfd.as_fd()) {
        Ok(None) => false,
        Ok(Some(status)) => {
            // Nobody reads it: the parent has dropped the child.
            let _result = write(&ward.status, &status.to_ne_bytes());
            true
        }
        // A preload's code has reaped it. The pipe is closed without a word.
        Err(_) => true,
    }
}

/// Forks one child and replies. An error means that nobody listens any more.
fn answer(requests: &Socket, id: u64, lifeline: PrivateFd) -> io::Result<Option<Ward>> {
    failpoint!("before_fork");
    let forked = match fork_one(lifeline) {
        Ok(forked) => forked,
        Err((stage, error)) => {
            reply_failure(requests, id, stage, &error)?;
            return Ok(None);
        }
    };
    failpoint!("after_fork");
    let Forked { pid, control, status, ward } = forked;
    let reply = message::encode(&Reply { id, outcome: Ok(pid) });
    let sent = requests.send(&[IoSlice::new(&reply)], &[control.as_fd(), ward.pidfd.as_fd(), status.as_fd()]);
    if let Err(error) = sent {
        // The child ends when our copy of its socket closes; it must not be a zombie until then.
        let _result = calls::pidfd_send_signal(ward.pidfd.as_fd(), libc::SIGKILL, 0);
        let _status = calls::reap_pid(pid);
        reply_failure(requests, id, Stage::Reply, &error)?;
        return Ok(None);
    }
    failpoint!("after_reply");
    Ok(Some(ward))
}

fn reply_failure(requests: &Socket, id: u64, stage: Stage, error: &io::Error) -> io::Result<()> {
    let outcome = Err(ForkFailure { stage, errno: errno_of(error) });
    requests.send(&[IoSlice::new(&message::encode(&Reply { id, outcome }))], &[])
}

fn fork_one(lifeline: PrivateFd) -> Result<Forked, (Stage, io::Error)> {
    let (ours, theirs) = Socket::pair().map_err(|error| (Stage::Socket, error))?;
    let (status, report) = fd::pipe(OFlag::O_NONBLOCK).map_err(|error| (Stage::Pipe, error))?;
    let hold = Hold::acquire(ForeignThreads::Refuse).map_err(|error| {
        let errno = match error {
            StartError::System { errno, .. } => errno,
            // Code that a preload has left behind, a signal handler perhaps, started a thread.
            _ => libc::EBUSY,
        };
        (Stage::Threads, io::Error::from_raw_os_error(errno))
    })?;
    let (pid, pidfd) = fork_waiting(&hold, theirs, lifeline, None)?;
    Ok(Forked { pid, control: ours, status, ward: Ward { pidfd, status: report } })
}
