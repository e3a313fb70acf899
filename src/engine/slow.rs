//! Which items have run for long while they run. Pure.
//!
//! One timer for the whole pool: while any worker holds work, all of them are looked at from time to time. So an item
//! costs nothing, and one whose beginning the link does not tell counts from the look that saw it first.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::schedule::WorkerId;
use crate::schedule::load::ItemId;

/// The next look is no sooner than this.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The item that a worker was seen to run.
#[derive(Clone, Copy, Debug)]
struct Seen {
    item: ItemId,
    since: Instant,
    is_told: bool,
}

/// The items that run.
#[derive(Debug)]
pub(super) struct SlowWatch {
    after: Duration,
    due: Option<Instant>,
    seen: BTreeMap<WorkerId, Seen>,
}

impl SlowWatch {
    /// Items are slow after so long.
    pub(super) fn new(after: Duration) -> Self {
        Self { after, due: None, seen: BTreeMap::new() }
    }

    /// When to look, if any worker holds work.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A worker is sent work.
    pub(super) fn arm(&mut self) {
        if self.due.is_none() {
            self.due = Instant::now().checked_add(self.after);
        }
    }

    /// A worker runs this item, since `began` if that is known. How long it has run, if it is to be told now.
    pub(super) fn look(
        &mut self,
        worker: WorkerId,
        item: ItemId,
        began: Option<Instant>,
        now: Instant,
    ) -> Option<Duration> {
        let began = began.unwrap_or(now).min(now);
        let seen = self.seen.entry(worker).or_insert(Seen { item, since: began, is_told: false });
        if seen.item != item {
            *seen = Seen { item, since: began, is_told: false };
        }
        let time = now.saturating_duration_since(seen.since);
        if seen.is_told || time < self.after {
            return None;
        }
        seen.is_told = true;
        Some(time)
    }

    /// All workers were looked at; these hold work.
    pub(super) fn rearm(&mut self, loaded: &[WorkerId], now: Instant) {
        self.seen.retain(|worker, _| loaded.contains(worker));
        let untold =
            self.seen.values().filter(|seen| !seen.is_told).filter_map(|seen| seen.since.checked_add(self.after));
        let next = untold.chain(now.checked_add(self.after)).min();
        self.due = next.filter(|_| !loaded.is_empty()).map(|due| due.max(now + PAUSE_MIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::batch::JobId;

    const SECOND: Duration = Duration::from_secs(1);

    fn item(index: u64) -> ItemId {
        ItemId { job: JobId(1), index }
    }

    #[test]
    fn each_slow_item_is_told_once() {
        let mut slow = SlowWatch::new(SECOND);
        let (worker, start) = (WorkerId(1), Instant::now());
        assert_eq!(slow.look(worker, item(0), Some(start), start + SECOND / 2), None);
        slow.rearm(&[worker], start + SECOND / 2);
        assert_eq!(slow.due(), Some(start + SECOND), "when that item will be slow");
        assert_eq!(slow.look(worker, item(0), Some(start), start + SECOND), Some(SECOND));
        assert_eq!(slow.look(worker, item(0), Some(start), start + 2 * SECOND), None, "once");
        slow.rearm(&[worker], start + 2 * SECOND);
        assert_eq!(slow.due(), Some(start + 3 * SECOND), "the next item may be slow");
        slow.rearm(&[], start + 3 * SECOND);
        assert_eq!(slow.due(), None, "an idle pool has no timer");
    }

    #[test]
    fn without_a_beginning_an_item_counts_from_when_it_was_seen() {
        let mut slow = SlowWatch::new(SECOND);
        let (worker, start) = (WorkerId(1), Instant::now());
        assert_eq!(slow.look(worker, item(4), None, start), None);
        assert_eq!(slow.look(worker, item(5), None, start + SECOND), None, "another item");
        assert_eq!(slow.look(worker, item(5), None, start + 2 * SECOND), Some(SECOND));
    }
}
