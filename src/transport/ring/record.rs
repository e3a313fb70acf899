//! The records in the rings, each behind a head of four bytes. Pure.
//!
//! ```text
//! down   kind 2 bits, length 30 bits   item: its bytes, as in a batch (the kind of an item is 0, so a whole span is
//!                                      copied into the ring as it is)
//!                                      order: a frame
//!                                      either one attached: the number of an attachment, then what there is inline
//! up     kind 8 bits, length 24 bits   the value, or the text or report of its kind; never kind 0, so that zeros are no
//!                                      answer
//! ```

use crate::transport::arrival::LinkError;
use crate::transport::frame::AnswerKind;
use crate::work::function::Completion;

/// The length of a head.
pub(crate) const HEAD: usize = 4;
/// The length of an attachment's number.
pub(crate) const NUMBER: usize = 4;

const ORDER: u32 = 1 << 31;
const ATTACHED: u32 = 1 << 30;
const DOWN_LEN: u32 = ATTACHED - 1;

const UP_ATTACHED: u32 = 1 << 31;
const UP_KIND_SHIFT: u32 = 24;
/// Which byte of an answer's head has its kind.
pub(crate) const UP_KIND_BYTE: usize = 3;
const UP_LEN: u32 = (1 << UP_KIND_SHIFT) - 1;

/// The head of a record for the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DownHead {
    pub(crate) is_order: bool,
    pub(crate) is_attached: bool,
    pub(crate) len: usize,
}

impl DownHead {
    pub(crate) fn to_bytes(self) -> [u8; HEAD] {
        let len = u32::try_from(self.len).expect("a record is shorter than a ring");
        let order = if self.is_order { ORDER } else { 0 };
        let attached = if self.is_attached { ATTACHED } else { 0 };
        (order | attached | len).to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; HEAD]) -> Self {
        let head = u32::from_le_bytes(bytes);
        Self { is_order: head & ORDER != 0, is_attached: head & ATTACHED != 0, len: (head & DOWN_LEN) as usize }
    }
}

/// The head of a worker's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UpHead {
    pub(crate) kind: AnswerKind,
    pub(crate) is_attached: bool,
    pub(crate) len: usize,
}

/// The kind of a value.
pub(crate) const VALUE: AnswerKind = AnswerKind::Completion(Completion::Value);

impl UpHead {
    pub(crate) fn to_bytes(self) -> [u8; HEAD] {
        let len = u32::try_from(self.len).expect("a record is shorter than a ring");
        let kind = u32::from(self.kind.code()) << UP_KIND_SHIFT;
        let attached = if self.is_attached { UP_ATTACHED } else { 0 };
        (kind | attached | len).to_le_bytes()
    }

    /// `None` if no worker of this build writes such a head.
    pub(crate) fn from_bytes(bytes: [u8; HEAD]) -> Option<Self> {
        let head = u32::from_le_bytes(bytes);
        let kind = AnswerKind::from_code(bytes[UP_KIND_BYTE] & 0x7f)?;
        Some(Self { kind, is_attached: head & UP_ATTACHED != 0, len: (head & UP_LEN) as usize })
    }

    /// Whether the record is a value whose bytes are in the ring: then it is stored in a log as it is, without its kind.
    pub(crate) fn is_plain(self) -> bool {
        self.kind == VALUE && !self.is_attached
    }
}

/// Splits a record's head off; `None` if there is no whole head.
pub(crate) fn split_head(bytes: &[u8]) -> Option<([u8; HEAD], &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    Some((*head, rest))
}

/// The shared memory holds what no worker of this build writes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl From<Broken> for LinkError {
    fn from(Broken(detail): Broken) -> Self {
        LinkError::Broken(detail.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Side;

    #[test]
    fn a_plain_item_has_its_length_for_a_head() {
        let head = DownHead { is_order: false, is_attached: false, len: 7 };
        assert_eq!(head.to_bytes(), 7u32.to_le_bytes());
        let head = UpHead { kind: VALUE, is_attached: false, len: 7 };
        let mut bytes = head.to_bytes();
        bytes[UP_KIND_BYTE] = 0;
        assert_eq!(bytes, 7u32.to_le_bytes());
    }

    #[test]
    fn zeros_are_no_answer() {
        assert_eq!(UpHead::from_bytes([0; HEAD]), None);
    }

    proptest! {
        #[test]
        fn heads_come_back_from_their_bytes(is_order: bool, is_attached: bool, len in 0..1usize << 20) {
            let head = DownHead { is_order, is_attached, len };
            prop_assert_eq!(DownHead::from_bytes(head.to_bytes()), head);
            for kind in [VALUE, AnswerKind::Panicked, AnswerKind::Completion(Completion::NotDecoded(Side::Context))] {
                let head = UpHead { kind, is_attached, len };
                prop_assert_eq!(UpHead::from_bytes(head.to_bytes()), Some(head));
            }
        }

        #[test]
        fn any_bytes_are_a_head_or_none(bytes: [u8; 4]) {
            if let Some(head) = UpHead::from_bytes(bytes) {
                prop_assert_eq!(head.to_bytes(), bytes);
            }
        }
    }
}
