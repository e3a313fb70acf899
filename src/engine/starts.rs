//! Starts of workers: what follows when one succeeded, or failed.

use std::time::Instant;

use log::Level;
use start_methods::Child;
use start_methods::StartError;

use crate::engine::state::Engine;
use crate::engine::state::Phase;
use crate::engine::worker_handle::WorkerHandle;
use crate::engine::workers::Refused;
use crate::error::PoolError;
use crate::schedule::WorkerId;
use crate::schedule::restarts::Ending;
use crate::sys::failpoint::shortened;
use crate::sys::start_choice::HELLO_TIMEOUT;
use crate::transport::control::Lane;
use crate::transport::link::Link;

impl Engine {
    /// The lane of the worker that is started next. It is answered by [`started`](Self::started) or
    /// [`start_failed`](Self::start_failed).
    pub(crate) fn claim_lane(&mut self) -> Lane {
        self.lanes.claim(|worker| self.schedule.is_staying(worker))
    }

    /// A worker process has been started.
    pub(crate) fn started(&mut self, child: Child, link: Link, lane: Lane) {
        let worker = WorkerId(self.new_id());
        if matches!(self.phase, Phase::Ended(_)) {
            // The start was asked for before the end.
            self.effects.unwanted.push(child);
            self.drop_starts(1);
            return;
        }
        let hello_due = Instant::now() + shortened!("hello_timeout", HELLO_TIMEOUT);
        if let Err(Refused { handle, error }) =
            self.workers.add(worker, WorkerHandle::new(child, link, lane, hello_due))
        {
            self.effects.unwanted.push(handle.child);
            self.start_failed(PoolError::system("watching a new worker")(error), lane);
            return;
        }
        self.lanes.occupy(lane, worker);
        if let Some(handle) = self.workers.get(worker) {
            self.observer.started(handle.who(worker), &mut self.effects);
        }
        self.schedule.started(worker, Instant::now());
        self.carry_out();
    }

    /// A worker process could not be started.
    pub(crate) fn start_failed(&mut self, error: PoolError, lane: Lane) {
        self.lanes.release(lane);
        self.observer.start_failed(&error, &mut self.effects);
        self.effects.log(Level::Warn, error.to_string());
        let template_died = matches!(error, PoolError::Start(StartError::TemplateDied));
        // A lost template waits for a thread that may replace it, unless one has tried in vain.
        let may_return = template_died && !self.is_template_refused;
        self.effects.template_died |= may_return;
        let ending = match error.is_scarcity() || may_return {
            true => Ending::Scarcity,
            false => Ending::Other,
        };
        self.last_start_error = Some(error);
        self.schedule.start_failed(ending, Instant::now());
        self.carry_out();
        self.notify_if_at_rest();
    }

    /// The template of a fork pool has been replaced: the next start is due at once.
    pub(crate) fn template_restored(&mut self) {
        self.is_template_refused = false;
        self.schedule.retry_starts(Instant::now());
        self.carry_out();
    }

    /// The template of a fork pool cannot be replaced, because there are threads about which nothing is known. They seldom
    /// end soon.
    pub(crate) fn template_refused(&mut self) {
        self.is_template_refused = true;
    }

    /// Workers that were to be started will not be.
    pub(crate) fn drop_starts(&mut self, count: usize) {
        self.schedule.starts_dropped(count);
        self.notify_if_at_rest();
    }
}
