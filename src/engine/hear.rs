//! What workers say by their control socket and their end.

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
use crate::engine::config::HELLO_TIMEOUT;
use crate::engine::worker_handle::Greeting;
use crate::error::Panic;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::schedule::Departure;
use crate::schedule::Lost;
use crate::schedule::WorkerId;
use crate::schedule::restarts::Ending;
use crate::transport::Road;
use crate::transport::control;
use crate::transport::control::Report;
use crate::transport::frame::FRAME_MAX;
use crate::transport::panic_record::PanicRecord;

/// Messages taken from one worker's control socket before the others are looked at.
const REPORTS_MAX: usize = 64;
/// How long the exit status of a dead worker may take; after that it is unknown.
const STATUS_TIMEOUT: Duration = Duration::from_millis(300);
/// So many messages that make no sense are heard before their sender is killed.
const NONSENSE_MAX: u32 = 64;
/// How long a worker may live on with its control socket closed.
const SILENT_EXIT_TIMEOUT: Duration = Duration::from_millis(500);

impl Engine {
    /// Hello, a report, or the end of the control socket.
    pub(super) fn on_control(&mut self, worker: WorkerId) {
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
                Err(error) => return self.kill_for_error(worker, error.into()),
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..REPORTS_MAX {
            if !self.on_message(worker, &mut buffer) {
                break;
            }
        }
        self.buffer = buffer;
    }

    /// The next message on the control socket; false if there is none.
    fn on_message(&mut self, worker: WorkerId, buffer: &mut Vec<u8>) -> bool {
        let Some(member) = self.members.get_mut(&worker) else { return false };
        let mut fds = Vec::new();
        match member.child.control().try_recv_into(buffer, FRAME_MAX, &mut fds) {
            Ok(Received::Message(_)) => self.on_report(worker, buffer, fds.pop()),
            Ok(Received::Empty) => return false,
            Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => member.attached(0, None),
            Ok(Received::Closed) | Err(_) => {
                // It is about to end, or a task has shut what is not its own, or executed another program.
                self.dismiss(worker);
                // One that has nothing left to run has been given its last moment already, wherever it is.
                let member = self.members.get(&worker);
                if member.is_some_and(|member| member.kill_at.is_none() && !member.is_at_work()) {
                    self.kill_soon(worker);
                }
                return false;
            }
        }
        true
    }

    /// Gives a dismissed worker that has nothing left to run its last moment.
    pub(super) fn kill_if_idle(&mut self, worker: WorkerId) {
        if self.members.get(&worker).is_some_and(|member| member.trust.is_dismissed())
            && self.schedule.running(worker).is_none()
        {
            self.kill_soon(worker);
        }
    }

    fn kill_soon(&mut self, worker: WorkerId) {
        if let Some(member) = self.members.get_mut(&worker) {
            member.kill_at.get_or_insert_with(|| Instant::now() + SILENT_EXIT_TIMEOUT);
        }
    }

