//! The worker's end of the rings.
//!
//! ```text
//!   begin ──▶ read ──▶ (run) ──▶ answer ──▶ finish ──▶ the next has begun ──▶ read …
//!     ▲                                          │
//!     └── spins for a while, then sleeps ◀────────┘ there is no next
//! ```

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::time::Duration;
use std::time::Instant;

use nix::sys::stat::fstat;
use nix::unistd::write;
use start_methods::PrivateFd;

use super::ledger::AfterRecord;
use super::ledger::Count;
use super::ledger::Wake;
use super::ledger::WorkerLedger;
use super::memory::Cell;
use super::memory::Memory;
use super::memory::RING_LEN;
use super::memory::Ring;
use super::record;
use super::record::DownHead;
use super::record::UpHead;
use crate::sys::clock;
use crate::sys::failpoint::failpoint;
use crate::sys::processor::Cpu;
use crate::sys::spin;
use crate::sys::spin::AdaptiveSpin;
use crate::transport::frame::AnswerKind;
use crate::transport::record::Idle;
use crate::transport::record::Next;
use crate::transport::record::NextNumber;
use crate::transport::record::Record;
use crate::transport::record::broken;
use crate::values::number::LEN_MAX;
use crate::values::number::NumberBytes;

/// How much is copied out of the down ring at once, unless a record is longer.
const READ_AHEAD: usize = 4096;
/// At most this many items lie between two readings of the clock, and about this much time.
const CHECKPOINT_ITEMS: u32 = 64;
const CHECKPOINT_NS: u64 = 20_000;
/// This many sleeps in a row, each no longer than `SHORT_SLEEP`, are taken as calls that follow each other closely.
const SHORT_SLEEPS: u32 = 3;
/// A worker that has migrated within this time waits longer before it migrates again.
const RECENTLY: Duration = Duration::from_millis(20);
const SHORT_SLEEP: Duration = Duration::from_micros(200);

/// The worker's state of its rings.
#[derive(Debug)]
pub(crate) struct WorkerEnd {
    memory: Memory,
    /// Wakes the parent.
    bell: PrivateFd,
    /// The position of the next record, and a private copy of the ring that starts at `copied_from`.
    position: u64,
    copied_from: u64,
    copied: Vec<u8>,
    current: Record,
    /// How many records are done.
    done: Count,
    recalls: u64,
    /// Where the next answer goes, and up to where the parent has taken answers.
    write: u64,
    taken: u64,
    clock: ServiceClock,
    /// How many stamps were written.
    stamps: u64,
    spin: AdaptiveSpin,
    /// The processor of this worker, as the parent was shown, and how many short sleeps it has had in a row.
    place: Cpu,
    short_sleeps: u32,
    /// Whether it may migrate to another processor, after how many short sleeps, and when it did last.
    may_migrate: bool,
    short_sleeps_max: u32,
    migrated_at: Option<Instant>,
    /// The identity of the bell's file, and whether a task has closed or replaced it.
    bell_id: Option<(u64, u64, u32)>,
    bell_lost: bool,
}

/// Measures how long items take. Orders are left out: they take microseconds, and an item may take minutes.
#[derive(Clone, Copy, Debug)]
struct ServiceClock {
    /// The last reading of the clock, and the items since then.
    since_ns: u64,
    items: u32,
    /// How many items lie between two readings.
    every: u32,
    /// How many records were done then, orders included.
    records: u64,
    /// What the parent has been shown.
    busy_ns: u64,
    busy_items: u64,
}

