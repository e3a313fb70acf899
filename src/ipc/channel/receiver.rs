//! The receiving end.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use super::attachments;
use super::attachments::Taken;
use super::counts::counts;
use super::end::End;
use super::end::Side;
use super::end::Woken;
use super::end::shared_fds;
use super::error::FORKED;
use super::error::NONSENSE;
use super::error::RecvError;
use super::message;
use super::message::Arrived;
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

/// The receiving end of a [channel](crate::channel).
///
/// Clones, and the receivers that other processes have, take messages from the same channel: each message goes to one of
/// them. When the last one is gone, in all processes and however they ended, the senders are told.
///
/// A loop over a receiver ends when all senders are gone. So drop the sender that this process does not need itself: as
/// long as it exists, the loop waits.
///
/// Also called: the reading end of a queue or pipe (`multiprocessing.Queue.get`, `Connection.recv`).
///
/// # Examples
///
/// ```
/// let (tx, rx) = procpool::channel::bounded(16)?;
/// let sender = std::thread::spawn(move || (0..100u64).try_for_each(|i| tx.send(i)));
/// let mut sum = 0;
/// for message in &rx {
///     sum += message?;
/// }
/// assert_eq!(sum, 4950);
/// # sender.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Receiver<T> {
    end: Arc<End>,
    /// A receiver holds no `T`, so it is `Send` and `Sync` whatever `T` is.
    values: PhantomData<fn(T) -> T>,
}

impl<T: Data> Receiver<T> {
    pub(super) fn new(end: End) -> Self {
        Self { end: Arc::new(end), values: PhantomData }
    }

    /// The next message. Waits until there is one.
    ///
    /// # Errors
    ///
    /// - [`RecvError::Disconnected`] or [`RecvError::Closed`], when no message is left.
    /// - [`RecvError::Decode`]: this message is lost, others are not.
    /// - [`RecvError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let (tx, rx) = procpool::channel::bounded(4)?;
    /// tx.send(vec![1u8, 2])?;
    /// assert_eq!(rx.recv()?, [1, 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv(&self) -> Result<T, RecvError> {
        // A wait without an end does not time out.
        loop {
            if let Some(message) = self.recv_within(Wait::Forever)? {
                return Ok(message);
            }
        }
    }

    /// The next message, if there is one now. Where a process was stopped in the midst of a call on this channel, it gives
    /// up after a few milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Examples
    ///
    /// ```
    /// let (tx, rx) = procpool::channel::bounded(4)?;
    /// assert_eq!(rx.try_recv()?, None);
    /// tx.send(1u8)?;
    /// assert_eq!(rx.try_recv()?, Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_recv(&self) -> Result<Option<T>, RecvError> {
        self.recv_within(Wait::Not)
    }

    /// The next message, if there is one within `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (_tx, rx) = procpool::channel::bounded::<u8>(4)?;
    /// assert_eq!(rx.recv_timeout(Duration::from_millis(1))?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<T>, RecvError> {
        self.recv_within(Wait::at_most(timeout))
    }

    fn recv_within(&self, wait: Wait) -> Result<Option<T>, RecvError> {
        recv(&self.end, wait)?.map(|arrived| arrived.decode(self.end.files.cache())).transpose()
    }

    /// An iterator over the messages, which waits for each. It ends when all senders are gone or the channel is closed, and
    /// after [`RecvError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let (tx, rx) = procpool::channel::bounded(4)?;
    /// tx.send(1u8)?;
    /// tx.send(2)?;
    /// drop(tx);
    /// let all: Vec<u8> = rx.iter().collect::<Result<_, _>>()?;
    /// assert_eq!(all, [1, 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { receiver: self, wait: Wait::Forever, is_over: false }
    }

    /// As [`iter`](Self::iter), but it waits for no message: it ends when there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// let (tx, rx) = procpool::channel::bounded(4)?;
    /// tx.send(1u8)?;
    /// assert_eq!(rx.try_iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_iter(&self) -> Iter<'_, T> {
        Iter { receiver: self, wait: Wait::Not, is_over: false }
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
    /// `InvalidData` if they are not those of a receiver of `T`; otherwise the error of a system call.
    #[doc(hidden)]
    pub fn from_fds(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let end = End::from_fds(signature_of::<T>(), Side::Receivers, shared_fds(fds)?)?;
        Ok(Self { end: Arc::new(end), values: PhantomData })
    }
}

