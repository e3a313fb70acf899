//! The times of a worker's items: its stamps, put together with the answers that were taken in.
//!
//! A worker shows the stamp for an item after its answer, so an answer waits here for the stamp behind it, or a stamp for
//! the answers before it. What a worker writes down itself may be anything: a stamp that goes back, lies in the future,
//! or counts more than was sent is dropped. So a worker that lies spoils the times of its own lane, and no more.

use std::collections::VecDeque;

use crate::observe::record::Outcome;
use crate::observe::stamp::Stamp;

/// How many answers may wait for a stamp. Of a worker that writes none, the rest has the times of their arrival.
const WAITING_MAX: usize = 4096;

/// Items with consecutive positions and outcomes alike, without their times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) call: u64,
    pub(crate) first: u64,
    pub(crate) items: u32,
    pub(crate) outcome: Outcome,
}

/// The same, and when they ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timed {
    pub(crate) answered: Answered,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The time of each is known, not only of all together.
    pub(crate) is_exact: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    answered: Answered,
    /// The number of the record of its first item.
    record: u64,
    arrived: u64,
}

/// The times of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    /// Everything before this was yielded.
    last: Stamp,
    stamps: VecDeque<Stamp>,
    /// The number of records whose answers were taken in.
    received: u64,
    waiting: VecDeque<Waiting>,
}

impl Times {
    /// Of a worker that was started at this moment.
    pub(crate) fn new(now: u64) -> Self {
        let last = Stamp { done: 0, ns: now };
        Self { last, stamps: VecDeque::new(), received: 0, waiting: VecDeque::new() }
    }

    /// Answers were taken in, the last of them to the record before this number.
    pub(crate) fn answered(&mut self, answered: Answered, records: u64, now: u64) {
        self.received = records;
        let record = records.saturating_sub(u64::from(answered.items));
        if let Some(before) = self.waiting.back_mut() {
            let Answered { call, first, items, outcome } = before.answered;
            let continues = call == answered.call
                && first + u64::from(items) == answered.first
                && before.record + u64::from(items) == record
                && outcome == answered.outcome
                && items.checked_add(answered.items).is_some();
            if continues {
                before.answered.items += answered.items;
                before.arrived = now;
                return;
            }
        }
        self.waiting.push_back(Waiting { answered, record, arrived: now });
    }

    /// All answers before the record with this number were taken in, orders included.
    pub(crate) fn received(&mut self, records: u64) {
        self.received = self.received.max(records);
    }

    /// Stamps of the worker, which was sent `sent` records.
    pub(crate) fn stamped(&mut self, stamps: &[Stamp], sent: u64, now: u64) {
        for &stamp in stamps {
            let before = self.stamps.back().copied().unwrap_or(self.last);
            let is_possible =
                stamp.done >= before.done && stamp.ns >= before.ns && stamp.ns <= now && stamp.done <= sent;
            if is_possible {
                self.stamps.push_back(stamp);
            }
        }
    }

    /// Yields all items whose times are known by now.
    pub(crate) fn resolve(&mut self, mut yields: impl FnMut(Timed)) {
        while let Some(stamp) = self.stamps.front().copied().filter(|stamp| stamp.done <= self.received) {
            self.stamps.pop_front();
            self.advance(stamp, &mut yields);
        }
        if self.waiting.len() > WAITING_MAX {
            self.flush(&mut yields);
        }
    }

    /// Yields all items that are left, with the times of their arrival: no stamp will come, or none that is wanted.
    pub(crate) fn flush(&mut self, mut yields: impl FnMut(Timed)) {
        self.stamps.clear();
        while let Some(waiting) = self.waiting.pop_front() {
            let to = waiting.arrived.max(self.last.ns);
            yields(Timed { answered: waiting.answered, from: self.last.ns, to, is_exact: false });
            self.last = Stamp { done: waiting.record + u64::from(waiting.answered.items), ns: to };
        }
    }

    /// The worker ran nothing before this moment that was not answered: it is sent something now.
    pub(crate) fn idle_until(&mut self, now: u64) {
        if self.waiting.is_empty() && self.stamps.is_empty() {
            self.last.ns = self.last.ns.max(now);
        }
    }

    /// When the item began that runs now, at the earliest.
    pub(crate) fn last_ns(&self) -> u64 {
        self.stamps.back().map_or(self.last.ns, |stamp| stamp.ns)
    }

