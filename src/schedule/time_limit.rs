//! Time limits: when the item that a worker must answer next has run for too long. Pure.
//!
//! The time of an item begins when the item does. No message tells the parent so: it knows when it *saw* the item become
//! the next one to be answered, and the timer runs from then. The worker may begin later, when it was asleep or had an
//! order to carry out first, or earlier, when it answered faster than the parent read. So the timer only tells when to
//! check, and the check decides: the worker itself writes down when it began, unless it began right behind an item that
//! was quick. What it writes is a hint that can gain it one more period at most.
//!
//! Also called: deadline, timeout, watchdog.

use std::time::Duration;
use std::time::Instant;

use crate::work::progress::Progress;

/// How long a worker may take to begin an item and to carry out the orders before it: far more than it ever needs, unless
/// the process is stopped or the decoding of a context never ends.
pub(crate) const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// What to do about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeVerdict {
    /// Nothing yet.
    Wait,
    /// It has run for its whole time.
    TimeIsUp,
    /// Its worker does not begin it, for a reason that another worker may not have.
    NeverBegins,
    /// The orders before it do not end, and would not end in any other worker.
    NeverReady,
}

/// The timer of one item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ItemTimer {
    timeout: Duration,
    /// When the item was seen to become the next one.
    since: Instant,
    /// When to check.
    due: Option<Instant>,
    /// When it was first seen to run.
    seen_running: Option<Instant>,
}

impl ItemTimer {
    /// The item has become the next one to be answered.
    pub(crate) fn new(timeout: Duration, now: Instant) -> Self {
        Self { timeout, since: now, due: now.checked_add(timeout), seen_running: None }
    }

    /// When [`check`](Self::check) is due; `None` for a time beyond the range of the clock.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The orders before the item have been carried out: its time begins.
    pub(crate) fn restart(&mut self, now: Instant) {
        *self = Self::new(self.timeout, now);
    }

    /// Decides, from the worker's progress, what to do now that the check is due.
    pub(crate) fn check(&mut self, progress: Progress, now: Instant) -> TimeVerdict {
        if self.due.is_none_or(|due| now < due) {
            return TimeVerdict::Wait;
        }
        let Progress::Runs { since } = progress else {
            let give_up = self.since.checked_add(BEGIN_TIMEOUT.max(self.timeout));
            if give_up.is_none_or(|give_up| now < give_up) {
                self.due = [now.checked_add(self.timeout), give_up].into_iter().flatten().min();
                return TimeVerdict::Wait;
            }
            return if progress == Progress::Waits { TimeVerdict::NeverBegins } else { TimeVerdict::NeverReady };
        };
        let seen = *self.seen_running.get_or_insert(now);
        let due = match since {
            // `min(seen)`: a worker that always claims to have begun just now gains no more than one period.
            Some(since) if since > self.since => since.min(seen).checked_add(self.timeout),
            // It began before it was seen to be the next one, or as soon as the one before it was done.
            _ => Some(now),
        };
        self.due = due;
        if due.is_none_or(|due| due > now) { TimeVerdict::Wait } else { TimeVerdict::TimeIsUp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn timer() -> (ItemTimer, Instant) {
        let now = Instant::now();
        (ItemTimer::new(LIMIT, now), now)
    }

    #[test]
    fn an_item_has_its_whole_time_from_when_it_began() {
        let (mut timer, start) = timer();
        let began = start + 3 * SECOND;
        let runs = Progress::Runs { since: Some(began) };
        assert_eq!(timer.due(), Some(start + LIMIT));
        assert_eq!(timer.check(runs, start + LIMIT), TimeVerdict::Wait);
        assert_eq!(timer.due(), Some(began + LIMIT));
        assert_eq!(timer.check(runs, began + LIMIT), TimeVerdict::TimeIsUp);
    }

    #[test]
    fn a_worker_that_always_says_it_has_just_begun_gains_one_period() {
        let (mut timer, start) = timer();
        let mut now = start + LIMIT;
        while timer.check(Progress::Runs { since: Some(now) }, now) == TimeVerdict::Wait {
            now = timer.due().unwrap();
            assert!(now <= start + 2 * LIMIT);
        }
    }

    #[test]
    fn an_item_that_began_earlier_than_was_seen_gets_no_more_time() {
        let (mut timer, start) = timer();
        let earlier = Progress::Runs { since: Some(start - SECOND) };
        assert_eq!(timer.check(earlier, start + LIMIT), TimeVerdict::TimeIsUp);
    }

    #[test]
    fn without_a_hint_the_timer_counts_from_when_it_was_seen() {
        let (mut timer, start) = timer();
        assert_eq!(timer.check(Progress::Runs { since: None }, start + LIMIT), TimeVerdict::TimeIsUp);
    }

    #[test]
    fn orders_before_the_item_do_not_count_and_have_a_limit() {
        let (mut timer, start) = timer();
        assert_eq!(timer.check(Progress::Prepares, start + LIMIT), TimeVerdict::Wait);
        assert_eq!(timer.check(Progress::Waits, start + 2 * LIMIT), TimeVerdict::Wait);
        assert_eq!(timer.due(), Some(start + BEGIN_TIMEOUT));
        assert_eq!(timer.check(Progress::Waits, start + BEGIN_TIMEOUT), TimeVerdict::NeverBegins);
        assert_eq!(timer.check(Progress::Prepares, start + BEGIN_TIMEOUT), TimeVerdict::NeverReady);
        timer.restart(start + 2 * LIMIT);
        assert_eq!(timer.due(), Some(start + 3 * LIMIT));
    }
}
