//! The ledger: one atomic word on which parent and worker agree: what was sent, is done, has begun, and which side sleeps.
//!
//! ```text
//!   63          36 35           8 7 6 5 4      3     2        1        0
//!   sent (28 bits)  done (28 bits)       WAITS  HOLD  P_SLEEPS W_SLEEPS BEGUN
//! ```
//!
//! `sent` counts the records that the parent has put into the down ring, `done` those that the worker has finished; both
//! wrap. Only the parent changes `sent`; only the worker changes `done` and `BEGUN`. Because all of them are in one word, the
//! modification order of this word decides every question on which the two sides could disagree:
//!
//! - *Has the worker begun this record, or may it be taken back?* The worker begins with a compare-and-exchange that
//!   fails under `HOLD`; the parent sets `HOLD` first. So what the word showed when `HOLD` was set stays true until the
//!   parent lifts it: records behind the begun one are the parent's to take back.
//! - *Does a side sleep that must be woken?* A side sets its flag only while the word shows nothing for it to do, and the
//!   change that gives it something to do sees the flag. No fence, no second check, no lost wake-up.
//! - *What was running when it died?* The last value of the word says so: record `done`, if `BEGUN`.
//!
//! Every operation of the parent is a single instruction that cannot fail, whatever the worker does to the word meanwhile.
//! Only the worker loops, and it trusts its parent. Every change is AcqRel and every load is Acquire: the bytes of a record
//! are written before the change that shows it, and read after the load that saw it.
//!
//! Also called: eventcount, packed atomic state.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

const BEGUN: u64 = 1;
const WORKER_SLEEPS: u64 = 1 << 1;
const PARENT_SLEEPS: u64 = 1 << 2;
const HOLD: u64 = 1 << 3;
const WAITS_FOR_ROOM: u64 = 1 << 4;

const DONE_SHIFT: u32 = 8;
const SENT_SHIFT: u32 = 36;
const COUNT_BITS: u32 = 28;
/// Counts are taken modulo this.
const COUNT_MASK: u32 = (1 << COUNT_BITS) - 1;

/// More records than this must never be in flight to one worker, or the difference of two counts would be ambiguous.
pub(crate) const IN_FLIGHT_LIMIT: usize = 1 << (COUNT_BITS - 1);

/// A number of records, modulo 2^28.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count(u32);

impl Count {
    pub(crate) fn plus(self, records: u32) -> Self {
        Self(self.0.wrapping_add(records) & COUNT_MASK)
    }

    pub(crate) fn minus(self, records: u32) -> Self {
        Self(self.0.wrapping_sub(records) & COUNT_MASK)
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// How many records lie between an earlier count and this one.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0) & COUNT_MASK
    }
}

/// The word at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View(u64);

impl View {
    fn count(self, shift: u32) -> Count {
        let bits = (self.0 >> shift) & u64::from(COUNT_MASK);
        Count(u32::try_from(bits).expect("28 bits fit 32"))
    }

    pub(crate) fn sent(self) -> Count {
        self.count(SENT_SHIFT)
    }

    pub(crate) fn done(self) -> Count {
        self.count(DONE_SHIFT)
    }

    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// The record number `done` is running.
    pub(crate) fn has_begun(self) -> bool {
        self.has(BEGUN)
    }

    /// The parent keeps the worker from beginning anything.
    pub(crate) fn is_held(self) -> bool {
        self.has(HOLD)
    }

    fn may_begin(self) -> bool {
        !self.has(HOLD) && self.sent() != self.done()
    }

    fn finished(self) -> Self {
        let done = u64::from(self.done().plus(1).0) << DONE_SHIFT;
        Self(self.0 & !(u64::from(COUNT_MASK) << DONE_SHIFT | BEGUN | PARENT_SLEEPS) | done)
    }
}

/// A word in memory that two processes share. One implementation ships; the models have another.
pub(crate) trait Word {
    fn load(&self) -> u64;
    fn fetch_add(&self, value: u64) -> u64;
    fn fetch_sub(&self, value: u64) -> u64;
    fn fetch_or(&self, value: u64) -> u64;
    fn fetch_and(&self, value: u64) -> u64;
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
}

/// The orderings of every access, the same for the shipping atomic and for the models.
macro_rules! word {
    ($atomic:ty) => {
        impl Word for $atomic {
            fn load(&self) -> u64 {
                self.load(Ordering::Acquire)
            }

            fn fetch_add(&self, value: u64) -> u64 {
                self.fetch_add(value, Ordering::AcqRel)
            }

            fn fetch_sub(&self, value: u64) -> u64 {
                self.fetch_sub(value, Ordering::AcqRel)
            }

            fn fetch_or(&self, value: u64) -> u64 {
                self.fetch_or(value, Ordering::AcqRel)
            }

            fn fetch_and(&self, value: u64) -> u64 {
                self.fetch_and(value, Ordering::AcqRel)
            }

            fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
                self.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
            }
        }
    };
}

