//! An event: set or not, and any number of threads that wait until it is set.
//!
//! All threads that wait, wait for the same: that the word is 1. So one that finds it 0 may take all tokens out of the gate.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use super::error::LockError;
use super::object::Object;
use super::object::Words;
use super::waiting;
use super::waiting::Turn;
use crate::ipc::deadline::Wait;
use crate::ipc::segment::Kind;

/// Whether it is set: 0 or 1.
const STATE: usize = 0;

/// An event between processes: it is set or not, and threads wait until it is set.
///
/// No process holds anything, so a death costs nothing. Everything that a process has done before [`set`](Self::set) is seen
/// by those that [`wait`](Self::wait) has let through. It travels anywhere inside a value, as a [`Lock`](crate::sync::Lock)
/// does.
///
/// A thread that waits may miss an event that is cleared as soon as it is set, as in Python's `multiprocessing.Event`.
///
/// # Examples
///
/// ```
/// use procpool::Pool;
/// use procpool::sync::Event;
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(1)?;
///     let go = Event::new()?;
///     let result = pool.apply_async((go.clone(),), |go: Event| -> anyhow::Result<u32> {
///         go.wait()?;
///         Ok(42)
///     });
///     go.set()?;
///     assert_eq!(result.get()?, 42);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Event {
    object: Arc<Object>,
}

fn state(words: Words<'_>) -> &AtomicU64 {
    words.word(STATE)
}

/// Acquire: pairs with `set`.
fn load(words: Words<'_>) -> u64 {
    state(words).load(Ordering::Acquire)
}

impl Event {
    /// A new event, which is not set.
    ///
    /// # Errors
    ///
    /// No descriptor is left, or not enough memory.
    ///
    /// # Examples
    ///
    /// ```
    /// let event = procpool::sync::Event::new()?;
    /// assert!(!event.is_set()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new() -> io::Result<Self> {
        Ok(Self { object: Object::create(Kind::Event, 0, 0)? })
    }

    /// Sets the event, and lets through all that wait. It may be set already.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let event = procpool::sync::Event::new()?;
    /// event.set()?;
    /// event.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set(&self) -> Result<(), LockError> {
        self.change(1)
    }

    /// Ends that the event is set.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let event = procpool::sync::Event::new()?;
    /// event.set()?;
    /// event.clear()?;
    /// assert!(!event.is_set()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear(&self) -> Result<(), LockError> {
        self.change(0)
    }

    fn change(&self, new: u64) -> Result<(), LockError> {
        let words = self.object.words()?;
        // A latch that cannot be had is waited for.
        let _held = words.hold(Wait::Forever);
        if load(words) != new {
            words.wake();
            // Release: pairs with `load`.
            state(words).store(new, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the event is set.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`clear`](Self::clear).
    pub fn is_set(&self) -> Result<bool, LockError> {
        Ok(load(self.object.words()?) == 1)
    }

    /// Waits until the event is set.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`Event`].
    pub fn wait(&self) -> Result<(), LockError> {
        while !self.wait_within(Wait::Forever)? {}
        Ok(())
    }

    /// As [`wait`](Self::wait), but not longer than `timeout`. Returns whether it was set.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let event = procpool::sync::Event::new()?;
    /// assert!(!event.wait_timeout(Duration::from_millis(1))?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, LockError> {
        self.wait_within(Wait::at_most(timeout))
    }

    fn wait_within(&self, wait: Wait) -> Result<bool, LockError> {
        if self.is_set()? {
            return Ok(true);
        }
        let attempt = |words: Words<'_>| match load(words) {
            1 => Ok(Turn::Come(())),
            _ => Ok(Turn::Busy(Vec::new())),
        };
        Ok(waiting::wait(&self.object, wait, attempt, |_, _, _| ())?.is_some())
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { object: Object::deserialize::<Self, D>(deserializer, Kind::Event, 0)? })
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").finish_non_exhaustive()
    }
}
