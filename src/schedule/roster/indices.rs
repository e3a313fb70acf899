//! Which workers have the properties that decisions ask for.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::time::Instant;

use super::entry::RosterEntry;
use super::entry::Stage;
use super::marks::Marks;
use crate::schedule::worker_id::WorkerId;

/// The workers by what decisions ask for.
#[derive(Debug, Default)]
pub(super) struct Indices {
    /// How many workers hold work.
    pub(super) busy: usize,
    /// How many are not ready yet.
    pub(super) starting: usize,
    /// By when they became ready.
    pub(super) ready: BTreeSet<(Instant, WorkerId)>,
    pub(super) idle: IdleLine,
    /// Those that may be sent work ahead, by the estimated time of what they hold.
    pub(super) light: BTreeSet<(u64, WorkerId)>,
    /// Those that hold more than they run, by since when that is so.
    pub(super) stocked: BTreeSet<(Instant, WorkerId)>,
    /// Those that hold one item which may not have begun, by when it is recalled.
    pub(super) lone: BTreeSet<(Instant, WorkerId)>,
    /// Those whose item has a time limit, by when it must be checked.
    pub(super) checks: BTreeSet<(Instant, WorkerId)>,
}

/// The idle workers in the order in which they ran out of work; in front of them those that are unresponsive.
#[derive(Debug, Default)]
pub(super) struct IdleLine {
    line: VecDeque<(i64, WorkerId)>,
    /// How many tickets were given out at the end of the line, and in front of it.
    back: i64,
    front: i64,
}

impl IdleLine {
    fn join(&mut self, id: WorkerId) -> i64 {
        let ticket = self.back;
        self.back += 1;
        self.line.push_back((ticket, id));
        ticket
    }

    fn join_in_front(&mut self, id: WorkerId) -> i64 {
        self.front += 1;
        self.line.push_front((-self.front, id));
        -self.front
    }

    fn leave(&mut self, ticket: i64) {
        match self.line.back() {
            // The last one is employed first.
            Some(&(last, _)) if last == ticket => {
                self.line.pop_back();
            }
            _ => {
                let place = self.line.binary_search_by_key(&ticket, |&(ticket, _)| ticket);
                self.line.remove(place.expect("a worker with a ticket stands in the line"));
            }
        }
    }

    pub(super) fn first(&self) -> Option<WorkerId> {
        self.line.front().map(|&(_, id)| id)
    }

    pub(super) fn last(&self) -> Option<WorkerId> {
        self.line.back().map(|&(_, id)| id)
    }

    /// Those that have been idle for the longest time.
    pub(super) fn oldest(&self, count: usize) -> Vec<WorkerId> {
        self.line.iter().take(count).map(|&(_, id)| id).collect()
    }
}

/// Moves a worker to another place of an index.
#[inline]
fn shift<T: Copy + Ord>(index: &mut BTreeSet<(T, WorkerId)>, id: WorkerId, before: Option<T>, after: Option<T>) {
    if before == after {
        return;
    }
    if let Some(before) = before {
        index.remove(&(before, id));
    }
    if let Some(after) = after {
        index.insert((after, id));
    }
}

impl Indices {
    pub(super) fn add(&mut self, id: WorkerId, entry: &mut RosterEntry) {
        self.update(id, entry);
    }

    pub(super) fn remove(&mut self, id: WorkerId, entry: &RosterEntry) {
        self.replace(id, entry.marks, Marks::default());
    }

    /// The worker has changed.
    #[inline]
    pub(super) fn update(&mut self, id: WorkerId, entry: &mut RosterEntry) {
        let before = entry.marks;
        let idle = match (entry.is_idle(), before.idle) {
            (true, None) if entry.is_unresponsive => Some(self.idle.join_in_front(id)),
            (true, None) => Some(self.idle.join(id)),
            (true, ticket) => ticket,
            (false, _) => None,
        };
        let after = Marks { idle, ..unplaced(entry) };
        if after != before {
            entry.marks = after;
            self.replace(id, before, after);
        }
    }

    fn replace(&mut self, id: WorkerId, before: Marks, after: Marks) {
        self.busy = self.busy + usize::from(after.is_busy) - usize::from(before.is_busy);
        self.starting = self.starting + usize::from(after.is_starting) - usize::from(before.is_starting);
        if let (Some(ticket), None) = (before.idle, after.idle) {
            self.idle.leave(ticket);
        }
        shift(&mut self.ready, id, before.ready, after.ready);
        shift(&mut self.light, id, before.light, after.light);
        shift(&mut self.stocked, id, before.stocked, after.stocked);
        shift(&mut self.lone, id, before.lone, after.lone);
        shift(&mut self.checks, id, before.check, after.check);
    }
}

/// Where a worker belongs, except for its place in the line of idle ones.
#[inline]
fn unplaced(entry: &RosterEntry) -> Marks {
    Marks {
        is_busy: !entry.load.is_empty(),
        is_starting: entry.stage == Stage::Starting,
        ready: (entry.stage == Stage::Ready).then_some(entry.ready_since),
        idle: None,
        light: entry.light_ns(),
        stocked: entry.stocked_since(),
        lone: entry.lone_due(),
        check: entry.load.check_due(),
    }
}

#[cfg(any(test, fuzzing))]
mod check {
    use std::collections::BTreeMap;

    use super::*;

    impl Indices {
        /// Compares the indices with the workers.
        pub(in super::super) fn check(&self, entries: &BTreeMap<WorkerId, RosterEntry>) {
            let mut anew = Indices::default();
            for (&id, entry) in entries {
                let marks = unplaced(entry);
                assert_eq!(Marks { idle: None, ..entry.marks }, marks, "every change was noticed");
                assert_eq!(entry.marks.idle.is_some(), entry.is_idle());
                assert!(entry.marks.idle.is_none_or(|ticket| self.idle.line.contains(&(ticket, id))));
                anew.replace(id, Marks::default(), marks);
            }
            let idle = entries.values().filter(|entry| entry.is_idle()).count();
            assert_eq!(self.idle.line.len(), idle, "only idle workers stand in the line");
            assert!(self.idle.line.iter().is_sorted());
            assert_eq!((self.busy, self.starting), (anew.busy, anew.starting));
            assert_eq!((&self.ready, &self.light), (&anew.ready, &anew.light));
            assert_eq!((&self.stocked, &self.checks), (&anew.stocked, &anew.checks));
            assert_eq!(self.lone, anew.lone);
        }
    }
}
