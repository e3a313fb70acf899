//! The state of all decisions. The methods are in the files beside this one, by what they are about.

use std::time::Duration;

use crate::schedule::action::Action;
use crate::schedule::agenda::Agenda;
use crate::schedule::backlog::Backlog;
use crate::schedule::policy::PoolPolicy;
use crate::schedule::restarts::Restarts;
use crate::schedule::roster::Roster;
use crate::schedule::size::Size;
use crate::work::unbegun::Grain;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifecycle {
    Running,
    /// Runs what was accepted, then stops all workers.
    Closing,
    /// Runs nothing more.
    Ended,
}

/// The scheduler of one pool.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub(super) size: Size,
    pub(super) tasks_max: Option<u64>,
    pub(super) age_max: Option<Duration>,
    pub(super) grain: Grain,
    /// How many workers can run at the same time.
    pub(super) processors: usize,
    pub(super) lifecycle: Lifecycle,
    pub(super) backlog: Backlog,
    pub(super) roster: Roster,
    /// Starts that were decided and have neither become a worker nor failed.
    pub(super) starts_pending: usize,
    pub(super) restarts: Restarts,
    /// Jobs that will still submit after `close`: calls that are blocked in `map`.
    pub(super) feeding: usize,
    pub(super) agenda: Agenda,
    pub(super) broken: bool,
}

impl Schedule {
    /// A schedule that counts the initial starts as decided: the engine starts as many workers as are wanted, without an
    /// [`Action::Start`] for each.
    pub(crate) fn new(policy: PoolPolicy) -> Self {
        let PoolPolicy { size, tasks_max, age_max, grain, processors } = policy;
        Self {
            size,
            tasks_max,
            age_max,
            grain,
            processors,
            lifecycle: Lifecycle::Running,
            backlog: Backlog::default(),
            roster: Roster::default(),
            starts_pending: size.wanted(),
            restarts: Restarts::default(),
            feeding: 0,
            agenda: Agenda::default(),
            broken: false,
        }
    }

    /// The oldest action that has not been carried out.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.agenda.next(&self.roster)
    }

    /// Compares running totals and indices with what they are of.
    #[cfg(any(test, fuzzing))]
    pub(super) fn check(&self) {
        self.backlog.check();
        self.roster.check();
    }
}