word!(AtomicU64);

/// The parent's access to the word. The worker can falsify what the word shows, so callers validate it.
#[derive(Debug)]
pub(crate) struct ParentLedger<'a, W>(pub(crate) &'a W);

/// Whether the other side sleeps and the caller, and no other thread, must wake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a side that is not woken sleeps for ever"]
pub(crate) enum Wake {
    Needed,
    NotNeeded,
}

impl<W: Word> ParentLedger<'_, W> {
    pub(crate) fn load(&self) -> View {
        View(self.0.load())
    }

    /// Shows `records` more to the worker. The view is of the word before the change.
    pub(crate) fn send(&self, records: u32) -> (View, Wake) {
        let before = View(self.0.fetch_add(u64::from(records) << SENT_SHIFT));
        (before, self.wake_if(before, WORKER_SLEEPS))
    }

    /// Keeps the worker from beginning anything. What the view shows stays true until [`release`](Self::release), except that
    /// the worker may finish what it has begun.
    pub(crate) fn hold(&self) -> View {
        View(self.0.fetch_or(HOLD))
    }

    /// Takes back the last `records`, which the worker has not begun and under [`hold`](Self::hold) cannot begin.
    pub(crate) fn release(&self, records: u32) -> Wake {
        self.0.fetch_sub(u64::from(records) << SENT_SHIFT);
        let before = View(self.0.fetch_and(!HOLD));
        // It may have fallen asleep because of the hold, with records left.
        match before.sent() == before.done() {
            true => Wake::NotNeeded,
            false => self.wake_if(before, WORKER_SLEEPS),
        }
    }

    /// Asks the worker to ring after the next record that it finishes. The view is of the word before the change: if it shows
    /// something that the caller has not seen, the worker may never ring for that.
    pub(crate) fn sleep(&self) -> View {
        View(self.0.fetch_or(PARENT_SLEEPS))
    }

    /// Wakes the worker if it waits for room in the up ring. After the room was made.
    pub(crate) fn made_room(&self) -> Wake {
        // An operation that changes nothing, but takes its place in the order of the changes: either the worker's flag
        // comes before it, and is seen here, or the worker's flag comes after it, and then the worker sees the room.
        let before = View(self.0.fetch_or(0));
        self.wake_if(before, WAITS_FOR_ROOM)
    }

    fn wake_if(&self, before: View, flag: u64) -> Wake {
        // The side that clears the flag rings. It may be clear already: the worker has checked again by itself.
        match before.has(flag) && View(self.0.fetch_and(!flag)).has(flag) {
            true => Wake::Needed,
            false => Wake::NotNeeded,
        }
    }
}

/// The worker's access to the word.
#[derive(Debug)]
pub(crate) struct WorkerLedger<'a, W>(pub(crate) &'a W);

/// What a worker does once the running record is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterRecord {
    BeginNext,
    Leave,
}

/// What comes after a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// The next record has begun.
    pub(crate) next_has_begun: bool,
    /// The parent sleeps and has asked to be woken.
    pub(crate) wake: Wake,
}

impl<W: Word> WorkerLedger<'_, W> {
    /// Whether there is something to begin, or there may be.
    pub(crate) fn has_work(&self) -> bool {
        View(self.0.load()).may_begin()
    }

    /// Begins the next record, if there is one.
    pub(crate) fn begin(&self) -> bool {
        let mut seen = self.0.load();
        while View(seen).may_begin() {
            match self.0.compare_exchange(seen, seen | BEGUN) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Shows that the running record is done, and begins the next if there is one and the worker does not leave.
    pub(crate) fn finish(&self, after_record: AfterRecord) -> Finished {
        let mut seen = self.0.load();
        loop {
            let after = View(seen).finished();
            let next_has_begun = after_record == AfterRecord::BeginNext && after.may_begin();
            let new = if next_has_begun { after.0 | BEGUN } else { after.0 };
            match self.0.compare_exchange(seen, new) {
                Ok(_) => {
                    let wake = if View(seen).has(PARENT_SLEEPS) { Wake::Needed } else { Wake::NotNeeded };
                    return Finished { next_has_begun, wake };
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Shows that this worker sleeps, unless there is something to begin. Returns whether it does; then the parent will ring
    /// once.
    pub(crate) fn sleep(&self) -> bool {
        let mut seen = self.0.load();
        while !View(seen).may_begin() {
            match self.0.compare_exchange(seen, seen | WORKER_SLEEPS) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Shows that this worker waits for room. It must check for room again before it sleeps.
    pub(crate) fn wait_for_room(&self) {
        self.0.fetch_or(WAITS_FOR_ROOM);
    }

    /// There is room after all. Returns whether the parent has not seen the flag; if it has, it will ring once.
    pub(crate) fn room_found(&self) -> bool {
        View(self.0.fetch_and(!WAITS_FOR_ROOM)).has(WAITS_FOR_ROOM)
    }
}

#[cfg(all(test, loom))]
mod model;
