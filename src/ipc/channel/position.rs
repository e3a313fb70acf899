//! Positions in the ring of a channel: how many messages and how many bytes lie before them, in one word.
//!
//! ```text
//!   63         44 43                     0
//!   messages      bytes
//! ```
//!
//! Both count modulo their width. One store moves both, so a message is there or is not, and their number is exact.

/// How many bits count bytes.
const BYTE_BITS: u32 = 44;
const BYTES_MASK: u64 = (1 << BYTE_BITS) - 1;
const MESSAGES_MASK: u64 = MESSAGES_MAX as u64;

/// The most messages that a channel may hold: more could not be told from none.
pub(super) const MESSAGES_MAX: usize = (1 << (64 - BYTE_BITS)) - 1;
/// The longest ring. Far less than what 44 bits count.
pub(super) const RING_MAX: usize = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position(pub(super) u64);

/// What lies between two positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Distance {
    pub(super) messages: usize,
    pub(super) bytes: u64,
}

impl Position {
    fn messages(self) -> u64 {
        self.0 >> BYTE_BITS
    }

    fn bytes(self) -> u64 {
        self.0 & BYTES_MASK
    }

    /// The position behind one more message of so many bytes.
    pub(super) fn behind_message(self, bytes: u64) -> Self {
        let messages = (self.messages() + 1) & MESSAGES_MASK;
        Self(messages << BYTE_BITS | (self.bytes() + bytes) & BYTES_MASK)
    }

    /// How far this lies behind an earlier position.
    pub(super) fn since(self, earlier: Self) -> Distance {
        let messages = self.messages().wrapping_sub(earlier.messages()) & MESSAGES_MASK;
        let bytes = self.bytes().wrapping_sub(earlier.bytes()) & BYTES_MASK;
        Distance { messages: usize::try_from(messages).expect("20 bits"), bytes }
    }

    /// Where the byte `offset` bytes behind this position lies in a ring, whose length is a power of two.
    pub(super) fn place(self, offset: u64, ring_len: usize) -> usize {
        let place = self.bytes().wrapping_add(offset) & (ring_len as u64 - 1);
        usize::try_from(place).expect("a ring is in memory")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn distances_are_exact_wherever_they_begin(start in any::<u64>(), lens in proptest::collection::vec(0u64..1 << 30, 0..50)) {
            let start = Position(start);
            let end = lens.iter().fold(start, |position, &len| position.behind_message(len));
            prop_assert_eq!(end.since(start), Distance { messages: lens.len(), bytes: lens.iter().sum() });
            prop_assert_eq!(end.place(0, 4096), start.place(lens.iter().sum(), 4096));
        }
    }

    #[test]
    fn as_many_messages_as_a_channel_may_hold_are_told_from_none() {
        let start = Position(u64::MAX);
        let end = (0..MESSAGES_MAX).fold(start, |position, _| position.behind_message(1));
        assert_eq!(end.since(start).messages, MESSAGES_MAX);
        assert_eq!(end.behind_message(1).since(start).messages, 0);
    }
}
