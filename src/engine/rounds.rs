//! Which workers are looked at for answers, and which are asked to wake a driver that sleeps.
//!
//! Answers in shared memory raise no event unless the worker was asked to ring. So a driver looks at the workers that have
//! something to answer, and before it sleeps it asks them to ring. Both would take a step for each busy worker at each
//! call. So a look takes a limited number of workers in turn, and a worker that was asked is not asked again before it has
//! been received from. No answer waits for its turn while the driver sleeps: a worker that has answered before it is asked
//! is found by the asking, and one that answers later rings.
//!
//! Also called: busy polling, interrupt mitigation.

use std::time::Duration;
use std::time::Instant;

use crate::schedule::WorkerId;

/// How often workers that were asked are asked again. They ring, so this is for bells that a task has closed, and for
/// workers that were stopped before they rang.
pub(crate) const RECHECK: Duration = Duration::from_secs(1);
/// How many workers are looked at in one round, unless there are more processors.
const LOOKS_MIN: usize = 16;

/// A worker's place in the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    is_active: bool,
    is_unasked: bool,
    is_asked: bool,
}

/// What one look at a worker has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    News,
    /// It has something to answer and has not.
    Nothing,
    /// It has nothing to answer, or is gone.
    Idle,
}

/// The workers that may have something to answer.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// Each once. Those that have become idle stay until they are looked at.
    active: Vec<WorkerId>,
    /// Where the next look begins.
    next: usize,
    looks_max: usize,
    /// Those that must be asked to ring before a driver sleeps.
    unasked: Vec<WorkerId>,
    /// How many were asked and have not been received from since.
    asked: usize,
    /// The one that had answered before it was asked.
    late: Option<WorkerId>,
    recheck_at: Option<Instant>,
}

impl Rounds {
    pub(crate) fn new(processors: usize) -> Self {
        Self {
            active: Vec::new(),
            next: 0,
            looks_max: processors.max(LOOKS_MIN),
            unasked: Vec::new(),
            asked: 0,
            late: None,
            recheck_at: None,
        }
    }

    /// The worker was given something.
    pub(crate) fn given(&mut self, worker: WorkerId, place: &mut Place) {
        if !std::mem::replace(&mut place.is_active, true) {
            self.active.push(worker);
        }
        if !place.is_asked {
            self.must_ask(worker, place);
        }
    }

    /// Its answers were taken: what it was asked for has happened, or will be asked for again.
    pub(crate) fn received(&mut self, worker: WorkerId, place: &mut Place) {
        self.forget(place);
        self.must_ask(worker, place);
    }

    /// The worker must be asked to ring, even if it was.
    pub(crate) fn must_ask(&mut self, worker: WorkerId, place: &mut Place) {
        if !std::mem::replace(&mut place.is_unasked, true) {
            self.unasked.push(worker);
        }
    }

    /// The worker will not ring for what it was asked.
    pub(crate) fn forget(&mut self, place: &mut Place) {
        self.asked -= usize::from(std::mem::take(&mut place.is_asked));
    }

    /// The workers that may have something to answer.
    pub(crate) fn active(&self) -> &[WorkerId] {
        &self.active
    }

    /// Looks at workers, and adds those with news.
    pub(crate) fn look(&mut self, news: &mut Vec<WorkerId>, mut look: impl FnMut(WorkerId) -> Look) {
        let late = self.late.take();
        news.extend(late);
        for _ in 0..self.active.len().min(self.looks_max) {
            self.next = if self.next < self.active.len() { self.next } else { 0 };
            let worker = self.active[self.next];
            match look(worker) {
                Look::Idle => {
                    self.active.swap_remove(self.next);
                    continue;
                }
                Look::News if Some(worker) != late => news.push(worker),
                Look::News | Look::Nothing => {}
            }
            self.next += 1;
        }
    }

    /// The next worker that must be asked to ring.
    pub(crate) fn next_unasked(&mut self) -> Option<WorkerId> {
        self.unasked.pop()
    }

    /// The worker will ring.
    pub(crate) fn asked(&mut self, place: &mut Place) {
        self.asked += usize::from(!std::mem::replace(&mut place.is_asked, true));
    }

