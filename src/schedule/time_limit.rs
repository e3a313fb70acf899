//! When the item that a worker must answer next has run for too long. Pure.
//!
//! An item's time begins when the item does. The parent is not told of that: it knows when it *saw* the item become the
//! next one to be answered, and the clock runs from there. A worker may begin later than that, when it was asleep or
//! had an order to obey first, or earlier, when it answered faster than anybody looked. So the clock only says when to
//! look, and what is found then decides: the worker itself writes down when it has begun a timed item. What it writes
//! is a hint that can gain it one more period at most.

use std::time::Duration;
use std::time::Instant;

use crate::work::progress::Progress;

/// How long a worker may take to begin what it has been given, and to obey what it was told before: far more than it
/// ever does, unless it has been stopped or a context never ends decoding.
pub(crate) const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How much later a second look is taken at a worker that has not written down yet what it has begun.
const SECOND_LOOK: Duration = Duration::from_millis(1);

/// What is to be done about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeVerdict {
    /// Nothing yet.
    Wait,
    /// It has had its time.
    TimeIsUp,
    /// Its worker does not get so far as to begin it, for a reason that another worker may not have.
    NeverBegins,
    /// What must be done before it does not end, and would end with no other worker.
    NeverReady,
}

/// The clock of one item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    timeout: Duration,
    /// When the item was seen to become the next one.
    since: Instant,
    /// When to look.
    due: Option<Instant>,
    /// When it was first seen to run.
    seen_running: Option<Instant>,
    has_looked_twice: bool,
}

impl Clock {
    /// The item is the next one from now on.
    pub(crate) fn new(timeout: Duration, now: Instant) -> Self {
        Self { timeout, since: now, due: now.checked_add(timeout), seen_running: None, has_looked_twice: false }
    }

    /// When [`look`](Self::look) is due; never, for times beyond all clocks.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What had to be done before the item has been done: its time begins.
    pub(crate) fn restart(&mut self, now: Instant) {
        *self = Self::new(self.timeout, now);
    }

    /// The time has come, and this is what the worker does.
    pub(crate) fn look(&mut self, progress: Progress, now: Instant) -> TimeVerdict {
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
            // An hour from now it would still say that it has begun this very moment, if it is up to no good.
            Some(since) if since > self.since => since.min(seen).checked_add(self.timeout),
            // It may have begun so recently that this is still of the item before.
            Some(_) if !self.has_looked_twice => {
                self.has_looked_twice = true;
                Some(now + SECOND_LOOK)
            }
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

    fn clock() -> (Clock, Instant) {
        let now = Instant::now();
        (Clock::new(LIMIT, now), now)
    }

    #[test]
    fn an_item_has_its_whole_time_from_when_it_began() {
        let (mut clock, start) = clock();
        let began = start + 3 * SECOND;
        let runs = Progress::Runs { since: Some(began) };
        assert_eq!(clock.due(), Some(start + LIMIT));
        assert_eq!(clock.look(runs, start + LIMIT), TimeVerdict::Wait);
        assert_eq!(clock.due(), Some(began + LIMIT));
        assert_eq!(clock.look(runs, began + LIMIT), TimeVerdict::TimeIsUp);
    }

    #[test]
    fn a_worker_that_always_says_it_has_just_begun_gains_one_period() {
        let (mut clock, start) = clock();
        let mut now = start + LIMIT;
        while clock.look(Progress::Runs { since: Some(now) }, now) == TimeVerdict::Wait {
            now = clock.due().unwrap();
            assert!(now <= start + 2 * LIMIT);
        }
    }

    #[test]
    fn an_old_word_is_looked_at_once_more() {
        let (mut clock, start) = clock();
        let now = start + LIMIT;
        let old = Progress::Runs { since: Some(start) };
        assert_eq!(clock.look(old, now), TimeVerdict::Wait);
        assert_eq!(clock.look(old, now + SECOND_LOOK), TimeVerdict::TimeIsUp);
    }

    #[test]
    fn without_its_word_the_clock_counts_from_when_it_was_seen() {
        let (mut clock, start) = clock();
        assert_eq!(clock.look(Progress::Runs { since: None }, start + LIMIT), TimeVerdict::TimeIsUp);
    }

    #[test]
    fn what_comes_before_the_item_is_not_its_time_and_has_an_end() {
        let (mut clock, start) = clock();
        assert_eq!(clock.look(Progress::Prepares, start + LIMIT), TimeVerdict::Wait);
        assert_eq!(clock.look(Progress::Waits, start + 2 * LIMIT), TimeVerdict::Wait);
        assert_eq!(clock.due(), Some(start + BEGIN_TIMEOUT));
        assert_eq!(clock.look(Progress::Waits, start + BEGIN_TIMEOUT), TimeVerdict::NeverBegins);
        assert_eq!(clock.look(Progress::Prepares, start + BEGIN_TIMEOUT), TimeVerdict::NeverReady);
        clock.restart(start + 2 * LIMIT);
        assert_eq!(clock.due(), Some(start + 3 * LIMIT));
    }
}
