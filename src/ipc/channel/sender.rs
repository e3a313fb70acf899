//! The sending end.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use super::attachments;
use super::attachments::Sent;
use super::counts::counts;
use super::end::End;
use super::end::Side;
use super::end::Woken;
use super::end::shared_fds;
use super::error::FORKED;
use super::error::NONSENSE;
use super::error::NotSent;
use super::error::SendError;
use super::message;
use super::message::Encoded;
use super::message::EncodedBytes;
use super::record::HEAD_LEN;
use super::record::Head;
use super::record::Kind;
use super::record::NUMBER_LEN;
use super::record::record_len;
use super::shared::Words;
use crate::ipc::deadline::Wait;
use crate::ipc::wait::Bell;
use crate::ipc::wait::Turn;
use crate::ipc::wait::Waitable;
use crate::sys::failpoint;
use crate::work::function::signature_of;
use crate::work::task::Data;

/// The sending end of a [channel](crate::channel).
///
/// What it promises: a message that `send` has accepted is received once at most, after those that this sender sent
/// before; it is lost only with a receiver that dies with it in its hands, or if no receiver ever takes it. Nothing is
/// buffered in this process: after `send` it may exit.
///
/// Clones, and the senders that other processes have, send on the same channel. When the last one is gone, in all
/// processes and however they ended, the receivers are told.
///
/// Also called: the writing end of a queue or pipe (`multiprocessing.Queue.put`, `Connection.send`).
///
/// # Examples
///
/// ```
/// let (tx, rx) = procpool::channel::bounded::<String>(16)?;
/// tx.send("hello".to_owned())?;
/// let other = tx.clone();
/// std::thread::spawn(move || other.send("from a thread".to_owned()));
/// assert_eq!(rx.recv()?, "hello");
/// assert_eq!(rx.recv()?, "from a thread");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sender<T> {
    end: Arc<End>,
    /// A sender holds no `T`, so it is `Send` and `Sync` whatever `T` is.
    values: PhantomData<fn(T) -> T>,
}

/// What became of one attempt to put a message into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Sent,
    NoRoom,
    /// Of the ring, there is; but the socket takes no attachment.
    NoRoomForAttachment,
}

impl<T: Data> Sender<T> {
    pub(super) fn new(end: End) -> Self {
        Self { end: Arc::new(end), values: PhantomData }
    }

    /// Sends a message. Waits while the channel is full.
    ///
    /// # Errors
    ///
    /// - [`SendError::Disconnected`]: all receivers are gone. If they were killed, a message may still be accepted, or at most
    ///   as many as were waiting.
    /// - [`SendError::Closed`], [`SendError::Encode`], [`SendError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let (tx, rx) = procpool::channel::bounded(4)?;
    /// tx.send((1u64, 0.5))?;
    /// assert_eq!(rx.recv()?, (1, 0.5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.send_within(&value, Wait::Forever).map_err(|error| error.with(value))
    }

    /// As [`send`](Self::send), without taking the message.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Examples
    ///
    /// ```
    /// let (tx, rx) = procpool::channel::bounded::<String>(4)?;
    /// let text = "for two".to_owned();
    /// tx.send_ref(&text)?;
    /// tx.send(text)?;
    /// assert_eq!(rx.recv()?, rx.recv()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_ref(&self, value: &T) -> Result<(), SendError<()>> {
        self.send_within(value, Wait::Forever).map_err(|error| error.with(()))
    }

    /// Sends a message if there is room. It waits for no receiver; where a process was stopped in the midst of a call on
    /// this channel, it gives up after a few milliseconds.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there is no room; otherwise as for [`send`](Self::send).
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::channel::{self, SendError};
    ///
    /// let (tx, _rx) = channel::bounded(1)?;
    /// tx.try_send(1u8)?;
    /// assert!(matches!(tx.try_send(2), Err(SendError::Full(2))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        self.send_within(&value, Wait::Not).map_err(|error| error.with(value))
    }

    /// Sends a message. Waits for room, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there was no room in time; otherwise as for [`send`](Self::send).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (tx, _rx) = procpool::channel::bounded(1)?;
    /// tx.send_timeout("first".to_owned(), Duration::from_secs(1))?;
    /// let error = tx.send_timeout("second".to_owned(), Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(error.into_value(), "second");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendError<T>> {
        self.send_within(&value, Wait::at_most(timeout)).map_err(|error| error.with(value))
    }

    fn send_within(&self, value: &T, wait: Wait) -> Result<(), NotSent> {
        let (end, inline_max) = (&*self.end, self.end.shared().inline_max());
        message::encode(value, inline_max, Some(end.files.cache()), |encoded| send(end, encoded, wait))
    }

    /// The descriptors of this end, to hand over to another process of this program, for [`from_fds`](Self::from_fds).
    #[doc(hidden)]
    #[must_use]
    pub fn to_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.end.fds().map(AsFd::as_fd).into()
    }

    /// The end that has these descriptors.
    ///
    /// # Errors
    ///
    /// `InvalidData` if they are not those of a sender of `T`; otherwise the error of a system call.
    #[doc(hidden)]
    pub fn from_fds(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let end = End::from_fds(signature_of::<T>(), Side::Senders, shared_fds(fds)?)?;
        Ok(Self { end: Arc::new(end), values: PhantomData })
    }
}

