//! The parent's end of the rings.
//!
//! The parent keeps everything that it must know in private memory: how far it has written and read, what it has sent, how
//! long each record is. What the worker writes is read once, into a private copy, and compared with that. An impossible value is
//! [`Broken`], and ends the worker.

mod hints;
mod progress;
mod recall;
mod stamps;

use std::cell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use start_methods::PrivateFd;

use super::arrivals::Arrivals;
use super::ledger::Count;
use super::ledger::IN_FLIGHT_LIMIT;
use super::ledger::ParentLedger;
use super::ledger::View;
use super::ledger::Wake;
use super::memory::Cell;
use super::memory::Memory;
use super::memory::RING_LEN;
use super::memory::Ring;
use super::record;
use super::record::Broken;
use super::record::DownHead;
use crate::sys::processor::Cpu;
use crate::transport::arrival::Arrival;
use crate::transport::frame::Head;
use crate::transport::note::Note;
use crate::values::parcel::Parcel;
use crate::work::batch::Span;
use crate::work::batch::Target;

/// A worker rings at most once per finished record. This many rings more are tolerated.
const RINGS_MORE_MAX: u64 = 16;

const _: () = assert!(RING_LEN / record::HEAD < IN_FLIGHT_LIMIT, "what fits a ring can be counted");

/// What was sent and is not known to be done.
#[derive(Debug)]
enum Contents {
    /// Items, one record each.
    Items(Span),
    /// One item of this context whose bytes are attached.
    AttachedItem {
        context: u64,
    },
    /// The order that chooses the function of the following items.
    Select,
    Note(Note),
}

impl Contents {
    fn records(&self) -> u32 {
        match self {
            Contents::Items(span) => span.len(),
            Contents::AttachedItem { .. } | Contents::Select | Contents::Note(_) => 1,
        }
    }

    /// The context of an item.
    fn context(&self) -> Option<u64> {
        match self {
            Contents::Items(span) => Some(span.batch.target.context),
            Contents::AttachedItem { context } => Some(*context),
            Contents::Select | Contents::Note(_) => None,
        }
    }

    fn is_work(&self) -> bool {
        matches!(self, Contents::Items(_) | Contents::AttachedItem { .. })
    }
}

#[derive(Debug)]
struct Entry {
    contents: Contents,
    /// Where its last record ends in the down ring.
    end: u64,
}

/// The parent's state of one pair of rings.
#[derive(Debug)]
pub(crate) struct ParentEnd {
    memory: Arc<Memory>,
    /// How many records were sent, by the parent's own count.
    sent: Count,
    /// How many are known to be done.
    seen: Count,
    /// How many the worker showed as done at the last read: `seen`, and what was received beyond that.
    shown: Count,
    /// Where the next record goes, and where the first that is not done begins.
    down_write: u64,
    down_read: u64,
    up_read: u64,
    in_flight: VecDeque<Entry>,
    /// The function of the last items that were sent.
    selected: Option<Target>,
    /// Totals: records done, how many of them were orders, and rings received.
    records: u64,
    executed: u64,
    rings: u64,
    /// The worker's own measurement when it was last taken.
    busy_ns: u64,
    busy_items: u64,
    /// How many of the worker's stamps were taken.
    stamps: u64,
    spin_ns: u64,
    /// The processor of this side, as the worker was shown.
    place: Cpu,
    /// The error that was found while something was sent.
    broken: Option<Broken>,
    /// The error has been reported.
    is_given_up: bool,
    /// How many records were done when the worker was last asked to ring and had not begun the next one.
    waited_for: cell::Cell<Option<Count>>,
}

/// Checks without a lock whether a worker has answered.
#[derive(Debug)]
pub(crate) struct AnswerProbe {
    memory: Arc<Memory>,
    seen: Count,
}

impl AnswerProbe {
    pub(crate) fn has_news(&self) -> bool {
        ParentLedger(self.memory.cell(Cell::Ledger)).load().done() != self.seen
    }
}

impl ParentEnd {
    /// New rings, with the descriptor for the worker.
    ///
    /// # Errors
    ///
    /// The kernel refuses memfds, seals, or the memory.
    pub(crate) fn new() -> io::Result<(Self, PrivateFd)> {
        let (memory, fd) = Memory::new()?;
        let end = Self {
            memory: Arc::new(memory),
            sent: Count::default(),
            seen: Count::default(),
            shown: Count::default(),
            down_write: 0,
            down_read: 0,
            up_read: 0,
            in_flight: VecDeque::new(),
            selected: None,
            records: 0,
            executed: 0,
            rings: 0,
            busy_ns: 0,
            busy_items: 0,
            stamps: 0,
            spin_ns: 0,
            place: Cpu::default(),
            broken: None,
            is_given_up: false,
            waited_for: cell::Cell::new(None),
        };
        Ok((end, fd))
    }

