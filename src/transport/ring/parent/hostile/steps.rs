//! What may happen to the rings, drawn at random.

#[cfg(test)]
use proptest::collection::vec;
#[cfg(test)]
use proptest::prelude::*;
use serde::Deserialize;
use serde::Serialize;

use super::super::Cell;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    SendItems { lens: Vec<usize>, function: u32 },
    SendAttached { function: u32 },
    SendNote { len: usize, is_attached: bool },
    Recall,
    Receive,
    NextRun,
    ReceiveAll,
    AskToRing,
    Rung,
    Peek,
    Begin,
    Finish { kind: u8, len: usize },
    FallAsleep,
    Misdeed(Misdeed),
}

/// A write to the shared memory that only a misbehaving task makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Misdeed {
    Word(u64),
    /// The word that the parent expects, changed by this.
    NearlyRight {
        sent: i32,
        done: i32,
        flags: u8,
    },
    Number {
        cell: usize,
        value: u64,
    },
    /// The end of the answers, this many bytes beyond what the parent has taken.
    Answered(u64),
    Bytes {
        is_up: bool,
        position: u64,
        bytes: Vec<u8>,
    },
    /// Answers at the parent's read position, some with lengths that are too long.
    Forged {
        heads: Vec<u32>,
        done: u32,
    },
    Noise(u64),
    Holes,
}

pub(super) const CELLS: [Cell; 9] = [
    Cell::Ledger,
    Cell::Answered,
    Cell::BusyNs,
    Cell::BusyItems,
    Cell::Sent,
    Cell::Taken,
    Cell::Recalls,
    Cell::SpinNs,
    Cell::Stamps,
];

#[cfg(test)]
pub(crate) fn honest_step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![8 => 0..64usize, 2 => 0..3000usize, 1 => 20_000..60_000usize];
    let lens = prop_oneof![8 => vec(0..40usize, 1..20), 1 => vec(0..2000usize, 1..100), 1 => vec(len.clone(), 1..3)];
    prop_oneof![
        4 => (lens, 1..4u32).prop_map(|(lens, function)| Step::SendItems { lens, function }),
        1 => (1..4u32).prop_map(|function| Step::SendAttached { function }),
        1 => (0..3000usize, any::<bool>()).prop_map(|(len, is_attached)| Step::SendNote { len, is_attached }),
        2 => Just(Step::Recall),
        2 => Just(Step::Receive),
        4 => Just(Step::NextRun),
        2 => Just(Step::ReceiveAll),
        2 => Just(Step::AskToRing),
        1 => Just(Step::Rung),
        1 => Just(Step::Peek),
        4 => Just(Step::Begin),
        16 => (0..12u8, len).prop_map(|(kind, len)| Step::Finish { kind, len }),
        1 => Just(Step::FallAsleep),
    ]
}

#[cfg(test)]
pub(crate) fn misdeed() -> impl Strategy<Value = Misdeed> {
    let head = prop_oneof![8 => (0..40u32).prop_map(|len| 16 << 24 | len), 1 => 0..40u32, 1 => any::<u32>(), 1 => Just(1 << 31 | 4), 1 => Just(1 << 31 | 5), 1 => Just(17 << 24 | 3)];
    let bytes = vec(any::<u8>(), 0..300);
    prop_oneof![
        1 => any::<u64>().prop_map(Misdeed::Word),
        6 => (-2..3i32, -3..4i32, any::<u8>().prop_map(|flags| flags & (flags >> 3)))
            .prop_map(|(sent, done, flags)| Misdeed::NearlyRight { sent: sent / 2, done, flags }),
        2 => (0..CELLS.len(), any::<u64>()).prop_map(|(cell, value)| Misdeed::Number { cell, value }),
        2 => (0..80_000u64).prop_map(Misdeed::Answered),
        2 => (any::<bool>(), any::<u64>(), bytes)
            .prop_map(|(is_up, position, bytes)| Misdeed::Bytes { is_up, position, bytes }),
        6 => (vec(head, 0..12), 0..12u32).prop_map(|(heads, done)| Misdeed::Forged { heads, done }),
        1 => any::<u64>().prop_map(Misdeed::Noise),
        1 => Just(Misdeed::Holes),
    ]
}

/// xorshift64.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