    /// The worker had answered before it was asked. It is looked at next, and asked again.
    pub(crate) fn late(&mut self, worker: WorkerId, place: &mut Place) {
        self.late = Some(worker);
        self.must_ask(worker, place);
    }

    /// Whether any worker will ring.
    pub(crate) fn has_asked(&self) -> bool {
        self.asked > 0
    }

    /// Whether all workers must be asked again by now.
    pub(crate) fn is_recheck_due(&mut self, now: Instant) -> bool {
        let is_due = self.recheck_at.is_none_or(|at| at <= now);
        if is_due {
            self.recheck_at = Some(now + RECHECK);
        }
        is_due
    }
}

impl Place {
    /// It is no longer among those that may have something to answer.
    pub(crate) fn leave(&mut self) {
        self.is_active = false;
    }

    /// It is no longer among those that must be asked.
    pub(crate) fn take_turn(&mut self) {
        self.is_unasked = false;
    }

    pub(crate) fn is_active(self) -> bool {
        self.is_active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds among so many workers that hold something.
    fn rounds(workers: u64) -> (Rounds, Vec<Place>) {
        let mut rounds = Rounds::new(2);
        let mut places = vec![Place::default(); usize::try_from(workers).unwrap()];
        for (worker, place) in (0..workers).map(WorkerId).zip(&mut places) {
            rounds.given(worker, place);
        }
        (rounds, places)
    }

    /// How many workers are asked, if all of them will ring.
    fn ask_all(rounds: &mut Rounds, places: &mut [Place]) -> usize {
        let mut count = 0;
        while let Some(WorkerId(worker)) = rounds.next_unasked() {
            let place = &mut places[usize::try_from(worker).unwrap()];
            place.take_turn();
            rounds.asked(place);
            count += 1;
        }
        count
    }

    #[test]
    fn all_workers_are_looked_at_in_turn_a_few_at_a_time() {
        let (mut rounds, _) = rounds(100);
        let mut looks = [0; 100];
        for _ in 0..25 {
            let before: usize = looks.iter().sum();
            rounds.look(&mut Vec::new(), |WorkerId(worker)| {
                looks[usize::try_from(worker).unwrap()] += 1;
                Look::Nothing
            });
            assert_eq!(looks.iter().sum::<usize>() - before, LOOKS_MIN);
        }
        assert_eq!(looks, [4; 100]);
    }

    #[test]
    fn idle_ones_are_not_looked_at_again_until_they_are_given_something() {
        let (mut rounds, mut places) = rounds(2);
        rounds.look(&mut Vec::new(), |_| Look::Idle);
        places.iter_mut().for_each(Place::leave);
        rounds.look(&mut Vec::new(), |worker| panic!("{worker:?} is idle"));
        rounds.given(WorkerId(1), &mut places[1]);
        let mut news = Vec::new();
        rounds.look(&mut news, |_| Look::News);
        assert_eq!(news, [WorkerId(1)]);
    }

    #[test]
    fn one_that_was_asked_is_asked_again_only_after_it_was_received_from() {
        let (mut rounds, mut places) = rounds(100);
        assert_eq!(ask_all(&mut rounds, &mut places), 100);
        rounds.given(WorkerId(7), &mut places[7]);
        assert_eq!(ask_all(&mut rounds, &mut places), 0);
        rounds.received(WorkerId(7), &mut places[7]);
        assert_eq!(ask_all(&mut rounds, &mut places), 1);
        assert!(rounds.has_asked());
        places.iter_mut().for_each(|place| rounds.forget(place));
        assert!(!rounds.has_asked());
    }

    /// No turn comes soon for one of many, and the driver does not sleep before its answer is taken.
    #[test]
    fn one_that_had_answered_before_it_was_asked_is_taken_next() {
        let (mut rounds, mut places) = rounds(100);
        assert_eq!(ask_all(&mut rounds, &mut places), 100);
        rounds.late(WorkerId(90), &mut places[90]);
        let mut news = Vec::new();
        rounds.look(&mut news, |_| Look::Nothing);
        assert_eq!(news, [WorkerId(90)]);
        assert_eq!(rounds.next_unasked(), Some(WorkerId(90)));
    }
}
