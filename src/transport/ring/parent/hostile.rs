//! The parent's end of the rings against every worker there can be.
//!
//! Steps are drawn at random: the parent's calls, in any order that the engine could make them in; honest steps of the
//! real [`WorkerEnd`]; and writes that no worker of ours makes, anywhere in the shared memory. With honest steps only,
//! a model knows every answer. With others, the parent must yield well-formed runs or [`Broken`], and never lose count.

#![expect(clippy::unwrap_used, reason = "a trial stops at the first surprise")]

mod steps;
mod worker;

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;
#[cfg(test)]
use proptest::collection::vec;
#[cfg(test)]
use proptest::prelude::*;

use self::steps::CELLS;
pub(crate) use self::steps::Misdeed;
use self::steps::Noise;
pub(crate) use self::steps::Step;
#[cfg(test)]
pub(crate) use self::steps::honest_step;
#[cfg(test)]
pub(crate) use self::steps::misdeed;
use super::super::ledger::WorkerLedger;
use super::*;
use crate::transport::frame::AnswerKind;
use crate::transport::frame::ItemReader;
use crate::transport::frame::close_item;
use crate::transport::ring::worker::WorkerEnd;
use crate::values::attach::Carried;
use crate::work::batch::Batch;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::function::Completion;
use crate::work::function::FunctionId;

/// A record as the test knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Item { function: u32, bytes: Vec<u8> },
    AttachedItem { function: u32, number: u32, bytes: Vec<u8> },
    Note { frame: Vec<u8>, number: Option<u32> },
}

