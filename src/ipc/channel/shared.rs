//! What all ends of a channel share: the memory, and the ring in it.
//!
//! ```text
//!     0  messages u64                                            at most so many; written once
//!    64  senders' latch u32 · item flag u32 · tail u64           changed by senders, under their latch
//!    80  attachments u64 · closed u32
//!   192  receivers' latch u32 · room flag u32 · head u64         changed by receivers, under theirs
//!   320  departed u64                                            how many ends receivers have dropped: a hint
//! ```
//!
//! `tail` is where the next message goes, `head` where the next one is taken; see [`position`](super::position). Senders
//! write bytes behind `tail`, then store `tail` (Release; receivers load it with Acquire). Receivers copy bytes out
//! behind `head`, then store `head` (Release; senders load it with Acquire, so that they overwrite nothing that is being
//! copied).
//!
//! Every load of a position is checked against the other: more messages or bytes than fit is nonsense that some process
//! has written, and breaks the channel for the process that sees it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use super::position::Distance;
use super::position::MESSAGES_MAX;
use super::position::Position;
use super::position::RING_MAX;
use super::record;
use super::record::INLINE_MAX;
use crate::ipc::deadline::Wait;
use crate::ipc::gate;
use crate::ipc::latch;
use crate::ipc::latch::Held;
use crate::ipc::latch::Previous;
use crate::ipc::segment::Head;
use crate::ipc::segment::Kind;
use crate::ipc::segment::Segment;
use crate::ipc::segment::View;
use crate::values::attach::SharedFd;

/// The shortest ring.
pub(super) const RING_MIN: usize = 4096;

const MESSAGES: usize = 0;
const SENDERS: usize = 64;
const RECEIVERS: usize = 192;
const DEPARTED: usize = 320;

/// The memory of a channel. The ends that this process made or received together share it.
#[derive(Debug)]
pub(super) struct Shared {
    segment: Segment,
    pub(super) file: SharedFd,
    /// The channel holds at most so many.
    pub(super) messages: usize,
    pub(super) ring_len: usize,
}

impl Shared {
    /// A new channel for values with this signature.
    ///
    /// # Errors
    ///
    /// As for [`Segment::create`].
    pub(super) fn create(signature: u64, messages: usize, ring_len: usize) -> io::Result<Self> {
        let (segment, file) = Segment::create(Head { kind: Kind::Channel, signature }, ring_len)?;
        let shared = Self { segment, file: Arc::new(file), messages, ring_len };
        let words = shared.words().expect("it was mapped a line ago");
        // Relaxed: the memory is sent by a system call later.
        words.0.word(MESSAGES).store(messages as u64, Ordering::Relaxed);
        gate::reset(words.item_flag());
        gate::reset(words.room_flag());
        Ok(shared)
    }

    /// The channel that another process has sent.
    ///
    /// # Errors
    ///
    /// As for [`Segment::open`]; also `InvalidData` if it is not a channel's memory.
    pub(super) fn open(signature: u64, file: SharedFd) -> io::Result<Self> {
        let segment = Segment::open(&file, Head { kind: Kind::Channel, signature })?;
        let ring_len = segment.bytes_len();
        let view = segment.view().expect("it was mapped a line ago");
        // Loaded once: any process that has the channel may change it.
        let messages = usize::try_from(view.word(MESSAGES).load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let is_possible = (RING_MIN..=RING_MAX).contains(&ring_len)
            && ring_len.is_power_of_two()
            && (1..=MESSAGES_MAX).contains(&messages);
        if !is_possible {
            let text = "the memory has no length and no number of messages that a channel has";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self { segment, file, messages, ring_len })
    }

    /// Access to the memory; `None` in a forked copy of the process.
    #[inline]
    pub(super) fn words(&self) -> Option<Words<'_>> {
        self.segment.view().map(Words)
    }

    /// The longest message that lies in the ring, which holds four of them at least.
    pub(super) fn inline_max(&self) -> usize {
        INLINE_MAX.min(self.ring_len / 4 - record::HEAD_LEN - record::NUMBER_LEN)
    }

    /// Whether a record of so many bytes fits behind what is used.
    #[inline]
    pub(super) fn has_room(&self, used: Distance, len: u64) -> bool {
        used.messages < self.messages && used.bytes + len <= self.ring_len as u64
    }

    /// What the ring holds; `None` if that is impossible.
    #[inline]
    pub(super) fn used(&self, tail: Position, head: Position) -> Option<Distance> {
        let used = tail.since(head);
        // Each message has bytes, and bytes belong to messages.
        let is_possible = used.messages <= self.messages
            && used.bytes <= self.ring_len as u64
            && (used.messages == 0) == (used.bytes == 0);
        is_possible.then_some(used)
    }
}

/// The words of a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a>(View<'a>);

