//! The result of one task in a thread, which comes later.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::Mutex;

use super::team::Team;
use crate::api::workers::Handle;
use crate::api::workers::sealed;
use crate::error::TaskError;
use crate::sys::condvar;

#[derive(Debug)]
pub(super) struct Slot<T> {
    result: Mutex<Option<Result<T, TaskError>>>,
    changed: Condvar,
}

impl<T> Slot<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { result: Mutex::new(None), changed: Condvar::new() })
    }

    pub(super) fn fill(&self, result: Result<T, TaskError>) {
        *self.result.lock() = Some(result);
        self.changed.notify_all();
    }
}

/// The handle of [`Workers::apply_async`](crate::Workers::apply_async) in threads. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "its result is an error if the task fails"]
pub struct ThreadResult<T> {
    slot: Arc<Slot<T>>,
    /// `None` if the call was refused.
    team: Option<Arc<Team>>,
}

impl<T> ThreadResult<T> {
    pub(super) fn new(slot: Arc<Slot<T>>, team: Option<Arc<Team>>) -> Self {
        Self { slot, team }
    }

    /// Sleeps until there is a result, or the deadline has passed.
    fn sleep(&self, deadline: Option<Instant>) {
        let mut result = self.slot.result.lock();
        if result.is_none() {
            condvar::sleep(&self.slot.changed, &mut result, deadline);
        }
    }
}

impl<T> sealed::Workers for ThreadResult<T> {}

impl<T> Handle<T> for ThreadResult<T> {
    fn into_value(self) -> Result<T, TaskError> {
        let take = || self.slot.result.lock().take();
        match &self.team {
            Some(team) => team.wait(take, |nap| self.sleep(nap.map(|nap| Instant::now() + nap))),
            None => take().expect("a call that was refused has its error"),
        }
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        let Some(team) = &self.team else { return true };
        let deadline = Instant::now().checked_add(timeout);
        let is_over = || deadline.is_some_and(|deadline| deadline <= Instant::now());
        let poll = || (self.ready() || is_over()).then_some(());
        team.wait(poll, |nap| self.sleep([deadline, nap.map(|nap| Instant::now() + nap)].into_iter().flatten().min()));
        self.ready()
    }

    fn ready(&self) -> bool {
        self.slot.result.lock().is_some()
    }
}