impl WorkerEnd {
    /// The worker's end, from the descriptors that it was given.
    ///
    /// # Errors
    ///
    /// The memory cannot be mapped here.
    pub(crate) fn new(memory: PrivateFd, bell: PrivateFd) -> io::Result<Self> {
        Ok(Self {
            memory: Memory::map(&memory)?,
            bell_id: bell_id(&bell),
            bell_lost: false,
            bell,
            position: 0,
            copied_from: 0,
            copied: Vec::new(),
            current: Record::default(),
            done: Count::default(),
            recalls: 0,
            write: 0,
            taken: 0,
            clock: ServiceClock {
                since_ns: clock::monotonic_ns(),
                items: 0,
                every: 1,
                records: 0,
                busy_ns: 0,
                busy_items: 0,
            },
            stamps: 0,
            spin: AdaptiveSpin::short(),
            place: Cpu::default(),
            short_sleeps: 0,
            may_migrate: true,
            short_sleeps_max: SHORT_SLEEPS,
            migrated_at: None,
        })
    }

    /// Never migrates to another processor from now on: the user's code may forbid the system calls for it.
    pub(crate) fn forbid_migration(&mut self) {
        self.may_migrate = false;
    }

    fn ledger(&self) -> WorkerLedger<'_, AtomicU64> {
        WorkerLedger(self.memory.cell(Cell::Ledger))
    }

    /// Begins the next record; waits until there is one. `idle` says what to do when none has come for a while, if there is
    /// something to do.
    pub(crate) fn begin(&mut self, mut idle: Option<Idle<'_>>) {
        while !self.begin_if_sent() {
            if self.may_spin() && self.spin_for_work() {
                continue;
            }
            let rings = self.memory.rings();
            if self.ledger().sleep() {
                let asleep = Instant::now();
                match &idle {
                    // Woken, perhaps for work that was taken back meanwhile: the next sleep must have its limit too.
                    Some(Idle { after, .. }) if self.memory.doze(rings, *after) => {}
                    Some(Idle { act, .. }) => {
                        act();
                        idle = None;
                        self.memory.sleep(rings);
                    }
                    None => self.memory.sleep(rings),
                }
                self.on_wake(asleep.elapsed());
            }
        }
    }

    /// Begins the next record, if there is one. When it begins is shown before it begins: the parent must never take it for
    /// older than it is.
    fn begin_if_sent(&mut self) -> bool {
        if !self.ledger().has_work() {
            return false;
        }
        self.clock.since_ns = clock::monotonic_ns();
        self.show_began();
        self.stamp();
        self.ledger().begin()
    }

    /// Shows when the next record began, or begins.
    fn show_began(&self) {
        self.memory.cell(Cell::BeganNs).store(self.clock.since_ns, Ordering::Relaxed);
        // Release: pairs with the Acquire in the parent's `began`. A parent that sees the number sees the time.
        self.memory.cell(Cell::BeganRecord).store(u64::from(self.done.number()), Ordering::Release);
    }

    fn on_wake(&mut self, time: Duration) {
        self.spin.found_after_sleep(time);
        self.short_sleeps = if time < SHORT_SLEEP { self.short_sleeps.saturating_add(1) } else { 0 };
        self.show_place();
    }

    fn show_place(&mut self) {
        self.show(Cpu::current());
    }

    fn show(&mut self, place: Cpu) {
        if std::mem::replace(&mut self.place, place) != place {
            self.memory.cell(Cell::WorkerOn).store(place.to_word(), Ordering::Relaxed);
        }
    }

    /// Whether spinning for work can succeed: not on the processor of the parent, which cannot send meanwhile. If calls
    /// follow each other closely there, this worker migrates, so that both sides can spin. For calls that are far apart the
    /// parent's processor is the best place, because a wake-up there is cheap.
    fn may_spin(&mut self) -> bool {
        self.show_place();
        let parent = Cpu::from_word(self.memory.cell(Cell::ParentOn).load(Ordering::Relaxed));
        if !self.place.is(parent) {
            return true;
        }
        let has_room = self.memory.cell(Cell::SpinNs).load(Ordering::Relaxed) > 0;
        if !has_room || !self.may_migrate || self.short_sleeps < self.short_sleeps_max {
            return false;
        }
        self.short_sleeps = 0;
        // If the kernel brings it back, or no other processor is suitable, the next attempt waits longer.
        let recently =
            self.migrated_at.replace(Instant::now()).is_some_and(|migrated_at| migrated_at.elapsed() < RECENTLY);
        self.short_sleeps_max = if recently { self.short_sleeps_max.saturating_mul(2) } else { SHORT_SLEEPS };
        let here = self.place;
        // Before the migration: the parent may spin for this worker from now on.
        self.show(Cpu::default());
        let has_migrated = here.migrate_away();
        self.show_place();
        has_migrated
    }

    /// Spins for work for a while, and longer the next time if work came.
    fn spin_for_work(&mut self) -> bool {
        let allowed = Duration::from_nanos(self.memory.cell(Cell::SpinNs).load(Ordering::Relaxed));
        let found = spin::spin_until(self.spin.duration().min(allowed), || self.ledger().has_work());
        if found {
            self.spin.found_while_spinning();
        }
        found
    }

    /// Reads the record that has begun, which is then the [current](Self::current) one.
    ///
    /// # Errors
    ///
    /// It is not one: a bug in the parent.
    #[inline]
    pub(crate) fn read(&mut self) -> io::Result<()> {
        let recalls = self.memory.cell(Cell::Recalls).load(Ordering::Acquire);
        if recalls != self.recalls {
            // What was copied ahead may have been taken back and overwritten by other records.
            self.recalls = recalls;
            self.copied.clear();
        }
        self.copy(record::HEAD)?;
        let place = self.place();
        let head = self.copied[place..].first_chunk().copied().expect("a head was copied");
        let head = DownHead::from_bytes(head);
        self.copy(record::HEAD + head.len)?;
        let mut start = self.place() + record::HEAD;
        let end = start + head.len;
        let attachment = match head.is_attached {
            true => {
                let number = self.copied[start..end].first_chunk().ok_or_else(|| broken("no attachment's number"))?;
                start += record::NUMBER;
                Some(u32::from_le_bytes(*number))
            }
            false => None,
        };
        self.position += (record::HEAD + head.len) as u64;
        if head.is_order && self.clock.items > 0 {
            // The order's time is not theirs.
            self.checkpoint();
        }
        // Field by field: a record that is put together elsewhere would be copied in wider pieces than it was written,
        // which stalls the processor.
        self.current.is_order = head.is_order;
        self.current.attachment = attachment;
        self.current.range.start = start;
        self.current.range.end = end;
        Ok(())
    }

    /// The record that was read last.
    #[inline]
    pub(crate) fn current(&self) -> &Record {
        &self.current
    }

    /// The bytes of the current record.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.copied[self.current.range.clone()]
    }

    /// Where the next record begins in the copy.
    fn place(&self) -> usize {
        usize::try_from(self.position - self.copied_from).expect("a copy is no longer than a ring")
    }

    /// Ensures that `len` bytes of the record are in the copy.
    #[inline]
    fn copy(&mut self, len: usize) -> io::Result<()> {
        if !self.copied.is_empty() && self.place() + len <= self.copied.len() {
            return Ok(());
        }
        let sent = self.memory.cell(Cell::Sent).load(Ordering::Acquire);
        let there = usize::try_from(sent.wrapping_sub(self.position)).unwrap_or(usize::MAX);
        if there > RING_LEN || there < len {
            return Err(broken("a record is longer than what was sent"));
        }
        self.copied.clear();
        self.copied_from = self.position;
        self.memory.copy_out(Ring::Down, self.position, there.min(len.max(READ_AHEAD)), &mut self.copied);
        Ok(())
    }

    /// Writes the answer to the item that has begun; waits while the ring is full.
    ///
    /// # Errors
    ///
    /// It is longer than any answer may be.
    #[inline]
    pub(crate) fn answer(&mut self, kind: AnswerKind, bytes: &[u8]) -> io::Result<()> {
        self.write_answer(UpHead { kind, is_attached: false, len: bytes.len() }, bytes)
    }

    /// As [`answer`](Self::answer), with descriptors that travel as the attachment with this number. The bytes are none if
    /// they are in a file.
    pub(crate) fn answer_attached(&mut self, kind: AnswerKind, number: u32, bytes: &[u8]) -> io::Result<()> {
        let head = UpHead { kind, is_attached: true, len: record::NUMBER + bytes.len() };
        self.write_answer(head, &[&number.to_le_bytes(), bytes].concat())
    }

    #[inline]
    fn write_answer(&mut self, head: UpHead, bytes: &[u8]) -> io::Result<()> {
        let needed = record::HEAD + bytes.len();
        if needed > RING_LEN {
            return Err(broken("an answer is longer than the ring"));
        }
        while !self.has_room(needed) {
            self.wait_for_room(needed);
        }
        self.memory.put_head(Ring::Up, self.write, head.to_bytes());
        failpoint!("mid_answer");
        self.memory.put(Ring::Up, self.write + record::HEAD as u64, bytes);
        self.write += needed as u64;
        // Relaxed: ordered by the AcqRel change of the ledger in `finish`. A parent that has seen that change sees this.
        self.memory.cell(Cell::Answered).store(self.write, Ordering::Relaxed);
        Ok(())
    }

    /// [Answers](Self::answer) the item with a number and [finishes](Self::finish) it, and reads the next one if that is a
    /// number of `wanted` bytes and its copy is here.
    #[inline]
    pub(crate) fn exchange_number(&mut self, answer: NumberBytes, wanted: usize) -> NextNumber {
        // The padding is written as well: there must be room for it.
        if !self.has_room(record::HEAD + LEN_MAX) {
            return NextNumber::Declined;
        }
        let head = UpHead { kind: record::VALUE, is_attached: false, len: answer.len() };
        if !self.memory.put_number(Ring::Up, self.write, head.to_bytes(), answer.padded()) {
            return NextNumber::Declined;
        }
        failpoint!("mid_answer");
        self.write += (record::HEAD + answer.len()) as u64;
        // Relaxed: as in `write_answer`.
        self.memory.cell(Cell::Answered).store(self.write, Ordering::Relaxed);
        failpoint!("after_answer");
        let next = self.finish();
        failpoint!("after_write");
        match next {
            Next::HasBegun => self.read_number(wanted).map_or(NextNumber::Unread, NextNumber::HasBegun),
            next => NextNumber::None(next),
        }
    }

    /// As [`read`](Self::read), for a number of `wanted` bytes that is in the copy; `None` for anything else.
    #[inline]
    fn read_number(&mut self, wanted: usize) -> Option<[u8; LEN_MAX]> {
        if self.memory.cell(Cell::Recalls).load(Ordering::Acquire) != self.recalls {
            return None;
        }
        let place = self.place();
        let (head, number) = self.copied.get(place..)?.split_first_chunk()?;
        let number = *number.first_chunk()?;
        let head = DownHead::from_bytes(*head);
        if head != (DownHead { is_order: false, is_attached: false, len: wanted }) {
            return None;
        }
        let start = place + record::HEAD;
        self.position += (record::HEAD + wanted) as u64;
        self.current.range = start..start + wanted;
        Some(number)
    }

    #[inline]
    fn has_room(&mut self, needed: usize) -> bool {
        let fits = |taken: u64| self.write - taken + needed as u64 <= RING_LEN as u64;
        if fits(self.taken) {
            return true;
        }
        let taken = self.memory.cell(Cell::Taken).load(Ordering::Acquire);
        let fits = fits(taken);
        self.taken = taken;
        fits
    }

    fn wait_for_room(&mut self, needed: usize) {
        let rings = self.memory.rings();
        self.ledger().wait_for_room();
        // If the parent took something before the flag was set, it may not have seen the flag, but then this check sees the
        // room: no wake-up is lost.
        let parent_will_ring = match self.has_room(needed) {
            true => !self.ledger().room_found(),
            false => true,
        };
        if parent_will_ring {
            self.memory.sleep(rings);
        }
    }

    /// When the current record began, or a little earlier: at the last checkpoint.
    #[inline]
    pub(crate) fn began_ns(&self) -> u64 {
        self.clock.since_ns
    }

    /// The time of the current record begins, or begins anew. No stamp: between two stamps with the same number of
    /// records the worker was idle.
    pub(crate) fn show_start(&mut self) {
        self.measure();
    }

    /// Shows that the record is done. Returns what follows.
    #[inline]
    pub(crate) fn finish(&mut self) -> Next {
        let after_record = if self.bell_lost { AfterRecord::Leave } else { AfterRecord::BeginNext };
        let finished = self.ledger().finish(after_record);
        if finished.wake == Wake::Needed {
            self.bell_lost |= !self.ring_the_parent();
        }
        // After the answer is shown, since a thread may be waiting for it.
        self.done = self.done.plus(1);
        if self.current.is_order {
            self.clock.since_ns = clock::monotonic_ns();
            self.clock.records += 1;
            self.show_began();
            self.stamp();
        } else {
            self.clock.items += 1;
            if self.clock.items >= self.clock.every || !finished.next_has_begun {
                self.checkpoint();
            }
        }
        match (finished.next_has_begun, self.bell_lost) {
            (true, _) => Next::HasBegun,
            (false, false) => Next::Wait,
            (false, true) => Next::Leave,
        }
    }

    /// Wakes the parent. False if a task has closed the bell: a file that has its number now belongs to the task, and is not
    /// written to.
    fn ring_the_parent(&self) -> bool {
        bell_id(&self.bell) == self.bell_id && write(&self.bell, &1u64.to_ne_bytes()).is_ok()
    }

    /// Shows the parent how long the last items took, and when they were done.
    fn checkpoint(&mut self) {
        self.measure();
        self.stamp();
    }

    /// Writes a stamp for the last reading of the clock.
    fn stamp(&mut self) {
        // Release: pairs with the Acquire fence in the parent's `take_stamps`. A parent that sees anything of this stamp sees
        // the count of those before it.
        fence(Ordering::Release);
        let [done, ns] = self.memory.stamp(self.stamps);
        done.store(self.clock.records, Ordering::Relaxed);
        ns.store(self.clock.since_ns, Ordering::Relaxed);
        self.stamps += 1;
        // Release: pairs with the Acquire in `take_stamps`. A parent that counts this stamp sees it.
        self.memory.cell(Cell::Stamps).store(self.stamps, Ordering::Release);
    }

    fn measure(&mut self) {
        self.show_place();
        let now = clock::monotonic_ns();
        let ns = now.saturating_sub(self.clock.since_ns);
        self.clock.busy_ns = self.clock.busy_ns.wrapping_add(ns);
        self.clock.busy_items = self.clock.busy_items.wrapping_add(u64::from(self.clock.items));
        self.memory.cell(Cell::BusyNs).store(self.clock.busy_ns, Ordering::Relaxed);
        // Release: pairs with the Acquire in the parent's `busy`. A parent that sees these items sees their time.
        self.memory.cell(Cell::BusyItems).store(self.clock.busy_items, Ordering::Release);
        let each = ns / u64::from(self.clock.items.max(1));
        let every = u32::try_from(CHECKPOINT_NS / each.max(1)).unwrap_or(u32::MAX);
        let records = self.clock.records + u64::from(self.clock.items);
        let every = every.clamp(1, CHECKPOINT_ITEMS);
        self.clock = ServiceClock { since_ns: now, items: 0, every, records, ..self.clock };
        self.show_began();
    }
}

/// Identifies the bell, to tell it from a file that a task has opened under its number.
fn bell_id(bell: &PrivateFd) -> Option<(u64, u64, u32)> {
    fstat(bell).ok().map(|status| (status.st_dev, status.st_ino, status.st_mode))
}
