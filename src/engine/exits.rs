//! The end of a worker.
//!
//! Its pidfd reports the end. What it had answered is then still in its link, and counts: the answers are taken in to the
//! last, and what the worker had never begun is taken back, *before* the schedule is asked which item was running. So a
//! death costs one item at most, and none that has an answer.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use std::time::Instant;

use log::Level;
use nix::sys::signal::Signal;
use start_methods::Exit;

use crate::engine::state::Engine;
use crate::engine::state::Phase;
use crate::engine::worker_handle::Greeting;
use crate::engine::worker_handle::WorkerHandle;
use crate::engine::workers::Descriptor;
use crate::error::Origin;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::schedule::Departure;
use crate::schedule::FirstItem;
use crate::schedule::Lost;
use crate::schedule::WorkerId;
use crate::schedule::restarts::Ending;
use crate::transport::link::Peer;
use crate::work::unbegun::UnbegunWork;

/// How long the exit status of a dead worker may take; after that it is unknown.
const STATUS_TIMEOUT: Duration = Duration::from_millis(300);

impl Engine {
    /// The pidfd is readable: the worker has ended. Or it has hung up: the worker has been reaped, perhaps by other code.
    pub(super) fn on_exit(&mut self, worker: WorkerId) {
        if self.workers.ends_unreaped(worker, &mut self.effects) {
            self.notify_watchers();
            return;
        }
        if matches!(self.phase, Phase::Ended(_)) {
            // The worker was asked to leave, and its children may have ignored that.
            self.workers.kill_group(worker, &mut self.effects);
        }
        self.reap_if_exited(worker);
        // Its status is still to come. From here on that is what is waited for, not the pidfd, which stays readable:
        // first until it hangs up, and then no more.
        match self.workers.get(worker).is_some_and(|handle| handle.status_due.is_none()) {
            true => {
                self.workers.await_status(worker, Instant::now() + STATUS_TIMEOUT);
                self.workers.await_reaping(worker, &mut self.effects);
            }
            false => self.workers.unwatch(worker, Descriptor::Pidfd),
        }
    }

    /// The status descriptor is readable: here is the status, or the server that would report it is gone. The worker
    /// itself may well be alive.
    pub(super) fn on_status(&mut self, worker: WorkerId) {
        self.reap_if_exited(worker);
        // The pidfd reports the death, and a timer ends the wait for its status.
        self.workers.unwatch(worker, Descriptor::Status);
    }

    fn reap_if_exited(&mut self, worker: WorkerId) {
        let Some(handle) = self.workers.get_mut(worker) else { return };
        match handle.child.try_wait() {
            Ok(Some(exit)) => self.reap(worker, exit),
            Ok(None) => {}
            Err(error) => {
                let text = format!("the exit status of worker {} is lost: {error}", handle.pid());
                self.effects.log(Level::Warn, text);
                self.reap(worker, Exit::Unknown);
            }
        }
    }

    /// The status of a dead worker has taken too long.
    pub(super) fn on_status_timeout(&mut self, worker: WorkerId) {
        let Some(handle) = self.workers.get_mut(worker) else { return };
        let exit = handle.child.try_wait().ok().flatten().unwrap_or(Exit::Unknown);
        self.reap(worker, exit);
    }

    /// The worker is dead. Its answers first, then what it had not begun, then the verdict on what it was running: in any
    /// other order an item that was answered would be lost, or one that had not begun.
    fn reap(&mut self, worker: WorkerId, exit: Exit) {
        self.on_control(worker);
        let unbegun = self.take_last(worker);
        let is_success = exit.status().is_some_and(|status| status.success());
        if !is_success || self.schedule.running(worker).is_some() {
            // It did not leave as it was told to: what it has started goes with it.
            self.workers.kill_group(worker, &mut self.effects);
        }
        let Some(mut handle) = self.workers.remove(worker) else { return };
        self.notify_watchers();
        self.log_death(&handle, &exit);
        self.depart(worker, &mut handle, &exit, unbegun);
        // It may be held by a tracer, and then dropping it takes a while.
        self.effects.unwanted.extend((exit == Exit::Unknown).then_some(handle.child));
    }