    /// The records up to `stamp` ran between the last one and this.
    fn advance(&mut self, stamp: Stamp, yields: &mut impl FnMut(Timed)) {
        let last = std::mem::replace(&mut self.last, stamp);
        let records = stamp.done - last.done;
        let ns_after = |record: u64| {
            let part = u128::from(record.saturating_sub(last.done)) * u128::from(stamp.ns - last.ns);
            last.ns + u64::try_from(part / u128::from(records.max(1))).unwrap_or(0)
        };
        while let Some(mut waiting) = self.waiting.front().copied().filter(|waiting| waiting.record < stamp.done) {
            let end = waiting.record + u64::from(waiting.answered.items);
            let cut = end.min(stamp.done);
            let items = u32::try_from(cut - waiting.record).expect("no more than it has");
            let answered = Answered { items, ..waiting.answered };
            let (from, to) = (ns_after(waiting.record), ns_after(cut));
            yields(Timed { answered, from, to, is_exact: records == 1 });
            if cut == end {
                self.waiting.pop_front();
                continue;
            }
            waiting.answered.first += u64::from(items);
            waiting.answered.items -= items;
            waiting.record = cut;
            self.waiting[0] = waiting;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(first: u64, items: u32) -> Answered {
        Answered { call: 1, first, items, outcome: Outcome::Value }
    }

    fn resolved(times: &mut Times) -> Vec<(u64, u32, u64, u64, bool)> {
        let mut all = Vec::new();
        times.resolve(|it| all.push((it.answered.first, it.answered.items, it.from, it.to, it.is_exact)));
        all
    }

    fn stamp(done: u64, ns: u64) -> Stamp {
        Stamp { done, ns }
    }

    #[test]
    fn an_item_between_two_stamps_has_exact_times() {
        let mut times = Times::new(100);
        times.stamped(&[stamp(0, 150), stamp(1, 170)], 3, 1000);
        assert_eq!(resolved(&mut times), [], "no answer was taken in");
        times.answered(values(0, 1), 1, 175);
        assert_eq!(resolved(&mut times), [(0, 1, 150, 170, true)]);
        times.stamped(&[stamp(1, 300), stamp(2, 340)], 3, 1000);
        times.answered(values(1, 1), 2, 345);
        assert_eq!(resolved(&mut times), [(1, 1, 300, 340, true)], "it was idle from 170 to 300");
    }

    #[test]
    fn items_share_the_time_between_the_stamps_around_them() {
        let mut times = Times::new(0);
        times.answered(values(0, 6), 6, 500);
        times.answered(Answered { outcome: Outcome::Failed, ..values(6, 1) }, 7, 500);
        assert_eq!(resolved(&mut times), [], "the stamp is still to come");
        times.stamped(&[stamp(0, 100), stamp(4, 140), stamp(8, 180)], 8, 500);
        assert_eq!(resolved(&mut times), [(0, 4, 100, 140, false)]);
        times.answered(values(7, 1), 8, 510);
        assert_eq!(
            resolved(&mut times),
            [(4, 2, 140, 160, false), (6, 1, 160, 170, false), (7, 1, 170, 180, false)],
            "one that failed is told apart"
        );
    }

    #[test]
    fn orders_between_items_take_their_own_time() {
        let mut times = Times::new(0);
        // Record 0 is an order.
        times.stamped(&[stamp(0, 10), stamp(1, 15), stamp(2, 40)], 2, 500);
        times.answered(values(0, 1), 2, 60);
        assert_eq!(resolved(&mut times), [(0, 1, 15, 40, true)]);
    }

    #[test]
    fn impossible_stamps_are_dropped() {
        let mut times = Times::new(100);
        let lies = [stamp(9, 200), stamp(1, 50), stamp(1, 5000), stamp(u64::MAX, u64::MAX), stamp(0, 0)];
        times.stamped(&lies, 3, 1000);
        times.stamped(&[stamp(0, 150), stamp(1, 170)], 3, 1000);
        times.answered(values(0, 1), 1, 180);
        assert_eq!(resolved(&mut times), [(0, 1, 150, 170, true)]);
    }

    #[test]
    fn without_stamps_items_have_the_times_of_their_arrival() {
        let mut times = Times::new(0);
        times.idle_until(50);
        times.answered(values(0, 2), 2, 60);
        times.answered(values(5, 1), 3, 90);
        let mut all = Vec::new();
        times.flush(|it| all.push((it.answered.first, it.from, it.to)));
        assert_eq!(all, [(0, 50, 60), (5, 60, 90)]);
        for record in 0..2 * WAITING_MAX as u64 {
            times.answered(values(10 * record, 1), 4 + record, 100);
        }
        assert!(!resolved(&mut times).is_empty(), "they do not wait for ever");
    }
}
