//! The honest worker of a trial: the real worker end, step by step, and what it must find.

use std::io::Read;

use super::super::super::ledger::WorkerLedger;
use super::super::Cell;
use super::super::RING_LEN;
use super::super::record;
use super::Known;
use super::Reply;
use super::Trial;
use crate::transport::frame::AnswerKind;
use crate::transport::frame::Order;
use crate::transport::frame::parse_order;
use crate::transport::record::Next;
use crate::work::batch::Target;
use crate::work::function::Completion;

impl Trial {
    pub(super) fn begin(&mut self) {
        if self.is_begun || !WorkerLedger(self.end.memory.cell(Cell::Ledger)).has_work() {
            assert!(self.is_begun || self.waiting.is_empty(), "what was sent can be begun");
            return;
        }
        self.sleeps = false;
        self.worker.begin(None);
        self.read();
    }

    /// The record that has begun must be the next that was sent.
    fn read(&mut self) {
        self.is_begun = true;
        self.worker.read().unwrap();
        let record = self.worker.current();
        let bytes = self.worker.bytes();
        self.running = None;
        if record.is_order
            && let Ok(Order::Select { target: Target { function, .. } }) = parse_order(bytes)
        {
            self.selected = Some(function.0);
            return;
        }
        let begun = self.waiting.pop_front().expect("it was sent and not taken back");
        let function = self.selected.unwrap_or_default();
        let known = match (record.is_order, record.attachment) {
            (true, number) => Known::Note { frame: bytes.to_vec(), number },
            (false, None) => Known::Item { function, bytes: bytes.to_vec() },
            (false, Some(number)) => Known::AttachedItem { function, number, bytes: bytes.to_vec() },
        };
        assert_eq!(begun, known);
        self.running = Some(begun).filter(Known::is_item);
    }

    pub(super) fn finish(&mut self, kind: u8, len: usize) {
        if !self.is_begun || self.up + record::HEAD + record::NUMBER + len > RING_LEN {
            return;
        }
        if self.running.take().is_some() {
            let reply = self.reply(kind, len);
            match &reply {
                Reply::Here { kind, bytes } => self.worker.answer(*kind, bytes).unwrap(),
                Reply::Attached { kind, number, bytes } => self.worker.answer_attached(*kind, *number, bytes).unwrap(),
            }
            self.up += record::HEAD
                + match &reply {
                    Reply::Here { bytes, .. } => bytes.len(),
                    Reply::Attached { bytes, .. } => record::NUMBER + bytes.len(),
                };
            self.replies.push_back(reply);
        }
        self.finished += 1;
        let next = self.worker.finish();
        if std::mem::take(&mut self.is_asked) {
            self.bell.read_exact(&mut [0; 8]).expect("a worker that was asked to ring has rung");
            self.has_rung = true;
        }
        match next {
            Next::HasBegun => self.read(),
            Next::Wait => self.is_begun = false,
            Next::Leave => unreachable!("its bell is open"),
        }
    }

    fn reply(&mut self, kind: u8, len: usize) -> Reply {
        let serial = self.serial();
        let bytes = serial.to_le_bytes().into_iter().cycle().take(len).collect();
        let value = AnswerKind::Completion(Completion::Value);
        match kind {
            0 => Reply::Here { kind: AnswerKind::Panicked, bytes },
            1 => Reply::Here { kind: AnswerKind::Completion(Completion::Failed), bytes },
            2 => Reply::Attached { kind: value, number: serial, bytes },
            3 => Reply::Attached { kind: AnswerKind::Panicked, number: serial, bytes: Vec::new() },
            _ => Reply::Here { kind: value, bytes },
        }
    }
}
