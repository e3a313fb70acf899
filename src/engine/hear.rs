//! What workers say, by their road, their control socket and their end.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use std::time::Instant;

use log::Level;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use start_methods::Exit;
use start_methods::PrivateFd;
use start_methods::Received;
use start_methods::StartError;

use super::Engine;
use super::Phase;
use crate::blob::Blob;
use crate::codec;
use crate::error::Failure;
use crate::error::Panic;
use crate::error::PoolError;
use crate::error::Side;
use crate::error::TaskError;
use crate::frame;
use crate::frame::Answer;
use crate::frame::AnswerKind;
use crate::frame::Body;
use crate::frame::Order;
use crate::function::Verdict;
use crate::jobs::Outcome;
use crate::load::FrameNumber;
use crate::member::Greeting;
use crate::message;
use crate::message::REPORT_MAX;
use crate::message::Report;
use crate::panics::PanicRecord;
use crate::restarts::Ending;
use crate::schedule::WorkerId;
use crate::transport::Sent;
use crate::watch::Source;

/// Answers taken from one worker before the others are looked at.
const ANSWERS_MAX: usize = 512;
/// How long the exit status of a dead worker may take; after that it is unknown.
const STATUS_TIMEOUT: Duration = Duration::from_millis(300);
/// Error texts are cut at this length.
const TEXT_MAX: usize = 64 * 1024;
/// How long a worker may live on with its control socket closed.
const SILENT_EXIT_TIMEOUT: Duration = Duration::from_millis(500);

