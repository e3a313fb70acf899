//! The record of a message in the ring: its head, and what its receiver checks.
//!
//! ```text
//!   0  length of the bytes u32 · kind u32
//!   8  the bytes, padded to a multiple of eight
//! ```
//!
//! So a head never wraps around the end of the ring. Where descriptors belong to the message, the bytes begin with the number
//! of the attachment, which has them and travels beside the ring; see [`attachments`](super::attachments).

use super::position::Distance;

pub(super) const HEAD_LEN: usize = 8;
/// The longest message that lies in the ring. A longer one travels in a file.
pub(super) const INLINE_MAX: usize = 16 * 1024;

/// What the bytes of a record are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The encoded value.
    Inline = 0,
    /// The number of the attachment, whose first descriptor is a file with the encoded value; the value carries the others.
    File = 1,
    /// The number of the attachment, and the encoded value, which carries its descriptors.
    Carrying = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: usize,
    pub(super) kind: Kind,
}

/// The length of the number of an attachment.
pub(super) const NUMBER_LEN: usize = 8;
/// The most bytes of a record.
const RECORD_MAX: usize = NUMBER_LEN + INLINE_MAX;

impl Head {
    pub(super) fn to_bytes(self) -> [u8; HEAD_LEN] {
        let len = u32::try_from(self.len).expect("a record is short");
        (u64::from(len) | u64::from(self.kind as u32) << 32).to_le_bytes()
    }

    /// The head in a copy of the first bytes of what the ring holds. `None` if it is not one: some process has written
    /// nonsense.
    pub(super) fn parse(bytes: [u8; HEAD_LEN], used: Distance) -> Option<Self> {
        let number = u64::from_le_bytes(bytes);
        let kind = match number >> 32 {
            0 => Kind::Inline,
            1 => Kind::File,
            2 => Kind::Carrying,
            _ => return None,
        };
        let len = usize::try_from(number & u64::from(u32::MAX)).ok()?;
        let is_possible = len <= RECORD_MAX
            && record_len(len) <= used.bytes
            && match kind {
                Kind::Inline => true,
                Kind::File => len == NUMBER_LEN,
                Kind::Carrying => len >= NUMBER_LEN,
            };
        is_possible.then_some(Self { len, kind })
    }
}

/// How much of the ring a record with so many bytes takes.
pub(super) fn record_len(len: usize) -> u64 {
    (HEAD_LEN + len.next_multiple_of(8)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_head_comes_back_if_the_ring_holds_its_record(len in 0..=INLINE_MAX, more in 0u64..1000) {
            let head = Head { len, kind: Kind::Inline };
            let used = Distance { messages: 1, bytes: record_len(len) + more };
            prop_assert_eq!(Head::parse(head.to_bytes(), used), Some(head));
            let used = Distance { messages: 1, bytes: record_len(len) - 1 };
            prop_assert_eq!(Head::parse(head.to_bytes(), used), None);
        }

        #[test]
        fn nothing_longer_than_what_the_ring_holds_is_accepted(bytes in any::<[u8; HEAD_LEN]>(), used in 0u64..1 << 20) {
            if let Some(head) = Head::parse(bytes, Distance { messages: 1, bytes: used }) {
                prop_assert!(record_len(head.len) <= used && head.len <= RECORD_MAX);
                prop_assert_eq!(head.to_bytes(), bytes);
            }
        }
    }
}