    /// SIGKILL has not ended the worker. Its items are settled as if it had, and another worker takes its place: time limits
    /// are set for this very case. Only `join` still waits for its end, for a moment, and reports it.
    pub(super) fn give_up(&mut self, worker: WorkerId) {
        let unbegun = self.take_last(worker);
        let Some(mut handle) = self.workers.remove_unended(worker) else { return };
        let text = format!("worker {} was sent SIGKILL and does not end; the pool goes on without it", handle.pid());
        self.effects.log(Level::Warn, text);
        self.depart(worker, &mut handle, &Exit::Unknown, unbegun);
        self.workers.give_up(worker, handle.child);
        self.notify_watchers();
    }

    /// Takes in the last answers of a worker, and what it has not begun.
    fn take_last(&mut self, worker: WorkerId) -> UnbegunWork {
        self.receive_all(worker);
        self.take_back(worker, Peer::Dead)
    }

    /// The worker runs nothing more: settles what is lost with it.
    fn depart(&mut self, worker: WorkerId, handle: &mut WorkerHandle, exit: &Exit, unbegun: UnbegunWork) {
        let how = self.manner(worker, handle, exit);
        let ending = match exit.status().map(|status| status.signal()) {
            // Unknown: its server has died as well, or other code has reaped it.
            None | Some(Some(libc::SIGKILL)) if handle.trust.killed_for().is_none() => Ending::Killed,
            _ => Ending::Other,
        };
        let first = self.first_item(worker, handle);
        let may_retry = handle.kill_reason.is_none();
        let departure = Departure { unbegun, first, is_coherent: handle.trust.is_read(), may_retry, ending };
        let lost = self.schedule.exited(worker, departure, Instant::now());
        self.on_gone(handle.who(worker), how, handle.greeting, lost.first().map(|lost| lost.item));
        self.settle_lost(handle, exit, lost);
    }

    /// What became of the first item that the dead worker held.
    fn first_item(&self, worker: WorkerId, handle: &WorkerHandle) -> FirstItem {
        match &handle.kill_reason {
            Some(reason) if !reason.has_begun && self.schedule.running(worker) == Some(reason.item) => {
                FirstItem::Blamed
            }
            _ => FirstItem::AsReported,
        }
    }

    /// Tells the log why a worker ended that was not asked to. One that never became ready may be why the pool breaks.
    fn log_death(&mut self, handle: &WorkerHandle, exit: &Exit) {
        let pid = handle.pid();
        if handle.greeting != Greeting::Ready && !matches!(self.phase, Phase::Ended(_)) {
            let error = PoolError::DiedStarting { pid, status: exit.status() };
            let error = handle.trust.killed_for().cloned().unwrap_or(error);
            self.effects.log(Level::Warn, error.to_string());
            self.last_start_error = Some(error);
        } else if let Some(error) = handle.trust.killed_for() {
            self.effects.log(Level::Warn, format!("worker {pid} was killed: {error}"));
        }
    }

    /// Settles the items that were lost with the worker.
    fn settle_lost(&mut self, handle: &mut WorkerHandle, exit: &Exit, lost: Vec<Lost>) {
        let (pid, status) = (handle.pid(), exit.status());
        // A panic is the cause of a death only if the process aborted, as the panic announced.
        let aborted = status.is_some_and(|status| status.signal() == Some(Signal::SIGABRT as i32));
        let panic = handle.last_words.take().filter(|_| aborted);
        for Lost { item, workers } in lost {
            let error = match &handle.kill_reason {
                Some(reason) if reason.item == item => reason.error.clone(),
                _ => TaskError::WorkerDied {
                    pid,
                    status,
                    attempts: workers,
                    panic: panic.clone(),
                    origin: Origin::default(),
                },
            };
            self.settle_error(item.job, item.index, error);
        }
    }
}