impl Engine {
    /// The road has answers, or room, or both.
    pub(super) fn hear_road(&mut self, worker: WorkerId) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        if member.wants_room {
            match member.flush() {
                Ok(Sent::Taken) => {
                    member.wants_room = false;
                    self.watch_for_room(worker, false);
                    self.schedule.road_has_room(worker, Instant::now());
                }
                sent => self.heed(worker, sent),
            }
        }
        self.drain(worker, ANSWERS_MAX);
        self.schedule.after_settled(Instant::now());
    }

    /// Takes up to `answers_max` answers.
    fn drain(&mut self, worker: WorkerId, answers_max: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let now = Instant::now();
        for _ in 0..answers_max {
            let Some(member) = self.members.get(&worker) else { break };
            if member.doom.is_some() && answers_max == usize::MAX {
                // Whoever else writes to its road must not hold up its burial.
                break;
            }
            match member.road.recv(&mut buffer) {
                Ok(Some(received)) => self.hear_answer(worker, &buffer[..received.len], received.attached, now),
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => {
                    self.hear_lost_attachment(worker, now);
                }
                Err(error) => {
                    self.doom(worker, PoolError::Protocol { message: error.to_string() });
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    fn hear_answer(&mut self, worker: WorkerId, frame: &[u8], attached: Option<PrivateFd>, now: Instant) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        if member.doom.is_some() || matches!(self.phase, Phase::Ended(_)) {
            // Nothing it says counts any more.
            return;
        }
        let pid = member.child.pid();
        let answer = match frame::parse_answer(frame) {
            Ok(answer) => answer,
            Err(error) => {
                return self.doom(worker, PoolError::Protocol { message: format!("an answer {}", error.0) });
            }
        };
        if answer.kind == AnswerKind::LastWords {
            if member.last_words.is_some() {
                return self.doom(worker, PoolError::Protocol { message: "it aborts twice".to_owned() });
            }
            member.last_words = Some(Box::new(panic_of(answer.body, pid)));
            return;
        }
        let running = self.schedule.running(worker);
        let (Some(item), true) = (running, answer.sequence == member.answers) else {
            let message = format!("answer {} out of turn", answer.sequence);
            return self.doom(worker, PoolError::Protocol { message });
        };
        member.answered();
        match outcome(&answer, attached, pid) {
            Ok(Answered::Value(bytes)) => {
                self.job(item.job).settle_value(item.index, bytes);
                self.progress(item.job);
            }
            Ok(Answered::Blob(blob)) => {
                self.job(item.job).settle(item.index, Outcome::Blob(blob));
                self.progress(item.job);
            }
            Ok(Answered::Error(error)) => self.settle_error(item.job, item.index, error),
            Err(message) => return self.doom(worker, PoolError::Protocol { message }),
        }
        self.schedule.settled(worker, now);
    }

    /// An answer came whose attached bytes found no room in our descriptor table. Only a result, or a very long error
    /// text, is attached; which of them is lost with the message.
    fn hear_lost_attachment(&mut self, worker: WorkerId, now: Instant) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        if member.doom.is_some() || matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        let Some(item) = self.schedule.running(worker) else {
            let message = "an answer for nothing".to_owned();
            return self.doom(worker, PoolError::Protocol { message });
        };
        member.answered();
        let message = "its bytes found no free descriptor in this process; raise the limit of open files".to_owned();
        self.settle_error(item.job, item.index, TaskError::Decode { side: Side::Result, message });
        self.schedule.settled(worker, now);
    }

    /// Hello, a report, or the end of the control socket.
    pub(super) fn hear_control(&mut self, worker: WorkerId) {
        let watch = self.watch();
        let Some(member) = self.members.get_mut(&worker) else { return };
        if let Greeting::Awaited(_) = member.greeting {
            // In this order: what it said before it closed the socket is there when the socket is closed.
            let silenced = member.child.is_silenced();
            match member.child.try_hello() {
                Ok(Some(())) => member.greeting = Greeting::Hello,
                Ok(None) if !silenced => return,
                Ok(None) | Err(StartError::DiedBeforeHello { .. }) => {
                    // Its pidfd tells how it ended; if it does not end, it is no worker of ours any longer.
                    watch.remove(member.child.control().as_fd());
                    member.kill_at.get_or_insert_with(|| Instant::now() + SILENT_EXIT_TIMEOUT);
                    return;
                }
                Err(error) => return self.doom(worker, error.into()),
            }
        }
        let mut buffer = [0; REPORT_MAX];
        let mut fds = Vec::new();
        match member.child.control().try_recv(&mut buffer, &mut fds) {
            Ok(Received::Message(len)) => self.hear_report(worker, &buffer[..len]),
            Ok(Received::Empty) => {}
            Ok(Received::Closed) => {
                // It is about to end; if it does not, it is no worker of ours any longer.
                watch.remove(member.child.control().as_fd());
                member.kill_at.get_or_insert_with(|| Instant::now() + SILENT_EXIT_TIMEOUT);
            }
            Err(error) => self.doom(worker, PoolError::Protocol { message: error.to_string() }),
        }
    }

    fn hear_report(&mut self, worker: WorkerId, bytes: &[u8]) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match (message::parse_report(bytes), member.greeting) {
            (Ok(Report::Ready), Greeting::Hello) => {
                member.greeting = Greeting::Ready;
                self.schedule.ready(worker, Instant::now());
            }
            (Ok(Report::InitializerFailed { message }), Greeting::Hello) => {
                self.doom(worker, PoolError::Initializer { message });
            }
            (Ok(report), _) => self.doom(worker, PoolError::Protocol { message: format!("{report:?} twice") }),
            (Err(error), _) => self.doom(worker, PoolError::Protocol { message: format!("a report: {error}") }),
        }
    }

    /// The worker's pidfd has spoken: it has ended.
    pub(super) fn hear_end(&mut self, worker: WorkerId) {
        self.bury_if_known(worker);
        let watch = self.watch();
        if let Some(member) = self.members.get_mut(&worker) {
            // Its status is on its way: from here on that is what is waited for, not the pidfd, which stays readable.
            member.status_due.get_or_insert_with(|| Instant::now() + STATUS_TIMEOUT);
            watch.remove(member.child.pidfd());
        }
    }

    /// The worker's status descriptor has spoken: here is the status, or the server that would tell it is gone. The
    /// worker itself may well be alive.
    pub(super) fn hear_status(&mut self, worker: WorkerId) {
        self.bury_if_known(worker);
        let watch = self.watch();
        if let Some(member) = self.members.get_mut(&worker)
            && let Some(status) = member.child.status_fd()
        {
            // At its end it would be readable for ever. The pidfd tells of the death, and a timer ends the wait for
            // its status.
            watch.remove(status);
        }
    }

    fn bury_if_known(&mut self, worker: WorkerId) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match member.child.try_wait() {
            Ok(Some(exit)) => self.bury(worker, exit),
            Ok(None) => {}
            Err(error) => {
                let text = format!("the exit status of worker {} is lost: {error}", member.child.pid());
                self.effects.log(Level::Warn, text);
                self.bury(worker, Exit::Unknown);
            }
        }
    }

    /// The worker is dead. Its answers first, then what it never read, then the verdict on what it was running.
    fn bury(&mut self, worker: WorkerId, exit: Exit) {
        self.hear_control(worker);
        self.drain(worker, usize::MAX);
        let unread: Vec<FrameNumber> =
            self.take_back_unread(worker).iter().filter_map(|order| run_number(&order.frame)).collect();
        let Some(member) = self.members.remove(&worker) else { return };
        self.unwatch_member(&member);
        self.tell_watchers();
        let pid = member.child.pid();
        let status = exit.status();
        if member.greeting != Greeting::Ready && !matches!(self.phase, Phase::Ended(_)) {
            let error = member.doom.clone().unwrap_or(PoolError::DiedStarting { pid, status });
            self.effects.log(Level::Warn, error.to_string());
            self.last_start_error = Some(error);
        } else if let Some(doom) = &member.doom {
            let text = format!("worker {pid} was killed: {doom}");
            self.effects.log(Level::Warn, text);
        }
        let ending = match status.and_then(|status| status.signal()) {
            Some(libc::SIGKILL) if member.doom.is_none() => Ending::Killed,
            _ => Ending::Other,
        };
        let lost = self.schedule.exited(worker, &unread, ending, Instant::now());
        if let Some(item) = lost {
            // Nothing but the abort that it announced makes a panic the cause of a death.
            let aborted = status.is_some_and(|status| status.signal() == Some(Signal::SIGABRT as i32));
            let panic = member.last_words.filter(|_| aborted);
            let error = TaskError::WorkerDied { pid, status, started: true, panic };
            self.settle_error(item.job, item.index, error);
        }
    }

    /// Acts on every time that has come.
    pub(super) fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if !due(self.next_timer()) {
            return;
        }
        let workers: Vec<WorkerId> = self.members.keys().copied().collect();
        for worker in workers {
            let Some(member) = self.members.get_mut(&worker) else { continue };
            if due(member.kill_at) {
                member.kill_at = None;
                self.kill(worker);
            }
            let Some(member) = self.members.get(&worker) else { continue };
            if due(member.status_due) {
                let exit = member.child.try_wait().ok().flatten().unwrap_or(Exit::Unknown);
                self.bury(worker, exit);
            } else if let Greeting::Awaited(hello_due) = member.greeting
                && hello_due <= now
                && member.doom.is_none()
            {
                let pid = member.child.pid();
                let error = StartError::HelloTimeout { pid, timeout: super::HELLO_TIMEOUT };
                self.doom(worker, error.into());
            }
        }
        self.schedule.tick(now);
    }
}