    fn on_report(&mut self, worker: WorkerId, bytes: &[u8], fd: Option<PrivateFd>) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match (control::parse_report(bytes), member.greeting) {
            (Ok(Report::Attachment { number }), Greeting::Ready) => {
                member.attached(number, fd);
                // Each belongs to an answer, and each answer to an item that it holds.
                if member.attachments() as u64 > self.schedule.items_held(worker) {
                    self.distrust(worker, "it sends what nobody asked for");
                }
            }
            (Ok(Report::LastWords(record)), _) => {
                let panic = panic_of(record, member.child.pid());
                member.last_words.get_or_insert_with(|| Box::new(panic));
            }
            (Ok(Report::Ready), Greeting::Hello) => {
                member.greeting = Greeting::Ready;
                self.schedule.ready(worker, Instant::now());
            }
            (Ok(Report::InitializerFailed { message }), Greeting::Hello) => {
                self.kill_for_error(worker, PoolError::Initializer { message });
            }
            (Ok(Report::NoRings { message }), Greeting::Hello) => {
                // Whatever keeps this worker from mapping memory may keep the next one from it: the socket serves.
                self.effects.without_rings = true;
                self.kill_for_error(worker, PoolError::NoSharedMemory { message });
            }
            (Ok(report), _) => self.on_nonsense(worker, format!("{report:?} out of turn")),
            (Err(error), _) => self.on_nonsense(worker, format!("a report: {error}")),
        }
    }

    /// A worker that is ready says something that no worker of ours says: a task writes where it should not, and the
    /// items behind it are not to blame. One that is not ready yet has nothing to lose.
    pub(super) fn on_nonsense(&mut self, worker: WorkerId, message: String) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        member.nonsense += 1;
        if member.greeting != Greeting::Ready || member.nonsense > NONSENSE_MAX {
            return self.kill_for_error(worker, PoolError::Protocol { message });
        }
        if member.trust.is_good() {
            let text = format!("worker {} is replaced, for it broke the protocol: {message}", member.child.pid());
            self.effects.log(Level::Warn, text);
            self.dismiss(worker);
            // Without a road of its own it may wait there for orders that never come.
            if matches!(self.members.get(&worker).map(|member| &member.road), Some(Road::Socket(_))) {
                self.kill_soon(worker);
            }
        }
    }

    /// The worker may end what it is running, and then has a moment to leave.
    pub(super) fn dismiss(&mut self, worker: WorkerId) {
        let watch = self.watch();
        let Some(member) = self.members.get_mut(&worker) else { return };
        member.trust.dismiss();
        // Nothing more that it says there is of interest, and at its end it would be readable for ever.
        watch.remove(member.child.control().as_fd());
        if member.greeting == Greeting::Ready {
            self.schedule.dismiss(worker, Instant::now());
        }
        self.kill_if_idle(worker);
    }

    /// The worker's pidfd has spoken: it has ended.
    pub(super) fn on_exit(&mut self, worker: WorkerId) {
        if matches!(self.phase, Phase::Ended(_)) {
            // It was asked to go, and its children may have taken no notice.
            self.kill_group(worker);
        }
        self.reap_if_exited(worker);
        let watch = self.watch();
        if let Some(member) = self.members.get_mut(&worker) {
            // Its status is on its way: from here on that is what is waited for, not the pidfd, which stays readable.
            member.status_due.get_or_insert_with(|| Instant::now() + STATUS_TIMEOUT);
            watch.remove(member.child.pidfd());
        }
    }

    /// The worker's status descriptor has spoken: here is the status, or the server that would tell it is gone. The
    /// worker itself may well be alive.
    pub(super) fn on_status(&mut self, worker: WorkerId) {
        self.reap_if_exited(worker);
        let watch = self.watch();
        if let Some(member) = self.members.get_mut(&worker)
            && let Some(status) = member.child.status_fd()
        {
            // At its end it would be readable for ever. The pidfd tells of the death, and a timer ends the wait for
            // its status.
            watch.remove(status);
        }
    }

    fn reap_if_exited(&mut self, worker: WorkerId) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match member.child.try_wait() {
            Ok(Some(exit)) => self.reap(worker, exit),
            Ok(None) => {}
            Err(error) => {
                let text = format!("the exit status of worker {} is lost: {error}", member.child.pid());
                self.effects.log(Level::Warn, text);
                self.reap(worker, Exit::Unknown);
            }
        }
    }

    /// The worker is dead. Its answers first, then what it never read, then the verdict on what it was running.
    fn reap(&mut self, worker: WorkerId, exit: Exit) {
        self.on_control(worker);
        self.receive_all(worker);
        let unbegun = self.take_back(worker, true);
        if self.members.contains_key(&worker)
            && (exit.status().is_none_or(|status| !status.success()) || self.schedule.running(worker).is_some())
        {
            // It did not leave as it was told to: what it has started goes with it.
            self.kill_group(worker);
        }
        let Some(member) = self.members.remove(&worker) else { return };
        self.unwatch_member(&member);
        self.tell_watchers();
        let pid = member.child.pid();
        let status = exit.status();
        if member.greeting != Greeting::Ready && !matches!(self.phase, Phase::Ended(_)) {
            let error = member.trust.killed_for().cloned().unwrap_or(PoolError::DiedStarting { pid, status });
            self.effects.log(Level::Warn, error.to_string());
            self.last_start_error = Some(error);
        } else if let Some(sentence) = member.trust.killed_for() {
            let text = format!("worker {pid} was killed: {sentence}");
            self.effects.log(Level::Warn, text);
        }
        let ending = match status.and_then(|status| status.signal()) {
            Some(libc::SIGKILL) if member.trust.killed_for().is_none() => Ending::Killed,
            _ => Ending::Other,
        };
        let unbegun = match &member.kill_reason {
            Some(kill_reason) if !kill_reason.has_begun && self.schedule.running(worker) == Some(kill_reason.item) => {
                unbegun.with_one_begun(self.schedule.items_held(worker))
            }
            _ => unbegun,
        };
        let departure = Departure {
            unbegun: unbegun,
            in_its_senses: member.trust.is_trusted(),
            may_retry: member.kill_reason.is_none(),
            ending,
        };
        let lost = self.schedule.exited(worker, departure, Instant::now());
        // Nothing but the abort that it announced makes a panic the cause of a death.
        let aborted = status.is_some_and(|status| status.signal() == Some(Signal::SIGABRT as i32));
        let panic = member.last_words.filter(|_| aborted);
        for Lost { item, workers } in lost {
            let error = match &member.kill_reason {
                Some(kill_reason) if kill_reason.item == item => kill_reason.error.clone(),
                _ => TaskError::WorkerDied { pid, status, started: true, attempts: workers, panic: panic.clone() },
            };
            self.settle_error(item.job, item.index, error);
        }
    }

    /// Acts on every time that has come.
    pub(super) fn on_timers(&mut self) {
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
                self.reap(worker, exit);
            } else if let Greeting::Awaited(hello_due) = member.greeting
                && hello_due <= now
                && member.trust.killed_for().is_none()
            {
                let pid = member.child.pid();
                let error = StartError::HelloTimeout { pid, timeout: HELLO_TIMEOUT };
                self.kill_for_error(worker, error.into());
            }
        }
        for worker in self.schedule.checks_due(now) {
            self.check_deadline(worker, now);
        }
        self.schedule.tick(now);
    }
}

/// A panic of the worker `pid`, for its caller.
pub(super) fn panic_of(record: PanicRecord, pid: u32) -> Panic {
    let PanicRecord { message, location, thread, backtrace } = record;
    Panic { message, location, thread, backtrace, pid }
}
