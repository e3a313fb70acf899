//! Threads that wait for the same thing, each on a condition variable of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Condvar;

/// Threads that wait. Each leaves by itself, in few steps however many others wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters(BTreeMap<usize, Arc<Condvar>>);

impl Waiters {
    /// The address is the key: no two that are alive share one.
    fn key(condvar: &Arc<Condvar>) -> usize {
        Arc::as_ptr(condvar).addr()
    }

    pub(crate) fn join(&mut self, condvar: Arc<Condvar>) {
        self.0.insert(Self::key(&condvar), condvar);
    }

    pub(crate) fn leave(&mut self, condvar: &Arc<Condvar>) {
        self.0.remove(&Self::key(condvar));
    }

    /// Any one of them.
    pub(crate) fn any(&self) -> Option<&Condvar> {
        self.0.values().next().map(Arc::as_ref)
    }

    /// Wakes all of them.
    pub(crate) fn notify_all(&self) {
        for condvar in self.0.values() {
            condvar.notify_all();
        }
    }
}
