//! Events of the pool: resized, closed, ended; and whether it has come to rest.

use std::time::Instant;

use crate::schedule::state::Lifecycle;
use crate::schedule::state::Schedule;

impl Schedule {
    /// The pool keeps this many workers from now on.
    pub(crate) fn resize(&mut self, processes: usize, now: Instant) {
        self.size.resize(processes);
        self.trim();
        self.dispatch(now);
    }

    /// How many workers the pool keeps at most.
    pub(crate) fn processes(&self) -> usize {
        self.size.max()
    }

    /// No more jobs will be opened. What is accepted runs.
    pub(crate) fn close(&mut self, now: Instant) {
        if self.lifecycle == Lifecycle::Running {
            self.lifecycle = Lifecycle::Closing;
        }
        self.balance(now);
    }

    /// Nothing more runs. The engine kills the workers and settles what they held.
    pub(crate) fn end(&mut self) {
        self.lifecycle = Lifecycle::Ended;
        self.backlog.clear();
        // No start that is withdrawn will be answered.
        self.starts_pending -= self.agenda.clear();
        self.roster.clear_loads();
    }

    /// Whether no worker is left, none is being started, and no work waits for one.
    pub(crate) fn is_at_rest(&self) -> bool {
        let workers_gone = self.starts_pending == 0 && self.roster.is_empty();
        let work_gone = self.lifecycle == Lifecycle::Ended || (self.backlog.is_empty() && self.feeding == 0);
        self.lifecycle != Lifecycle::Running && workers_gone && work_gone
    }
}
