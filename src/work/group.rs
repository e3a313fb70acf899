//! Several jobs that a thread waits for together: each that finishes is noted here, once.
//!
//! A job that finishes pushes its place, under the lock of its engine; a thread that waits takes what was pushed. So a
//! completion costs the same however many jobs are in the group. The jobs may be of several pools: the group has a lock
//! of its own, which is taken inside that of an engine, and never the other way round.
//!
//! A thread waits in one of two ways, and `push` wakes both:
//!
//! - All jobs are of one pool: it drives that pool, or follows the thread that does, on a condition variable in
//!   [`Group::followers`], which sleeps with the lock of the engine.
//! - Otherwise: it sleeps in [`Group::wait`], and the background thread of each pool drives.
//!
//! Also called: completion queue, waiter, select.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::MutexGuard;

use crate::sys::condvar;
use crate::sys::waiters::Waiters;

/// A job of the group that has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// Its place in the group.
    pub(crate) index: usize,
    /// Whether an item of it has an error, other than for a cancellation.
    pub(crate) has_failed: bool,
}

/// The jobs that a thread waits for. See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Group {
    completions: Mutex<Vec<Completion>>,
    changed: Condvar,
    /// Threads that wait for the group without driving. Joined and left under the lock of the engine.
    followers: Mutex<Waiters>,
}

impl Group {
    /// Notes that a job has finished. Under the lock of its engine, or by the thread that waits.
    pub(crate) fn push(&self, completion: Completion) {
        self.completions.lock().push(completion);
        self.changed.notify_all();
        self.followers.lock().notify_all();
    }

    /// Takes what has finished since the last call, in order.
    pub(crate) fn take(&self) -> Vec<Completion> {
        std::mem::take(&mut self.completions.lock())
    }

    /// Whether there is something to take.
    pub(crate) fn has_news(&self) -> bool {
        !self.completions.lock().is_empty()
    }

    /// Waits, without driving any pool, until there is something to take, or the deadline has passed.
    pub(crate) fn wait(&self, deadline: Option<Instant>) {
        let mut completions = self.completions.lock();
        while completions.is_empty() {
            if condvar::sleep(&self.changed, &mut completions, deadline) {
                return;
            }
        }
    }

    /// The threads that wait for the group without driving.
    pub(crate) fn followers(&self) -> MutexGuard<'_, Waiters> {
        self.followers.lock()
    }
}

/// Which thread drives the pool of a job while another waits for the job's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrivenBy {
    /// The thread that waits.
    Waiter,
    /// The background thread of the pool.
    Background,
}

/// The place of a job in a group.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) group: Arc<Group>,
    pub(crate) index: usize,
    pub(crate) driven_by: DrivenBy,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn completions_are_taken_once_and_in_order() {
        let group = Group::default();
        for index in [4, 2] {
            group.push(Completion { index, has_failed: index == 2 });
        }
        assert!(group.has_news());
        group.wait(None);
        let taken: Vec<_> = group.take().into_iter().map(|one| (one.index, one.has_failed)).collect();
        assert_eq!(taken, [(4, false), (2, true)]);
        assert!(!group.has_news() && group.take().is_empty());
    }

    #[test]
    fn a_push_ends_the_wait_and_a_deadline_does_too() {
        let group = Arc::new(Group::default());
        group.wait(Instant::now().checked_add(Duration::from_millis(1)));
        let other = Arc::clone(&group);
        let pushing = std::thread::spawn(move || other.push(Completion { index: 0, has_failed: false }));
        group.wait(None);
        assert_eq!(group.take().len(), 1);
        pushing.join().unwrap();
    }
}
