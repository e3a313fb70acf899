//! Answers in a private copy of what the worker wrote, split and validated.

use std::ops::Range;

use super::record;
use super::record::Broken;
use super::record::UpHead;
use crate::transport::arrival::Arrival;
use crate::transport::frame::AnswerKind;

/// Where the next run is: consecutive values, or one answer of another kind.
pub(super) enum RunAt {
    Values { items: u32, range: Range<usize> },
    Answer { kind: AnswerKind, range: Range<usize> },
    Attached { kind: AnswerKind, number: u32, range: Range<usize> },
}

/// Answers that were copied out of the ring and not processed yet.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    pub(super) bytes: Vec<u8>,
    /// How many of the bytes have been processed.
    pub(super) read: usize,
    /// How many records are done and not processed.
    pub(super) records: u32,
}

impl Arrivals {
    pub(super) fn run(&self, run: RunAt) -> Arrival<'_> {
        match run {
            RunAt::Values { items, range } => Arrival::Values { items, bytes: &self.bytes[range] },
            RunAt::Answer { kind, range } => Arrival::Answer { kind, bytes: &self.bytes[range] },
            RunAt::Attached { kind, number, range } => Arrival::Attached { kind, number, bytes: &self.bytes[range] },
        }
    }

    /// Splits off the next run of at most `items_max` answers; returns how many it has.
    pub(super) fn split(&mut self, items_max: u32) -> Result<(RunAt, u32), Broken> {
        let items_max = items_max.min(self.records);
        let start = self.read;
        let mut items = 0;
        while items < items_max {
            let rest = &self.bytes[self.read..];
            let (head, rest) = record::split_head(rest).ok_or(Broken("an answer ends before it begins"))?;
            let head = UpHead::from_bytes(head).ok_or(Broken("an answer of no known kind"))?;
            if head.len > rest.len() {
                return Err(Broken("an answer is longer than what was written"));
            }
            let kind = head.kind;
            match (head.is_plain(), items) {
                (true, _) => {
                    self.bytes[self.read + record::UP_KIND_BYTE] = 0;
                    self.read += record::HEAD + head.len;
                    items += 1;
                }
                (false, 0) => {
                    let start = self.read + record::HEAD;
                    self.read = start + head.len;
                    if !head.is_attached {
                        return Ok((RunAt::Answer { kind, range: start..self.read }, 1));
                    }
                    let number = self.bytes[start..self.read].first_chunk().copied();
                    let number = number.ok_or(Broken("an attached answer without the number of its attachment"))?;
                    let (number, range) = (u32::from_le_bytes(number), start + record::NUMBER..self.read);
                    return Ok((RunAt::Attached { kind, number, range }, 1));
                }
                (false, _) => break,
            }
        }
        Ok((RunAt::Values { items, range: start..self.read }, items))
    }
}