impl<T> Receiver<T> {
    /// Ends the channel for all ends in all processes: see [`Sender::close`](crate::channel::Sender::close).
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::channel::{self, SendError};
    ///
    /// let (tx, rx) = channel::bounded::<u8>(4)?;
    /// rx.close();
    /// assert!(matches!(tx.send(1), Err(SendError::Closed(1))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.end.close();
    }

    /// Prepares to wait for a message by a reactor (epoll, tokio's `AsyncFd`): if it returns true, there is no message, and
    /// the descriptor of [`AsFd`] becomes readable when there may be one, or when all senders are gone. If it returns
    /// false, try to receive now.
    ///
    /// Wait for readability only: what is read from the descriptor is this crate's own.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::fd::AsFd;
    ///
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    ///
    /// let (tx, rx) = procpool::channel::bounded(4)?;
    /// let sender = std::thread::spawn(move || tx.send(7u8));
    /// let received = loop {
    ///     if let Some(message) = rx.try_recv()? {
    ///         break message;
    ///     }
    ///     if rx.arm() {
    ///         // A reactor would do this for many descriptors at once.
    ///         poll(&mut [PollFd::new(rx.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    ///     }
    /// };
    /// assert_eq!(received, 7);
    /// # sender.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "if it returns false, there is nothing to wait for"]
    pub fn arm(&self) -> bool {
        let Some(words) = self.end.shared().words() else { return false };
        arm(&self.end, words, Wait::Not) == Ok(Some(true))
    }
}

counts!(Receiver);

/// The next message; `None` if the wait is over first.
fn recv(end: &End, wait: Wait) -> Result<Option<Arrived>, RecvError> {
    let words = end.shared().words().ok_or_else(|| RecvError::Broken { message: FORKED.to_owned() })?;
    if end.is_broken() {
        return Err(nonsense(end));
    }
    let mut are_senders_gone = false;
    loop {
        // Before the ring: no message follows, so if the ring is empty now, it stays empty.
        let is_closed = words.is_closed();
        match take(end, words, wait)? {
            Attempt::Taken(arrived) => return Ok(Some(arrived)),
            Attempt::TimedOut => return Ok(None),
            Attempt::Empty if is_closed => {
                end.wake_all();
                return Err(RecvError::Closed);
            }
            Attempt::Empty if are_senders_gone => return Err(RecvError::Disconnected),
            Attempt::Empty => {}
        }
        match wait_for_message(end, words, wait)? {
            Woken::Maybe => {}
            // Once more: the last message may have come in between.
            Woken::HungUp => are_senders_gone = true,
            Woken::TimedOut => return Ok(None),
        }
    }
}

fn wait_for_message(end: &End, words: Words<'_>, wait: Wait) -> Result<Woken, RecvError> {
    if wait.is_over() {
        return Ok(if end.is_hung_up() { Woken::HungUp } else { Woken::TimedOut });
    }
    // A sender wakes first and publishes last. If it holds the latch now, the kernel may have put this thread in its place, on
    // its processor: to spin would keep it from publishing. To wait for the latch lets it.
    if !words.is_sending() && end.spin(|| words.is_closed() || !words.is_empty()) {
        return Ok(Woken::Maybe);
    }
    match arm(end, words, wait)? {
        None => Ok(Woken::TimedOut),
        Some(true) => Ok(end.sleep(wait)),
        Some(false) => Ok(Woken::Maybe),
    }
}

/// What became of one attempt to take a message.
#[derive(Debug)]
enum Attempt {
    Taken(Arrived),
    Empty,
    /// The latch is held by a process that is stopped.
    TimedOut,
}

/// Takes the first message.
fn take(end: &End, words: Words<'_>, wait: Wait) -> Result<Attempt, RecvError> {
    // Without the latch: most looks of a receiver that waits end here.
    if words.is_empty() {
        return Ok(Attempt::Empty);
    }
    let Some(_held) = words.hold_receivers(wait) else { return Ok(Attempt::TimedOut) };
    loop {
        match take_record(end, words)? {
            Some(Some(arrived)) => return Ok(Attempt::Taken(arrived)),
            None => return Ok(Attempt::Empty),
            // A receiver died with its attachment: the next.
            Some(None) => {}
        }
    }
}

/// Takes one record, under the receivers' latch. `None`: there is none. `Some(None)`: its message is lost.
fn take_record(end: &End, words: Words<'_>) -> Result<Option<Option<Arrived>>, RecvError> {
    let shared = end.shared();
    // The head is this side's own: the latch has ordered its stores before this.
    let head = words.head();
    let used = shared.used(words.tail(), head).ok_or_else(|| nonsense(end))?;
    if used.messages == 0 {
        return Ok(None);
    }
    let record = Head::parse(words.record_head(shared.ring_len, head), used).ok_or_else(|| nonsense(end))?;
    let mut bytes = message::memory();
    words.copy_out(shared.ring_len, head, HEAD_LEN as u64, record.len, &mut bytes);
    failpoint::pass("channel_copied");
    let arrived = match record.kind {
        Kind::Inline => Some(Arrived::Inline(bytes)),
        Kind::File | Kind::Carrying => take_attached(end, record.kind, bytes),
    };
    failpoint::pass("channel_detached");
    // Wake first, publish last: see `gate`.
    end.room_gate(words).wake();
    words.publish_head(head.behind_message(record_len(record.len)));
    failpoint::pass("channel_taken");
    Ok(Some(arrived))
}

