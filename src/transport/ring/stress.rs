//! Both ends at work at the same time, each with its own mapping: every record arrives once, in order and undamaged, and
//! neither side oversleeps, however often records are taken back.
//!
//! `PROCPOOL_STRESS_RECORDS` says how many records, if a million is not enough.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::thread;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;
use start_methods::PrivateFd;

use super::arrivals::Arrivals;
use super::parent::ParentEnd;
use crate::transport::arrival::Arrival;
use crate::transport::frame::AnswerKind;
use crate::transport::frame::Head;
use crate::transport::frame::ItemReader;
use crate::transport::frame::Order;
use crate::transport::frame::close_item;
use crate::transport::frame::parse_order;
use crate::transport::note::Note;
use crate::transport::record::Next;
use crate::transport::ring::worker::WorkerEnd;
use crate::work::batch::Batch;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::batch::Target;
use crate::work::function::Completion;
use crate::work::function::FunctionId;

const RECORDS: u64 = 1_000_000;
/// A side that sleeps longer has missed a ring.
const WAIT_MAX_MS: u16 = 30_000;
const VALUE: AnswerKind = AnswerKind::Completion(Completion::Value);

/// Bytes that are computed from the number of their record; of different lengths, most of them short.
fn put_record(number: u64, salt: u64, bytes: &mut Vec<u8>) {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt;
    bytes.extend_from_slice(&number.to_le_bytes());
    let words = if number % 1000 == 0 { 500 } else { state >> 61 };
    for _ in 0..words {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
}

fn number_of(record: &[u8], salt: u64) -> u64 {
    let number = u64::from_le_bytes(*record.first_chunk().unwrap());
    let mut whole = Vec::new();
    put_record(number, salt, &mut whole);
    assert_eq!(record, whole, "record {number} is damaged");
    number
}

const DOWN: u64 = 0;
const UP: u64 = 1 << 40;

/// Runs records, which must come in order, until it is told to stop. Returns how many there were.
fn work(mut rings: WorkerEnd) -> u64 {
    let (mut expected, mut out) = (0, Vec::new());
    loop {
        rings.begin(None);
        loop {
            rings.read().unwrap();
            let bytes = rings.bytes();
            let mut stop = false;
            match rings.current().is_order {
                true => stop = parse_order(bytes) == Ok(Order::Stop),
                false => {
                    assert_eq!(number_of(bytes, DOWN), expected, "each record is run once, in order");
                    out.clear();
                    put_record(expected, UP, &mut out);
                    let kind = if expected % 100 == 3 { AnswerKind::Panicked } else { VALUE };
                    rings.answer(kind, &out).unwrap();
                    expected += 1;
                }
            }
            match rings.finish() {
                _ if stop => return expected,
                Next::HasBegun => {}
                Next::Wait => break,
                Next::Leave => unreachable!("the bell is open"),
            }
        }
    }
}

fn span(numbers: std::ops::Range<u64>) -> Span {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for number in numbers.clone() {
        let start = bytes.len();
        bytes.extend([0; 4]);
        put_record(number, DOWN, &mut bytes);
        close_item(&mut bytes, start);
        ends.push(u32::try_from(bytes.len()).unwrap());
    }
    // Another function now and then, so that a `Select` order is sent.
    let function = FunctionId(u32::try_from(numbers.start >> 12 & 1).unwrap());
    let target = Target { function, context: 0, timeout: None };
    let items = Items::Inline { bytes, ends };
    Span::whole(Batch { job: JobId(1), target, first_index: 0, items })
}

struct Parent {
    end: ParentEnd,
    bell: File,
    arrivals: Arrivals,
    /// Sent and not taken back; and answered.
    sent: u64,
    answered: u64,
    sleeps: u64,
}

impl Parent {
    fn receive(&mut self) {
        self.end.receive(&mut self.arrivals).unwrap();
        while let Some(run) = self.end.next_run(&mut self.arrivals).unwrap() {
            match run {
                Arrival::Values { items, bytes } => {
                    assert_eq!(ItemReader(bytes).count(), items as usize);
                    for value in ItemReader(bytes) {
                        assert_ne!(self.answered % 100, 3);
                        assert_eq!(number_of(value.unwrap(), UP), self.answered, "answers come in order");
                        self.answered += 1;
                    }
                }
                Arrival::Answer { kind: AnswerKind::Panicked, bytes } => {
                    assert_eq!(number_of(bytes, UP), self.answered, "answers come in order");
                    assert_eq!(self.answered % 100, 3);
                    self.answered += 1;
                }
                other => panic!("{other:?} was never sent"),
            }
        }
        self.end.taken(&self.arrivals);
    }

    /// Sleeps until the worker rings, unless there is something to receive.
    fn sleep(&mut self) {
        if self.end.is_idle() || !self.end.ask_to_ring() {
            return;
        }
        let mut fds = [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            poll(&mut fds, PollTimeout::from(WAIT_MAX_MS)),
            Ok(1),
            "no ring came, {} of {} done",
            self.answered,
            self.sent
        );
        self.bell.read_exact(&mut [0; 8]).unwrap();
        self.sleeps += 1;
        self.receive();
        self.end.rung().unwrap();
    }
}

#[test]
fn every_record_arrives_once_and_no_side_oversleeps() {
    let wanted = std::env::var("PROCPOOL_STRESS_RECORDS").ok().and_then(|records| records.parse().ok());
    let records: u64 = wanted.unwrap_or(RECORDS);
    let (mut end, memory) = ParentEnd::new().unwrap();
    let bell = OwnedFd::from(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap());
    let ours = File::from(bell.try_clone().unwrap());
    let theirs = WorkerEnd::new(memory, PrivateFd::adopt(bell).unwrap()).unwrap();
    end.allow_spinning(5_000);
    let worker = thread::spawn(move || work(theirs));
    let mut parent = Parent { end, bell: ours, arrivals: Arrivals::default(), sent: 0, answered: 0, sleeps: 0 };
    let (mut state, mut recalled) = (1u64, 0);
    while parent.answered < records {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = state >> 33;
        match random % 16 {
            0..8 if parent.sent < records => {
                let items = (random >> 4) % 100 + 1;
                let span = span(parent.sent..records.min(parent.sent + items));
                parent.sent += u64::from(parent.end.send_items(&span));
            }
            8 => {
                let unbegun = parent.end.recall().unwrap();
                parent.sent -= unbegun.items;
                recalled += unbegun.items;
            }
            9..12 => parent.receive(),
            12..14 if parent.sent == records || random & 16 == 0 => parent.sleep(),
            _ => {}
        }
    }
    let stop = Note { frame: Head::stop().as_bytes().to_vec(), attached: None };
    while !parent.end.has_room_for(&stop) {
        parent.sleep();
    }
    parent.end.send_note(stop, None);
    assert_eq!(worker.join().unwrap(), records);
    assert!(recalled > 0 && parent.sleeps > 0, "{recalled} taken back, {} times asleep", parent.sleeps);
}
