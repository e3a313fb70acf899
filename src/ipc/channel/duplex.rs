//! Two channels, one in each direction.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use super::error::RecvError;
use super::error::SendError;
use super::open::Options;
use super::receiver::Receiver;
use super::sender::Sender;
use crate::ipc::wait::Bell;
use crate::ipc::wait::Turn;
use crate::ipc::wait::Waitable;
use crate::work::task::Data;

/// One end of a [`duplex`] channel: sends `S`, receives `R`. It is no more than its two parts, and travels
/// as they do.
///
/// Also called: a connection (`multiprocessing.Pipe`).
///
/// # Examples
///
/// ```
/// let (here, there) = procpool::channel::duplex::<String, usize>(16)?;
/// let counter = std::thread::spawn(move || {
///     while let Ok(text) = there.recv() {
///         there.send(text.len()).ok();
///     }
/// });
/// here.send("four".to_owned())?;
/// assert_eq!(here.recv()?, 4);
/// drop(here);
/// # counter.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Duplex<S: 'static, R: 'static> {
    /// Sends to the other end.
    pub tx: Sender<S>,
    /// Receives from the other end.
    pub rx: Receiver<R>,
}

/// A channel in each direction, with `messages` messages in each at most.
///
/// # Errors
///
/// As for [`bounded`](crate::channel::bounded).
///
/// # Examples
///
/// See [`Duplex`].
pub fn duplex<A: Data, B: Data>(messages: usize) -> io::Result<(Duplex<A, B>, Duplex<B, A>)> {
    let (to_there, from_here) = Options::new(messages).open()?;
    let (to_here, from_there) = Options::new(messages).open()?;
    Ok((Duplex { tx: to_there, rx: from_there }, Duplex { tx: to_here, rx: from_here }))
}

impl<S: Data, R: Data> Duplex<S, R> {
    /// Sends a message: [`Sender::send`].
    ///
    /// # Errors
    ///
    /// As for [`Sender::send`].
    ///
    /// # Examples
    ///
    /// See [`Duplex`].
    pub fn send(&self, value: S) -> Result<(), SendError<S>> {
        self.tx.send(value)
    }

    /// The next message: [`Receiver::recv`].
    ///
    /// # Errors
    ///
    /// As for [`Receiver::recv`].
    ///
    /// # Examples
    ///
    /// See [`Duplex`].
    pub fn recv(&self) -> Result<R, RecvError> {
        self.rx.recv()
    }

    /// The next message, if there is one within `timeout`: [`Receiver::recv_timeout`].
    ///
    /// # Errors
    ///
    /// As for [`Receiver::recv_timeout`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (here, _there) = procpool::channel::duplex::<u8, u8>(1)?;
    /// assert_eq!(here.recv_timeout(Duration::from_millis(1))?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<R>, RecvError> {
        self.rx.recv_timeout(timeout)
    }
}

impl<S: 'static, R: 'static> Waitable for Duplex<S, R> {
    fn turn<'a>(&'a self, bell: &Bell) -> io::Result<Turn<'a>> {
        self.rx.turn(bell)
    }
}