    fn ledger(&self) -> ParentLedger<'_, AtomicU64> {
        ParentLedger(self.memory.cell(Cell::Ledger))
    }

    /// Whether everything that was sent is known to be done, and the ledger agrees.
    pub(crate) fn is_idle(&self) -> bool {
        !self.owes_answers() && self.is_consistent()
    }

    /// Whether something that was sent is not known to be done.
    pub(crate) fn owes_answers(&self) -> bool {
        self.sent != self.seen
    }

    /// Whether a worker of this build can have left the ledger like this. If not, nothing more is sent, and
    /// [`has_news`](Self::has_news) reports it.
    fn is_consistent(&self) -> bool {
        self.check(self.ledger().load()).is_ok()
    }

    fn room(&self) -> usize {
        let used = usize::try_from(self.down_write - self.down_read).expect("what is in a ring fits a ring");
        if self.is_consistent() { RING_LEN - used } else { 0 }
    }

    fn show(&mut self, records: u32) {
        // Release: pairs with the Acquire of `Sent` in the worker's `copy`. A worker that copies ahead may see this before it
        // sees the ledger, and then it must see the bytes.
        self.memory.cell(Cell::Sent).store(self.down_write, Ordering::Release);
        let (before, wake) = self.ledger().send(records);
        if wake == Wake::Needed {
            self.memory.ring();
        }
        // Before `sent` grows: with more in flight, more values would pass as valid.
        self.broken = self.check(before).err();
        self.sent = self.sent.plus(records);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.memory.put(Ring::Down, self.down_write, bytes);
        self.down_write += bytes.len() as u64;
    }

    fn push(&mut self, contents: Contents) {
        self.in_flight.push_back(Entry { contents, end: self.down_write });
    }

    /// Puts as many of the items into the ring as there is room for; returns how many.
    pub(crate) fn send_items(&mut self, span: &Span) -> u32 {
        let target = self.target(span);
        let room = self.room().saturating_sub(target.as_ref().map_or(0, |frame| record::HEAD + frame.len()));
        let taken = span.fitting(room);
        if taken.is_empty() {
            return 0;
        }
        let takes_turns = self.in_flight.is_empty() && taken.len() == 1;
        let records = self.select(span, target);
        self.put(taken.bytes().expect("items that fit have bytes"));
        let items = taken.len();
        self.show_place(takes_turns);
        self.push(Contents::Items(taken));
        self.show(records + items);
        items
    }

    /// Whether there is room for an item that is attached.
    pub(crate) fn has_room_beside(&self, span: &Span) -> bool {
        let target = self.target(span).map_or(0, |frame| record::HEAD + frame.len());
        self.room() >= target + record::HEAD + record::NUMBER + frame_bytes(span).len()
    }

    /// Puts one item into the ring that travels as this attachment, with its bytes if they are not in a file. The caller
    /// has checked for room.
    pub(crate) fn send_attached_item(&mut self, span: &Span, number: u32) {
        self.show_place(self.in_flight.is_empty());
        let target = self.target(span);
        let records = self.select(span, target);
        let bytes = frame_bytes(span);
        let head = DownHead { is_order: false, is_attached: true, len: record::NUMBER + bytes.len() };
        self.put(&head.to_bytes());
        self.put(&number.to_le_bytes());
        self.put(bytes);
        self.push(Contents::AttachedItem { context: span.batch.target.context });
        self.show(records + 1);
    }

    /// Whether there is room for an order.
    pub(crate) fn has_room_for(&self, note: &Note) -> bool {
        self.room() >= record::HEAD + record::NUMBER + note.frame.len()
    }

    /// Puts an order into the ring. The caller has checked for room.
    pub(crate) fn send_note(&mut self, note: Note, attachment: Option<u32>) {
        let len = attachment.map_or(0, |_| record::NUMBER) + note.frame.len();
        let head = DownHead { is_order: true, is_attached: attachment.is_some(), len };
        self.put(&head.to_bytes());
        if let Some(number) = attachment {
            self.put(&number.to_le_bytes());
        }
        self.put(&note.frame);
        self.push(Contents::Note(note));
        self.show(1);
    }

    /// The order that must precede these items, if the worker does not expect their function.
    fn target(&self, span: &Span) -> Option<Head> {
        let wanted = span.batch.target;
        (self.selected != Some(wanted)).then(|| Head::select(wanted))
    }

    fn select(&mut self, span: &Span, target: Option<Head>) -> u32 {
        let Some(frame) = target else { return 0 };
        let head = DownHead { is_order: true, is_attached: false, len: frame.len() };
        self.put(&head.to_bytes());
        self.put(frame.as_bytes());
        self.push(Contents::Select);
        self.selected = Some(span.batch.target);
        1
    }

    /// Checks that a worker of this build can have left the ledger like this.
    fn check(&self, view: View) -> Result<(), Broken> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let in_flight = self.sent.since(self.seen);
        let done = view.done().since(self.seen);
        let wrong = if view.sent() != self.sent {
            "its ledger shows other orders than it was sent"
        } else if done > in_flight {
            "its ledger shows more done than it was sent"
        } else if done < self.shown.since(self.seen) {
            "its ledger shows less done than it did before"
        } else if view.has_begun() && done == in_flight {
            "its ledger shows something running, and nothing to run"
        } else if view.is_held() {
            "its ledger lets nothing begin"
        } else {
            return Ok(());
        };
        Err(Broken(wrong))
    }

    /// Whether [`receive`](Self::receive) would find something.
    pub(crate) fn has_news(&self) -> bool {
        !self.is_given_up && !self.is_unchanged(self.ledger().load())
    }

    /// Whether the ledger shows nothing new for the parent.
    fn is_unchanged(&self, view: View) -> bool {
        view.done() == self.seen && self.check(view).is_ok()
    }

    /// Copies what has been answered out of the ring.
    pub(crate) fn receive(&mut self, arrivals: &mut Arrivals) -> Result<(), Broken> {
        let received = self.copy(arrivals);
        self.is_given_up |= received.is_err();
        received
    }

    fn copy(&mut self, arrivals: &mut Arrivals) -> Result<(), Broken> {
        arrivals.bytes.clear();
        arrivals.read = 0;
        arrivals.records = 0;
        let view = self.ledger().load();
        self.check(view)?;
        self.shown = view.done();
        let records = view.done().since(self.seen);
        if records == 0 {
            return Ok(());
        }
        let answered = self.memory.cell(Cell::Answered).load(Ordering::Relaxed);
        let len = usize::try_from(answered.wrapping_sub(self.up_read)).unwrap_or(usize::MAX);
        if len > RING_LEN {
            return Err(Broken("its answers are longer than the ring"));
        }
        self.memory.copy_out(Ring::Up, self.up_read, len, &mut arrivals.bytes);
        arrivals.records = records;
        Ok(())
    }

    /// The next answers of what was received; `None` when there are no more.
    pub(crate) fn next_run<'a>(&mut self, arrivals: &'a mut Arrivals) -> Result<Option<Arrival<'a>>, Broken> {
        let run = self.take_run(arrivals);
        self.is_given_up |= run.is_err();
        run
    }

    fn take_run<'a>(&mut self, arrivals: &'a mut Arrivals) -> Result<Option<Arrival<'a>>, Broken> {
        while arrivals.records > 0 {
            let entry = self.in_flight.front_mut().expect("every record in flight has an entry");
            let end = entry.end;
            match &mut entry.contents {
                Contents::Select | Contents::Note(_) => {
                    self.in_flight.pop_front();
                    self.executed += 1;
                    self.done(arrivals, 1, end);
                }
                Contents::AttachedItem { .. } => {
                    let (run, _) = arrivals.split(1)?;
                    self.in_flight.pop_front();
                    self.done(arrivals, 1, end);
                    return Ok(Some(arrivals.run(run)));
                }
                Contents::Items(span) => {
                    let (run, items) = arrivals.split(span.len())?;
                    let bytes = span.cut_front(items);
                    if span.is_empty() {
                        self.in_flight.pop_front();
                    }
                    let down_read = self.down_read + bytes;
                    self.done(arrivals, items, down_read);
                    return Ok(Some(arrivals.run(run)));
                }
            }
        }
        // Behind the last record that is done there may be bytes of the next one: they are copied again when it is done.
        Ok(None)
    }

    fn done(&mut self, arrivals: &mut Arrivals, records: u32, down_read: u64) {
        arrivals.records -= records;
        self.records += u64::from(records);
        self.seen = self.seen.plus(records);
        self.down_read = down_read;
    }

    /// Everything that was received has been processed: its place in the ring is free.
    pub(crate) fn taken(&mut self, arrivals: &Arrivals) {
        if arrivals.read == 0 {
            return;
        }
        self.up_read += arrivals.read as u64;
        self.memory.cell(Cell::Taken).store(self.up_read, Ordering::Release);
        if self.ledger().made_room() == Wake::Needed {
            self.memory.ring();
        }
    }

    /// Asks the worker to ring when it has finished another record. False if it has finished one already, or its ledger is
    /// invalid.
    pub(crate) fn ask_to_ring(&self) -> bool {
        let view = self.ledger().sleep();
        let is_waited_for = (!view.has_begun() && view.sent() != view.done()).then_some(view.done());
        if is_waited_for.is_some() && self.waited_for.replace(is_waited_for) == is_waited_for {
            // The worker has begun nothing since it was last asked: a task may have cleared the flag that would have
            // woken it.
            self.memory.ring();
        }
        self.is_unchanged(view)
    }

    /// The worker has rung. To be called after its answers were received.
    pub(crate) fn rung(&mut self) -> Result<(), Broken> {
        self.rings += 1;
        match self.rings <= self.records + RINGS_MORE_MAX {
            true => Ok(()),
            false => Err(Broken("it rings for nothing")),
        }
    }

    /// A probe of the rings that needs no lock.
    pub(crate) fn probe(&self) -> AnswerProbe {
        AnswerProbe { memory: Arc::clone(&self.memory), seen: self.seen }
    }
}

/// The bytes of an attached item that are not in its file.
fn frame_bytes(span: &Span) -> &[u8] {
    span.parcel().map_or(&[], Parcel::frame_bytes)
}

#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;