impl Known {
    fn is_item(&self) -> bool {
        !matches!(self, Known::Note { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Here { kind: AnswerKind, bytes: Vec<u8> },
    Attached { kind: AnswerKind, number: u32, bytes: Vec<u8> },
}

/// Both ends, and what is known of them.
struct Trial {
    end: ParentEnd,
    worker: WorkerEnd,
    bell: File,
    arrivals: Arrivals,
    /// A misdeed has written to the memory.
    is_tampered: bool,
    /// Received answers are still to be processed.
    is_receiving: bool,
    serial: u32,
    sent_items: u64,
    received_items: u64,
    unbegun_items: u64,

    // The following fields are kept while no step tampers with the memory.
    waiting: VecDeque<Known>,
    is_begun: bool,
    /// The item that is being run; none if an order is.
    running: Option<Known>,
    selected: Option<u32>,
    replies: VecDeque<Reply>,
    /// How many of the replies were received, and how many records were finished since then.
    received: usize,
    finished: u32,
    /// Bytes in the up ring, as far as they are finished and as far as they are received.
    up: usize,
    up_received: usize,
    /// The parent has asked the worker to ring; the worker has rung, and the parent has not processed it.
    is_asked: bool,
    has_rung: bool,
    /// The worker has set its flag of a sleeper.
    sleeps: bool,
}

impl Trial {
    fn new() -> Self {
        let (end, memory) = ParentEnd::new().unwrap();
        let bell = OwnedFd::from(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap());
        let ours = File::from(bell.try_clone().unwrap());
        let worker = WorkerEnd::new(memory, PrivateFd::adopt(bell).unwrap()).unwrap();
        Self {
            end,
            worker,
            bell: ours,
            arrivals: Arrivals::default(),
            is_tampered: false,
            is_receiving: false,
            serial: 0,
            sent_items: 0,
            received_items: 0,
            unbegun_items: 0,
            waiting: VecDeque::new(),
            is_begun: false,
            running: None,
            selected: None,
            replies: VecDeque::new(),
            received: 0,
            finished: 0,
            up: 0,
            up_received: 0,
            is_asked: false,
            has_rung: false,
            sleeps: false,
        }
    }

    fn serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    fn take(&mut self, step: Step) {
        let rings = self.end.memory.rings();
        let (slept, sent_before) = (self.sleeps, self.end.sent);
        match step {
            Step::SendItems { lens, function } => self.send_items(&lens, function),
            Step::SendAttached { function } => self.send_attached(function),
            Step::SendNote { len, is_attached } => self.send_note(len, is_attached),
            Step::Recall => self.recall(),
            Step::Receive => self.receive(),
            Step::NextRun => drop(self.next_run()),
            Step::ReceiveAll => {
                self.receive();
                while self.next_run() {}
            }
            Step::AskToRing => {
                let is_quiet = self.end.ask_to_ring();
                if !self.is_tampered && !self.is_receiving {
                    assert_eq!(is_quiet, self.finished == 0);
                }
                self.is_asked = true;
            }
            Step::Rung => self.rung(),
            Step::Peek => self.peek(),
            Step::Begin if !self.is_tampered => self.begin(),
            Step::Finish { kind, len } if !self.is_tampered => self.finish(kind, len),
            Step::FallAsleep if !self.is_tampered => {
                let ledger = WorkerLedger(self.end.memory.cell(Cell::Ledger));
                if !self.is_begun && ledger.sleep() {
                    self.sleeps = true;
                }
            }
            Step::Begin | Step::Finish { .. } | Step::FallAsleep => {}
            Step::Misdeed(misdeed) => {
                self.is_tampered = true;
                self.commit(misdeed);
            }
        }
        let has_more = self.end.sent.since(sent_before).wrapping_sub(1) < 1 << 20;
        if !self.is_tampered && slept && has_more {
            assert_ne!(self.end.memory.rings(), rings, "a worker that sleeps is woken for what is sent");
            self.sleeps = false;
        }
        self.check_counts();
    }

    /// What must be true whatever the worker does.
    fn check_counts(&self) {
        let end = &self.end;
        let (mut items, mut records) = (0, 0);
        for entry in &end.in_flight {
            let (more_items, more_records) = match &entry.contents {
                Contents::Items(span) => (span.len(), span.len()),
                Contents::AttachedItem { .. } => (1, 1),
                Contents::Select | Contents::Note(_) => (0, 1),
            };
            items += u64::from(more_items);
            records += more_records;
        }
        assert_eq!(records, end.sent.since(end.seen), "every record in flight has an entry");
        assert_eq!(self.sent_items, items + self.received_items + self.unbegun_items, "every item is somewhere, once");
        assert!(end.down_write - end.down_read <= RING_LEN as u64);
        let ends: Vec<u64> = end.in_flight.iter().map(|entry| entry.end).collect();
        assert!(ends.is_sorted() && ends.last().is_none_or(|&last| last == end.down_write));
    }

    fn span(&mut self, lens: &[usize], function: u32) -> (Span, Vec<Vec<u8>>) {
        let (mut bytes, mut ends, mut items) = (Vec::new(), Vec::new(), Vec::new());
        for &len in lens {
            let serial = self.serial().to_le_bytes();
            let item: Vec<u8> = serial.iter().copied().cycle().take(len).collect();
            let start = bytes.len();
            bytes.extend([0; 4]);
            bytes.extend_from_slice(&item);
            close_item(&mut bytes, start);
            ends.push(u32::try_from(bytes.len()).unwrap());
            items.push(item);
        }
        let items_of_batch = Items::Inline { bytes, ends };
        let target = Target { function: FunctionId(function), context: 0, timeout: None };
        (Span::whole(Batch { job: JobId(1), target, first_index: 0, items: items_of_batch }), items)
    }

    fn send_items(&mut self, lens: &[usize], function: u32) {
        let (span, items) = self.span(lens, function);
        let taken = self.end.send_items(&span);
        self.sent_items += u64::from(taken);
        let sent = items.into_iter().take(taken as usize);
        self.waiting.extend(sent.map(|bytes| Known::Item { function, bytes }));
    }

    fn send_attached(&mut self, function: u32) {
        let bytes = vec![7; self.serial() as usize % 50];
        let items = Items::Parcel(Parcel::inline(&bytes[..], Carried::default()));
        let target = Target { function: FunctionId(function), context: 0, timeout: None };
        let span = Span::whole(Batch { job: JobId(1), target, first_index: 0, items });
        if self.end.has_room_beside(&span) {
            let number = self.serial();
            self.end.send_attached_item(&span, number);
            self.sent_items += 1;
            self.waiting.push_back(Known::AttachedItem { function, number, bytes });
        }
    }

    fn send_note(&mut self, len: usize, is_attached: bool) {
        let serial = u64::from(self.serial()).to_le_bytes();
        // The frame of a definition: any bytes may stand in it.
        let frame: Vec<u8> = [1, 0, 0, 0, 0].into_iter().chain(serial.into_iter().cycle().take(len)).collect();
        let note = Note { frame: frame.clone(), attached: None };
        if self.end.has_room_for(&note) {
            let number = is_attached.then(|| self.serial());
            self.end.send_note(note, number);
            self.waiting.push_back(Known::Note { frame, number });
        }
    }

    fn recall(&mut self) {
        let unbegun = self.end.recall();
        if self.is_tampered {
            self.unbegun_items += unbegun.map_or(0, |unbegun| unbegun.items);
            return;
        }
        let unbegun = unbegun.unwrap();
        self.unbegun_items += unbegun.items;
        let (items, notes): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(Known::is_item);
        assert_eq!(unbegun.items, items.len() as u64);
        let frames: Vec<_> = unbegun.notes.into_iter().map(|note| note.frame).collect();
        let known: Vec<_> = notes
            .into_iter()
            .map(|note| match note {
                Known::Note { frame, .. } => frame,
                _ => unreachable!("items were sorted out"),
            })
            .collect();
        assert_eq!(frames, known);
    }

    fn receive(&mut self) {
        // As the engine does: only when everything received before has been processed.
        while self.is_receiving && self.next_run() {}
        let received = self.end.receive(&mut self.arrivals);
        self.is_receiving = received.is_ok();
        if !self.is_tampered {
            received.unwrap();
            self.received = self.replies.len();
            self.up_received = self.up;
            self.finished = 0;
        }
    }

    /// The next run of what was received; false if there is no more.
    fn next_run(&mut self) -> bool {
        if !self.is_receiving {
            return false;
        }
        let mut arrivals = std::mem::take(&mut self.arrivals);
        let run = self.end.next_run(&mut arrivals);
        let found = match run {
            Ok(Some(run)) => {
                let replies = replies(run);
                self.received_items += replies.len() as u64;
                if !self.is_tampered {
                    assert!(replies.len() <= self.received);
                    self.received -= replies.len();
                    for reply in replies {
                        assert_eq!(self.replies.pop_front(), Some(reply));
                    }
                }
                true
            }
            Ok(None) => {
                self.end.taken(&arrivals);
                self.is_receiving = false;
                if !self.is_tampered {
                    assert_eq!(self.received, 0, "all that was received is processed");
                    self.up -= std::mem::take(&mut self.up_received);
                }
                false
            }
            Err(broken) => {
                assert!(self.is_tampered, "{broken:?}");
                self.is_receiving = false;
                false
            }
        };
        self.arrivals = arrivals;
        found
    }

    fn rung(&mut self) {
        if self.is_tampered {
            drop(self.end.rung());
        } else if std::mem::take(&mut self.has_rung) {
            self.receive();
            while self.next_run() {}
            self.end.rung().unwrap();
        }
    }

    fn peek(&mut self) {
        let (has_news, probe) = (self.end.has_news(), self.end.probe());
        let _time = self.end.take_service_time(self.end.answered());
        let mut stamps = Vec::new();
        self.end.take_stamps(&mut stamps);
        assert!(stamps.len() as u64 <= super::super::memory::STAMPS);
        self.end.allow_spinning(u64::from(self.serial));
        if !self.is_tampered && !self.is_receiving {
            assert_eq!((has_news, probe.has_news()), (self.finished > 0, self.finished > 0));
        }
    }

    fn commit(&mut self, misdeed: Misdeed) {
        let memory = &self.end.memory;
        let store = |cell: Cell, value: u64| memory.cell(cell).store(value, Ordering::Relaxed);
        match misdeed {
            Misdeed::Word(word) => store(Cell::Ledger, word),
            Misdeed::NearlyRight { sent, done, flags } => {
                let moved = |count: Count, by: i32| match by < 0 {
                    true => count.minus(by.unsigned_abs()),
                    false => count.plus(by.unsigned_abs()),
                };
                store(Cell::Ledger, word(moved(self.end.sent, sent), moved(self.end.seen, done), flags));
            }
            Misdeed::Number { cell, value } => store(CELLS[cell % CELLS.len()], value),
            Misdeed::Answered(more) => store(Cell::Answered, self.end.up_read.wrapping_add(more)),
            Misdeed::Bytes { is_up, position, bytes } => {
                memory.put(if is_up { Ring::Up } else { Ring::Down }, position, &bytes);
            }
            Misdeed::Forged { heads, done } => {
                let mut position = self.end.up_read;
                for head in heads {
                    memory.put(Ring::Up, position, &head.to_le_bytes());
                    position += record::HEAD as u64 + u64::from(head & 0x3f);
                }
                store(Cell::Answered, position);
                let done = done.min(self.end.sent.since(self.end.seen));
                store(Cell::Ledger, word(self.end.sent, self.end.seen.plus(done), 0));
            }
            Misdeed::Noise(seed) => {
                let mut noise = Noise(seed | 1);
                for cell in CELLS {
                    store(cell, noise.next());
                }
                let bytes: Vec<u8> = (0..RING_LEN / 8).flat_map(|_| noise.next().to_le_bytes()).collect();
                memory.put(Ring::Up, 0, &bytes);
                memory.put(Ring::Down, 0, &bytes);
            }
            Misdeed::Holes => {
                CELLS.into_iter().for_each(|cell| store(cell, 0));
                memory.put(Ring::Up, 0, &[0; RING_LEN]);
                memory.put(Ring::Down, 0, &[0; RING_LEN]);
            }
        }
    }
}

/// A ledger's word, made by hand.
fn word(sent: Count, done: Count, flags: u8) -> u64 {
    u64::from(sent.since(Count::default())) << 36 | u64::from(done.since(Count::default())) << 8 | u64::from(flags)
}

/// The answers of one run, which must be as many as it says, and take up all of its bytes.
fn replies(run: Arrival<'_>) -> Vec<Reply> {
    match run {
        Arrival::Values { items, bytes } => {
            let kind = AnswerKind::Completion(Completion::Value);
            let values: Vec<_> =
                ItemReader(bytes).map(|value| Reply::Here { kind, bytes: value.unwrap().to_vec() }).collect();
            assert_eq!(values.len(), items as usize);
            assert!(items > 0);
            values
        }
        Arrival::Answer { kind, bytes } => vec![Reply::Here { kind, bytes: bytes.to_vec() }],
        Arrival::Attached { kind, number, bytes } => {
            vec![Reply::Attached { kind, number, bytes: bytes.to_vec() }]
        }
    }
}

/// Splits a private copy of a ring into answers, up to the first that is invalid.
pub(crate) fn split_all(bytes: &[u8], records: u32, items_max: u32) {
    let mut arrivals = Arrivals { bytes: bytes.to_vec(), read: 0, records };
    while arrivals.records > 0 {
        let before = arrivals.read;
        let Ok((run, items)) = arrivals.split(items_max) else { return };
        assert!((1..=items_max.min(arrivals.records)).contains(&items));
        assert!(before + record::HEAD <= arrivals.read && arrivals.read <= bytes.len());
        assert_eq!(replies(arrivals.run(run)).len(), items as usize);
        arrivals.records -= items;
    }
}

/// The bytes of the up ring, once this many records are done.
#[cfg(test)]
pub(crate) fn answers_in(end: &ParentEnd, records: u32) -> Option<Vec<u8>> {
    let view = end.ledger().load();
    let len = usize::try_from(end.memory.cell(Cell::Answered).load(Ordering::Acquire)).unwrap();
    let mut bytes = Vec::new();
    end.memory.copy_out(Ring::Up, 0, len, &mut bytes);
    (view.done().since(Count::default()) == records).then_some(bytes)
}

/// A trial of these steps, and the end of its worker.
pub(crate) fn run(steps: Vec<Step>) {
    let mut trial = Trial::new();
    for step in steps {
        trial.take(step);
    }
    // The end of the worker, as the engine processes it.
    trial.take(Step::ReceiveAll);
    trial.take(Step::Recall);
}

#[cfg(test)]
proptest! {
    #[test]
    fn every_answer_of_an_honest_worker_is_received(steps in vec(honest_step(), 0..150)) {
        run(steps);
    }

    #[test]
    fn no_worker_harms_the_parent(
        steps in vec(prop_oneof![3 => honest_step(), 1 => misdeed().prop_map(Step::Misdeed)], 0..60),
    ) {
        run(steps);
    }
}

#[cfg(test)]
#[test]
fn a_ledger_is_news_if_only_its_rest_is_wrong() {
    for (sent, flags) in [(1, 0), (-1, 0), (0, 1 << 3)] {
        let mut trial = Trial::new();
        trial.send_items(&[1, 2, 3], 1);
        assert!(trial.end.ask_to_ring() && !trial.end.has_news());
        trial.commit(Misdeed::NearlyRight { sent, done: 0, flags });
        assert!(trial.end.has_news() && !trial.end.ask_to_ring());
        trial.end.receive(&mut Arrivals::default()).unwrap_err();
    }
}

#[cfg(test)]
#[test]
fn a_worker_whose_sleep_flag_was_cleared_is_still_woken() {
    let mut trial = Trial::new();
    assert!(WorkerLedger(trial.end.memory.cell(Cell::Ledger)).sleep());
    trial.commit(Misdeed::Word(0));
    trial.send_items(&[1], 1);
    let rings = trial.end.memory.rings();
    assert!(trial.end.ask_to_ring());
    assert_eq!(trial.end.memory.rings(), rings, "it was sent its work a moment ago");
    assert!(trial.end.ask_to_ring());
    assert_ne!(trial.end.memory.rings(), rings);
}
