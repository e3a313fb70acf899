//! The snapshot of a pool, and what its watchers are told of workers.

use std::time::Duration;
use std::time::Instant;

use start_methods::Exit;

use crate::engine::observer::Who;
use crate::engine::state::Engine;
use crate::engine::state::Phase;
use crate::engine::worker_handle::Greeting;
use crate::engine::worker_handle::WorkerHandle;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::observe::event::Departure;
use crate::observe::stats::Current;
use crate::observe::stats::Stats;
use crate::observe::stats::WorkerState;
use crate::observe::stats::WorkerStats;
use crate::schedule::WorkerId;
use crate::schedule::WorkerView;
use crate::schedule::load::ItemId;
use crate::sys::clock;
use crate::transport::link::Holds;
use crate::work::batch::JobId;
use crate::work::progress::RunTime;

/// The moment of a snapshot, by both clocks.
#[derive(Clone, Copy)]
struct Moment {
    now: Instant,
    now_ns: u64,
}

impl Engine {
    /// A snapshot. Reads what is there, and takes in no answers.
    pub(crate) fn stats(&self) -> Stats {
        let moment = Moment { now: Instant::now(), now_ns: clock::monotonic_ns() };
        let mut workers = Vec::with_capacity(self.workers.len());
        let mut views = self.schedule.views();
        let mut under_way = 0;
        for (id, handle) in self.workers.iter() {
            // Both are in the order of the ids, and each worker is in both.
            let Some((_, view)) = views.by_ref().find(|(viewed, _)| *viewed == id) else { break };
            under_way += view.held;
            workers.push(self.worker_stats(handle, &view, moment));
        }
        Stats {
            at: moment.now,
            workers,
            queued: self.schedule.queued(),
            under_way,
            calls: self.jobs.unfinished(),
            totals: self.observer.totals,
        }
    }

    fn worker_stats(&self, handle: &WorkerHandle, view: &WorkerView, moment: Moment) -> WorkerStats {
        // What the worker writes down itself may be any number.
        let age = moment.now.saturating_duration_since(handle.started_at);
        let busy = handle.link.busy_ns().unwrap_or(handle.busy_ns);
        let state = match view {
            WorkerView { is_leaving: true, .. } => WorkerState::Leaving,
            WorkerView { is_starting: true, .. } => WorkerState::Starting,
            WorkerView { held: 0, .. } => WorkerState::Idle,
            _ => WorkerState::Busy,
        };
        WorkerStats {
            pid: handle.pid(),
            lane: handle.lane,
            state,
            started_at: handle.started_at,
            held: view.held,
            items_done: handle.items_done,
            busy: Duration::from_nanos(busy).min(age),
            current: self.current(handle, view, moment).filter(|_| state != WorkerState::Starting),
        }
    }

    fn current(&self, handle: &WorkerHandle, view: &WorkerView, moment: Moment) -> Option<Current> {
        let item = view.running?;
        let held_for = moment.now.saturating_duration_since(view.running_since?);
        let RunTime { at_most, is_exact } =
            handle.link.run_time(moment.now_ns).unwrap_or(RunTime { at_most: held_for, is_exact: false });
        Some(Current {
            call: item.job.0,
            label: self.observer.label(item.job),
            index: item.index,
            at_most: at_most.min(held_for.max(Duration::from_nanos(1))),
            is_exact,
        })
    }

    /// How many items of the job have an outcome, and how many were submitted.
    pub(crate) fn counts(&mut self, id: JobId) -> (u64, u64) {
        let job = self.job(id);
        (job.settled, job.submitted)
    }

    /// Work was given to the link of a worker, which held something before or not.
    pub(super) fn on_sent(&mut self, worker: WorkerId, holds: Holds) {
        if let Some(slow) = &mut self.slow {
            slow.arm();
        }
        if holds == Holds::Nothing {
            self.observer.employed(worker);
        }
    }

    /// A worker is gone, and with it this item, unless it is run again.
    pub(super) fn on_gone(&mut self, who: Who, how: Departure, greeting: Greeting, lost: Option<ItemId>) {
        let retried = self.schedule.take_retried();
        if greeting != Greeting::Ready && !matches!(self.phase, Phase::Ended(_)) {
            let status = match how {
                Departure::Died(status) => status,
                _ => None,
            };
            let error = self.last_start_error.clone();
            let error = error.unwrap_or(PoolError::DiedStarting { pid: who.pid, status });
            self.observer.start_failed(&error, &mut self.effects);
        }
        self.observer.left(who, how, lost.or(retried.first().copied()), &mut self.effects);
        retried.into_iter().for_each(|item| self.observer.retried(who, item, &mut self.effects));
    }

    /// Items are run again that one worker after the other has left without having begun them.
    pub(super) fn note_retries(&mut self, worker: WorkerId) {
        let retried = self.schedule.take_retried();
        let Some(who) = self.workers.get(worker).map(|handle| handle.who(worker)) else { return };
        retried.into_iter().for_each(|item| self.observer.retried(who, item, &mut self.effects));
    }

    /// Why a worker is gone. To be asked before the schedule forgets it.
    pub(super) fn manner(&self, worker: WorkerId, handle: &WorkerHandle, exit: &Exit) -> Departure {
        match handle.kill_reason.as_ref().map(|reason| &reason.error) {
            Some(TaskError::TimedOut { .. }) => return Departure::TimedOut,
            Some(_) => return Departure::Cancelled,
            None => {}
        }
        if matches!(self.phase, Phase::Ended(_)) {
            return Departure::Stopped;
        }
        // A worker that ends closes its control socket, for which it is dismissed: that alone says nothing.
        if handle.trust.killed_for().is_some() || handle.nonsense > 0 {
            return Departure::Spoilt;
        }
        let has_left = exit.status().is_some_and(|status| status.success());
        match self.schedule.view(worker) {
            Some(view) if has_left && view.is_leaving && view.held == 0 => match view.is_recycled {
                true => Departure::Recycled,
                false => Departure::Stopped,
            },
            _ => Departure::Died(exit.status()),
        }
    }
}