/// Takes the descriptors whose number `bytes` begin with. `None`: a receiver has died with them.
fn take_attached(end: &End, kind: Kind, bytes: Vec<u8>) -> Option<Arrived> {
    let number = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).expect("the head was checked");
    match attachments::take(&end.attachments, number) {
        Taken::Here(fds) if kind == Kind::Carrying => Some(Arrived::Carrying(bytes, NUMBER_LEN, fds)),
        Taken::Here(mut fds) => {
            // One without descriptors is of a process that does not keep to the protocol.
            let carried = fds.split_off(fds.len().min(1));
            fds.pop().map(|file| Arrived::File(file, carried))
        }
        Taken::Gone => None,
        Taken::TableFull => Some(Arrived::TableFull),
    }
}

/// Prepares to sleep until there is a message. Returns whether there is a reason to; `None` if the wait is over first.
fn arm(end: &End, words: Words<'_>, wait: Wait) -> Result<Option<bool>, RecvError> {
    let Some(_held) = words.hold_senders(wait) else { return Ok(None) };
    // The tail is fixed under this latch; the head may move on, up to it.
    let used = end.shared().used(words.tail(), words.head()).ok_or_else(|| nonsense(end))?;
    if words.is_closed() || used.messages != 0 {
        return Ok(Some(false));
    }
    // What is left there is of senders that died before they published. Nothing else can be: senders are kept out by the
    // latch, and a receiver that takes an attachment removes its record later.
    if end.may_have_orphans(words) {
        attachments::discard(&end.attachments);
    }
    end.item_gate(words).arm();
    Ok(Some(true))
}

fn nonsense(end: &End) -> RecvError {
    end.mark_broken();
    RecvError::Broken { message: NONSENSE.to_owned() }
}

/// The messages of a channel; see [`Receiver::iter`] and [`Receiver::try_iter`].
///
/// # Examples
///
/// ```
/// let (tx, rx) = procpool::channel::bounded(4)?;
/// tx.send("one".to_owned())?;
/// drop(tx);
/// let mut messages = rx.iter();
/// assert_eq!(messages.next(), Some(Ok("one".to_owned())));
/// assert_eq!(messages.next(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Iter<'a, T> {
    receiver: &'a Receiver<T>,
    wait: Wait,
    is_over: bool,
}

impl<T: Data> Iterator for Iter<'_, T> {
    type Item = Result<T, RecvError>;

    fn next(&mut self) -> Option<Self::Item> {
        next(self.receiver, self.wait, &mut self.is_over)
    }
}

/// The messages of a channel, with its receiver.
///
/// # Examples
///
/// ```
/// let (tx, rx) = procpool::channel::bounded(4)?;
/// tx.send(1u8)?;
/// drop(tx);
/// assert_eq!(rx.into_iter().collect::<Result<Vec<_>, _>>()?, [1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct IntoIter<T> {
    receiver: Receiver<T>,
    is_over: bool,
}

impl<T: Data> Iterator for IntoIter<T> {
    type Item = Result<T, RecvError>;

    fn next(&mut self) -> Option<Self::Item> {
        next(&self.receiver, Wait::Forever, &mut self.is_over)
    }
}

fn next<T: Data>(receiver: &Receiver<T>, wait: Wait, is_over: &mut bool) -> Option<Result<T, RecvError>> {
    if *is_over {
        return None;
    }
    match receiver.recv_within(wait).transpose() {
        Some(Err(RecvError::Disconnected | RecvError::Closed)) | None => {
            *is_over = true;
            None
        }
        Some(Err(error @ RecvError::Broken { .. })) => {
            *is_over = true;
            Some(Err(error))
        }
        message => message,
    }
}

impl<'a, T: Data> IntoIterator for &'a Receiver<T> {
    type Item = Result<T, RecvError>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T: Data> IntoIterator for Receiver<T> {
    type Item = Result<T, RecvError>;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter { receiver: self, is_over: false }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { end: Arc::clone(&self.end), values: PhantomData }
    }
}

/// For [`arm`](Receiver::arm).
impl<T> AsFd for Receiver<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.tokens.as_fd()
    }
}

/// As [`AsFd`], for tokio's `AsyncFd`. Clones have the same descriptor, which a reactor takes once.
impl<T> AsRawFd for Receiver<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<T> Waitable for Receiver<T> {
    fn turn<'a>(&'a self, _: &Bell) -> io::Result<Turn<'a>> {
        // There may be something now, or there will be nothing any more.
        let has_come = !self.arm() || self.end.is_hung_up();
        Ok(if has_come { Turn::Come } else { Turn::AskWhenReadable(self.as_fd()) })
    }
}

/// Anywhere inside a value that procpool sends; see [channels](crate::channel#ends-travel).
impl<T> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.end.serialize(serializer)
    }
}

impl<'de, T: 'static> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let end = End::deserialize::<Self, D>(signature_of::<T>(), Side::Receivers, deserializer)?;
        Ok(Self { end, values: PhantomData })
    }
}

/// With a hint at what keeps a loop over it from ending.
impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}