impl<T> Sender<T> {
    /// Ends the channel for all ends in all processes: no message follows, and what is in the channel is still received.
    ///
    /// Usually not needed: dropping the last sender does the same, and tells [`Disconnected`]. CPython's `Queue.shutdown`.
    ///
    /// [`Disconnected`]: crate::channel::RecvError::Disconnected
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::channel::{self, RecvError, SendError};
    ///
    /// let (tx, rx) = channel::bounded(4)?;
    /// tx.send(1u8)?;
    /// tx.close();
    /// assert!(matches!(tx.send(2), Err(SendError::Closed(2))));
    /// assert_eq!(rx.recv(), Ok(1));
    /// assert_eq!(rx.recv(), Err(RecvError::Closed));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.end.close();
    }

    /// Prepares to wait by a reactor (epoll, tokio's `AsyncFd`), after [`try_send`](Self::try_send) has found no room: if it
    /// returns true, there is none still for that message, and the descriptor of [`AsFd`] becomes readable when there may be,
    /// or when all receivers are gone. If it returns false, try to send now.
    ///
    /// Wait for readability only: what is read from the descriptor is this crate's own.
    ///
    /// # Examples
    ///
    /// ```
    /// let (tx, rx) = procpool::channel::bounded(1)?;
    /// tx.send(1u8)?;
    /// assert!(tx.try_send(2).is_err() && tx.arm());
    /// rx.recv()?;
    /// assert!(!tx.arm());
    /// tx.try_send(2)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "if it returns false, there is nothing to wait for"]
    pub fn arm(&self) -> bool {
        let Some(words) = self.end.shared().words() else { return false };
        arm(&self.end, words, self.end.wanted(), Wait::Not) == Ok(true)
    }
}

counts!(Sender);

/// A message for the ring.
struct Parts<'a> {
    kind: Kind,
    bytes: &'a [u8],
    fds: Vec<BorrowedFd<'a>>,
}

impl Parts<'_> {
    /// How much of the ring it takes.
    #[inline]
    fn record_len(&self) -> u64 {
        record_len(self.head_and_number().0.len)
    }

    /// The head of its record, and how many bytes of that are the number of the attachment.
    #[inline]
    fn head_and_number(&self) -> (Head, usize) {
        let number_len = if self.kind == Kind::Inline { 0 } else { NUMBER_LEN };
        (Head { len: number_len + self.bytes.len(), kind: self.kind }, number_len)
    }
}

/// Sends an encoded message.
fn send(end: &End, message: &Encoded<'_>, wait: Wait) -> Result<(), NotSent> {
    let words = end.shared().words().ok_or_else(|| NotSent::Broken(FORKED.to_owned()))?;
    if end.is_broken() {
        return Err(nonsense(end));
    }
    if end.has_reason_to_ask(words) && end.is_hung_up() {
        return Err(gone(words));
    }
    let carried = &message.carried;
    match &message.bytes {
        EncodedBytes::Inline(bytes) if carried.is_empty() => {
            send_parts(end, words, &Parts { kind: Kind::Inline, bytes, fds: Vec::new() }, wait)
        }
        EncodedBytes::Inline(bytes) => {
            let fds = carried.borrowed().collect();
            send_parts(end, words, &Parts { kind: Kind::Carrying, bytes, fds }, wait)
        }
        EncodedBytes::File(blob) => {
            let file = blob.to_fd().map_err(|error| NotSent::Encode(format!("no file takes its bytes: {error}")))?;
            let fds = [file.as_fd()].into_iter().chain(carried.borrowed()).collect();
            send_parts(end, words, &Parts { kind: Kind::File, bytes: &[], fds }, wait)
        }
    }
}

fn send_parts(end: &End, words: Words<'_>, parts: &Parts<'_>, wait: Wait) -> Result<(), NotSent> {
    loop {
        let woken = match try_put(end, words, parts, wait)? {
            Attempt::Sent => return Ok(()),
            Attempt::NoRoom | Attempt::NoRoomForAttachment if wait.is_over() => Woken::TimedOut,
            Attempt::NoRoom => wait_for_room(end, words, parts.record_len(), wait)?,
            Attempt::NoRoomForAttachment => end.sleep_for_attachments(wait),
        };
        match woken {
            Woken::Maybe => {}
            Woken::HungUp => return Err(gone(words)),
            Woken::TimedOut if end.is_hung_up() => return Err(gone(words)),
            Woken::TimedOut => {
                end.want(parts.record_len());
                return Err(NotSent::Full);
            }
        }
    }
}