impl<'a> Words<'a> {
    fn senders_latch(self) -> &'a AtomicU32 {
        self.0.small_word(SENDERS)
    }

    /// The flag of the gate at which receivers wait for messages. Under the senders' latch.
    #[inline]
    pub(super) fn item_flag(self) -> &'a AtomicU32 {
        self.0.small_word(SENDERS + 4)
    }

    /// Whether a sender seems to be in the midst of a call. A hint.
    #[inline]
    pub(super) fn is_sending(self) -> bool {
        latch::is_held(self.senders_latch())
    }

    /// Whether a receiver seems to be in the midst of a call. A hint.
    #[inline]
    pub(super) fn is_receiving(self) -> bool {
        latch::is_held(self.receivers_latch())
    }

    fn tail_word(self) -> &'a AtomicU64 {
        self.0.word(SENDERS + 8)
    }

    /// The number of the last attachment. Under the senders' latch: Relaxed.
    pub(super) fn attachments(self) -> &'a AtomicU64 {
        self.0.word(SENDERS + 16)
    }

    fn closed_word(self) -> &'a AtomicU32 {
        self.0.small_word(SENDERS + 24)
    }

    fn receivers_latch(self) -> &'a AtomicU32 {
        self.0.small_word(RECEIVERS)
    }

    /// The flag of the gate at which senders wait for room. Under the receivers' latch.
    #[inline]
    pub(super) fn room_flag(self) -> &'a AtomicU32 {
        self.0.small_word(RECEIVERS + 4)
    }

    fn head_word(self) -> &'a AtomicU64 {
        self.0.word(RECEIVERS + 8)
    }

    /// How many ends receivers have dropped, since the channel was made. A hint for senders: Relaxed.
    #[inline]
    pub(super) fn departed(self) -> &'a AtomicU64 {
        self.0.word(DEPARTED)
    }

    /// Acquire: pairs with [`publish_tail`](Self::publish_tail).
    #[inline]
    pub(super) fn tail(self) -> Position {
        Position(self.tail_word().load(Ordering::Acquire))
    }

    /// Acquire: pairs with [`publish_head`](Self::publish_head).
    #[inline]
    pub(super) fn head(self) -> Position {
        Position(self.head_word().load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn publish_tail(self, tail: Position) {
        self.tail_word().store(tail.0, Ordering::Release);
    }

    #[inline]
    pub(super) fn publish_head(self, head: Position) {
        self.head_word().store(head.0, Ordering::Release);
    }

    /// Whether the ring is empty at one moment. The head is loaded first: it is not beyond the tail, so if the tail is
    /// there too, the head has not moved on.
    #[inline]
    pub(super) fn is_empty(self) -> bool {
        let head = self.head();
        self.tail() == head
    }

    /// Acquire: pairs with [`close`](Self::close). A receiver that sees it sees every message.
    #[inline]
    pub(super) fn is_closed(self) -> bool {
        self.closed_word().load(Ordering::Acquire) != 0
    }

    /// Under the senders' latch, so that no message follows.
    pub(super) fn close(self) {
        self.closed_word().store(1, Ordering::Release);
    }

    /// Takes the senders' latch, and repairs what a dead holder has left. `None` if the wait is over first.
    #[inline]
    pub(super) fn hold_senders(self, wait: Wait) -> Option<Held<'a>> {
        let held = latch::hold(self.senders_latch(), wait.gives_up())?;
        if held.previous == Previous::Died {
            gate::reset(self.item_flag());
        }
        Some(held)
    }

    /// As [`hold_senders`](Self::hold_senders), for the receivers' latch.
    #[inline]
    pub(super) fn hold_receivers(self, wait: Wait) -> Option<Held<'a>> {
        let held = latch::hold(self.receivers_latch(), wait.gives_up())?;
        if held.previous == Previous::Died {
            gate::reset(self.room_flag());
        }
        Some(held)
    }

    /// Copies bytes into the ring, from `offset` bytes behind `position` on.
    #[inline]
    pub(super) fn put(self, ring_len: usize, position: Position, offset: u64, bytes: &[u8]) {
        let place = position.place(offset, ring_len);
        let (first, second) = bytes.split_at(bytes.len().min(ring_len - place));
        self.0.put(place, first);
        if !second.is_empty() {
            self.0.put(0, second);
        }
    }

    /// Appends a copy of `len` bytes of the ring, from `offset` bytes behind `position` on.
    #[inline]
    pub(super) fn copy_out(self, ring_len: usize, position: Position, offset: u64, len: usize, bytes: &mut Vec<u8>) {
        let place = position.place(offset, ring_len);
        let first = len.min(ring_len - place);
        self.0.copy_out(place, first, bytes);
        if first < len {
            self.0.copy_out(0, len - first, bytes);
        }
    }

    /// The head of the record at `position`. It does not wrap, because all positions are multiples of its length.
    #[inline]
    pub(super) fn record_head(self, ring_len: usize, position: Position) -> [u8; record::HEAD_LEN] {
        self.0.load_bytes(position.place(0, ring_len) & !(record::HEAD_LEN - 1))
    }
}