/// Which frame an order is, if it is work.
pub(super) fn run_number(order: &[u8]) -> Option<FrameNumber> {
    match frame::parse_order(order) {
        Ok(Order::Run { number, .. }) => Some(FrameNumber(number)),
        _ => None,
    }
}

enum Answered<'a> {
    Value(&'a [u8]),
    Blob(Blob),
    Error(TaskError),
}

/// What an answer says; an error if it says it in a way that no worker of ours does.
fn outcome<'a>(answer: &Answer<'a>, attached: Option<PrivateFd>, pid: u32) -> Result<Answered<'a>, String> {
    let bytes = match (answer.body, attached) {
        (Body::Inline(bytes), None) => bytes,
        (Body::Attached, Some(fd)) if answer.kind == AnswerKind::Verdict(Verdict::Value) => {
            let blob = Blob::receive(fd).map_err(|error| error.to_string())?;
            return Ok(Answered::Blob(blob));
        }
        (Body::Attached, Some(fd)) => {
            // A very long error text.
            let text =
                Blob::receive(fd).and_then(|blob| blob.read_start(TEXT_MAX)).map_err(|error| error.to_string())?;
            let kind = answer.kind;
            return Ok(Answered::Error(error_of(kind, &text, pid)?));
        }
        _ => return Err("an answer whose attachment is missing, or unannounced".to_owned()),
    };
    match answer.kind {
        AnswerKind::Verdict(Verdict::Value) => Ok(Answered::Value(bytes)),
        kind => Ok(Answered::Error(error_of(kind, bytes, pid)?)),
    }
}

fn error_of(kind: AnswerKind, bytes: &[u8], pid: u32) -> Result<TaskError, String> {
    let message = || String::from_utf8_lossy(bytes).into_owned();
    Ok(match kind {
        AnswerKind::Verdict(Verdict::Failed) => TaskError::Failed(Failure { message: message(), pid }),
        AnswerKind::Verdict(Verdict::NotDecoded(side)) => TaskError::Decode { side, message: message() },
        AnswerKind::Verdict(Verdict::NotEncoded) => TaskError::Encode { side: Side::Result, message: message() },
        AnswerKind::FunctionNotFound => TaskError::FunctionNotFound { message: message() },
        AnswerKind::Panicked => TaskError::Panicked(panic_of(Body::Inline(bytes), pid)),
        AnswerKind::Verdict(Verdict::Value) | AnswerKind::LastWords => {
            return Err("an answer that is none".to_owned());
        }
    })
}

fn panic_of(body: Body<'_>, pid: u32) -> Panic {
    let record = match body {
        Body::Inline(bytes) => codec::parse::<PanicRecord>(bytes),
        Body::Attached => Err("too long".to_owned()),
    };
    match record {
        Ok(PanicRecord { message, location, thread, backtrace }) => Panic { message, location, thread, backtrace, pid },
        Err(error) => {
            let message = format!("the report of this panic is not readable: {error}");
            Panic { message, location: None, thread: None, backtrace: None, pid }
        }
    }
}

impl Engine {
    pub(super) fn watch_for_room(&mut self, worker: WorkerId, wants_room: bool) {
        let Some(member) = self.members.get(&worker) else { return };
        if let Err(error) = self.watch().set_wants_room(member.road.fd(), Source::Road(worker), wants_room) {
            self.effects.log(Level::Error, format!("epoll_ctl(EPOLL_CTL_MOD): {error}: a bug in procpool"));
        }
    }
}