/// One attempt, under the senders' latch.
fn try_put(end: &End, words: Words<'_>, parts: &Parts<'_>, wait: Wait) -> Result<Attempt, NotSent> {
    let shared = end.shared();
    let (head, number_len) = parts.head_and_number();
    let len = record_len(head.len);
    let _held = words.hold_senders(wait).ok_or(NotSent::Full)?;
    if words.is_closed() {
        end.wake_all();
        return Err(NotSent::Closed);
    }
    // The tail is this side's own: the latch has ordered its stores before this.
    let tail = words.tail();
    let used = shared.used(tail, words.head()).ok_or_else(|| nonsense(end))?;
    if !shared.has_room(used, len) {
        return Ok(Attempt::NoRoom);
    }
    let number = match parts.kind {
        Kind::Inline => 0,
        Kind::File | Kind::Carrying => match attach(end, words, &parts.fds)? {
            Some(number) => number,
            None => return Ok(Attempt::NoRoomForAttachment),
        },
    };
    // Wake first, publish last: see `gate`.
    end.item_gate(words).wake();
    let ring_len = shared.ring_len;
    words.put(ring_len, tail, 0, &head.to_bytes());
    if number_len > 0 {
        words.put(ring_len, tail, HEAD_LEN as u64, &number.to_le_bytes());
    }
    words.put(ring_len, tail, (HEAD_LEN + number_len) as u64, parts.bytes);
    failpoint::pass("channel_written");
    words.publish_tail(tail.behind_message(len));
    failpoint::pass("channel_sent");
    Ok(Attempt::Sent)
}

/// Sends the descriptors of a message, before its record. Returns their number; `None` if there is no room.
fn attach(end: &End, words: Words<'_>, fds: &[BorrowedFd<'_>]) -> Result<Option<u64>, NotSent> {
    let number = words.attachments().load(Ordering::Relaxed).wrapping_add(1);
    // Before it is sent: the number of a sender that dies is not used again.
    words.attachments().store(number, Ordering::Relaxed);
    failpoint::pass("channel_numbered");
    let sent = attachments::send(&end.attachments, number, fds);
    failpoint::pass("channel_attached");
    match sent.map_err(|error| NotSent::Encode(format!("its descriptors cannot be sent: {error}")))? {
        Sent::Done => Ok(Some(number)),
        Sent::NoRoom => Ok(None),
        Sent::Gone => Err(NotSent::Disconnected),
    }
}

/// Waits until there may be room for a record of so many bytes.
fn wait_for_room(end: &End, words: Words<'_>, len: u64, wait: Wait) -> Result<Woken, NotSent> {
    let shared = end.shared();
    let may_go_on =
        || words.is_closed() || shared.used(words.tail(), words.head()).is_none_or(|used| shared.has_room(used, len));
    // As a receiver that waits for a message.
    if (!words.is_receiving() && end.spin(may_go_on)) || !arm(end, words, len, wait)? {
        return Ok(Woken::Maybe);
    }
    Ok(end.sleep(wait))
}

/// Prepares to sleep until there is room. Returns whether there is a reason to.
fn arm(end: &End, words: Words<'_>, len: u64, wait: Wait) -> Result<bool, NotSent> {
    let shared = end.shared();
    let _held = words.hold_receivers(wait).ok_or(NotSent::Full)?;
    // The head is fixed under this latch; the tail may move on, which makes no room.
    let used = shared.used(words.tail(), words.head()).ok_or_else(|| nonsense(end))?;
    if words.is_closed() || shared.has_room(used, len) {
        return Ok(false);
    }
    end.room_gate(words).arm();
    Ok(true)
}

/// Why both sides were woken for good.
fn gone(words: Words<'_>) -> NotSent {
    if words.is_closed() { NotSent::Closed } else { NotSent::Disconnected }
}

fn nonsense(end: &End) -> NotSent {
    end.mark_broken();
    NotSent::Broken(NONSENSE.to_owned())
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { end: Arc::clone(&self.end), values: PhantomData }
    }
}

/// For [`arm`](Sender::arm).
impl<T> AsFd for Sender<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.tokens.as_fd()
    }
}

/// As [`AsFd`], for tokio's `AsyncFd`. Clones have the same descriptor, which a reactor takes once.
impl<T> AsRawFd for Sender<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<T> Waitable for Sender<T> {
    fn turn<'a>(&'a self, _: &Bell) -> io::Result<Turn<'a>> {
        // There may be something now, or there will be nothing any more.
        let has_come = !self.arm() || self.end.is_hung_up();
        Ok(if has_come { Turn::Come } else { Turn::AskWhenReadable(self.as_fd()) })
    }
}

/// Anywhere inside a value that procpool sends; see [channels](crate::channel#ends-travel).
impl<T> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.end.serialize(serializer)
    }
}

impl<'de, T: 'static> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let end = End::deserialize::<Self, D>(signature_of::<T>(), Side::Senders, deserializer)?;
        Ok(Self { end, values: PhantomData })
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("len", &self.len()).field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}
