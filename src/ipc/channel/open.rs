//! Making a channel.

use std::io;

use super::end::End;
use super::position::MESSAGES_MAX;
use super::position::RING_MAX;
use super::receiver::Receiver;
use super::sender::Sender;
use super::shared::RING_MIN;
use crate::work::function::signature_of;
use crate::work::task::Data;

/// The length of a ring unless [`Options::bytes`] says otherwise.
const RING_LEN: usize = 64 * 1024;

/// How a channel is made.
///
/// # Examples
///
/// ```
/// use procpool::channel::Options;
///
/// let (tx, rx) = Options::new(1000).bytes(1 << 20).open::<Vec<u64>>()?;
/// # assert_eq!((tx.capacity(), rx.capacity()), (1000, 1000));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    messages: usize,
    bytes: usize,
}

impl Options {
    /// A channel of at most `messages` messages.
    ///
    /// # Examples
    ///
    /// See [`Options`].
    #[must_use]
    pub fn new(messages: usize) -> Self {
        Self { messages, bytes: RING_LEN }
    }

    /// How many bytes of messages the channel may hold, 65536 by default; rounded up to a power of two. A message longer than
    /// 16 KiB, or than a quarter of this, takes 16 bytes here: it travels in a file of its own.
    ///
    /// # Examples
    ///
    /// See [`Options`].
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// The channel.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: no message, more than 1,048,575 messages, or more than 1 GiB.
    /// - Otherwise the error of a system call: no descriptor is left (five are needed), or not enough memory.
    ///
    /// # Examples
    ///
    /// See [`Options`].
    pub fn open<T: Data>(&self) -> io::Result<(Sender<T>, Receiver<T>)> {
        let refused = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        if !(1..=MESSAGES_MAX).contains(&self.messages) {
            let messages = self.messages;
            return refused(format!("a channel holds 1 to {MESSAGES_MAX} messages, not {messages}"));
        }
        if self.bytes > RING_MAX {
            return refused(format!("a channel holds at most {RING_MAX} bytes, not {}", self.bytes));
        }
        let ring_len = self.bytes.max(RING_MIN).next_power_of_two();
        let (sender, receiver) = End::pair(signature_of::<T>(), self.messages, ring_len)?;
        Ok((Sender::new(sender), Receiver::new(receiver)))
    }
}

/// A channel of at most `messages` messages, and at most 64 KiB of them; [`Options`] has more settings.
///
/// # Errors
///
/// As for [`Options::open`].
///
/// # Examples
///
/// ```
/// let (tx, rx) = procpool::channel::bounded(4)?;
/// tx.send("hello".to_owned())?;
/// assert_eq!(rx.recv()?, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn bounded<T: Data>(messages: usize) -> io::Result<(Sender<T>, Receiver<T>)> {
    Options::new(messages).open()
}
