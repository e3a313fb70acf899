//! The errors of channels.

use std::error::Error;
use std::fmt;

/// Why a message was not sent. It gives the message back.
///
/// # Examples
///
/// ```
/// use procpool::channel::{self, SendError};
///
/// let (tx, rx) = channel::bounded::<String>(1)?;
/// tx.send("first".to_owned())?;
/// match tx.try_send("second".to_owned()) {
///     Err(SendError::Full(text)) => assert_eq!(text, "second"),
///     other => panic!("{other:?}"),
/// }
/// drop(rx);
/// assert!(matches!(tx.send("third".to_owned()), Err(SendError::Disconnected(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError<T> {
    /// There is no room, and the call does not wait, or its time has passed.
    Full(T),
    /// All receivers are gone, in all processes.
    Disconnected(T),
    /// The channel was [closed](crate::channel::Sender::close).
    Closed(T),
    /// The message has no bytes, or no file takes them.
    #[non_exhaustive]
    Encode {
        /// The message.
        value: T,
        /// What its `Serialize` reported, or the error of the file.
        message: String,
    },
    /// The channel cannot be used: a process has written nonsense into it, or this is a forked copy of the process that
    /// has this end.
    #[non_exhaustive]
    Broken {
        /// The message.
        value: T,
        /// What is wrong.
        message: String,
    },
}

impl<T> SendError<T> {
    /// The message that was not sent.
    ///
    /// # Examples
    ///
    /// ```
    /// let (tx, rx) = procpool::channel::bounded::<u64>(1)?;
    /// drop(rx);
    /// assert_eq!(tx.send(7).unwrap_err().into_value(), 7);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_value(self) -> T {
        match self {
            SendError::Full(value) | SendError::Disconnected(value) | SendError::Closed(value) => value,
            SendError::Encode { value, .. } | SendError::Broken { value, .. } => value,
        }
    }
}

/// Without the message, so that `?` takes the error whatever the message is.
impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Full(_) => f.write_str("Full(..)"),
            SendError::Disconnected(_) => f.write_str("Disconnected(..)"),
            SendError::Closed(_) => f.write_str("Closed(..)"),
            SendError::Encode { message, .. } => {
                f.debug_struct("Encode").field("message", message).finish_non_exhaustive()
            }
            SendError::Broken { message, .. } => {
                f.debug_struct("Broken").field("message", message).finish_non_exhaustive()
            }
        }
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Full(_) => f.write_str("the channel is full"),
            SendError::Disconnected(_) => f.write_str("all receivers of the channel are gone"),
            SendError::Closed(_) => f.write_str("the channel is closed"),
            SendError::Encode { message, .. } => write!(f, "the message does not serialize: {message}"),
            SendError::Broken { message, .. } => write!(f, "the channel is broken: {message}"),
        }
    }
}

impl<T> Error for SendError<T> {}

/// Why no message was received.
///
/// # Examples
///
/// ```
/// use procpool::channel::{self, RecvError};
///
/// let (tx, rx) = channel::bounded::<u64>(4)?;
/// tx.send(7)?;
/// drop(tx);
/// assert_eq!(rx.recv(), Ok(7)); // What was sent is still received.
/// assert_eq!(rx.recv(), Err(RecvError::Disconnected));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecvError {
    /// All senders are gone, in all processes, and no message is left.
    Disconnected,
    /// The channel was [closed](crate::channel::Receiver::close), and no message is left.
    Closed,
    /// A message was received that is not a value of this type. Others are unaffected.
    #[non_exhaustive]
    Decode {
        /// What its `Deserialize` reported, or why its bytes could not be read.
        message: String,
    },
    /// The channel cannot be used: a process has written nonsense into it, or this is a forked copy of the process that
    /// has this end.
    #[non_exhaustive]
    Broken {
        /// What is wrong.
        message: String,
    },
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Disconnected => f.write_str("all senders of the channel are gone"),
            RecvError::Closed => f.write_str("the channel is closed"),
            RecvError::Decode { message } => {
                write!(f, "a message was lost, because it does not deserialize: {message}")
            }
            RecvError::Broken { message } => write!(f, "the channel is broken: {message}"),
        }
    }
}

impl Error for RecvError {}

/// Why a message was not sent, without the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    Full,
    Disconnected,
    Closed,
    Encode(String),
    Broken(String),
}

impl NotSent {
    pub(super) fn with<T>(self, value: T) -> SendError<T> {
        match self {
            NotSent::Full => SendError::Full(value),
            NotSent::Disconnected => SendError::Disconnected(value),
            NotSent::Closed => SendError::Closed(value),
            NotSent::Encode(message) => SendError::Encode { value, message },
            NotSent::Broken(message) => SendError::Broken { value, message },
        }
    }
}

pub(super) const NONSENSE: &str = "a process that has the channel has written nonsense into its memory";
pub(super) const FORKED: &str = "this is a forked copy of the process that has this end of the channel; a copy shares \
                                 nothing with it";
