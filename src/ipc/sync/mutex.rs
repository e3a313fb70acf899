//! A mutex with a value in it, which changes as a whole or not at all.
//!
//! ```text
//!     0  holder, died            see `ownership`
//!    24  valid u64               length << 1 | which slot
//!  4096  slot 0 · slot 1         `capacity` bytes each: the encoded value
//! ```
//!
//! The holder decodes the valid slot into a value of its own, and changes that. When it is done it encodes the value into
//! the other slot, and one store makes that the valid one. Only the holder touches the slots, so all this needs no
//! latch but for the last store, with which it releases the mutex. So no reference ever points into shared memory; and a
//! death, a panic or an error at any step leaves the value of the last change that was finished.
//!
//! | step | a death behind it |
//! |---|---|
//! | decoded, changed, encoded, written to the other slot | the change is not there |
//! | *valid* | the change is there; the next holder is told of the death |
//! | *holder* = none | the same, and no death with the lock |

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ops::DerefMut;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use super::condvar::Condvar;
use super::error::LockError;
use super::holders;
use super::object::Object;
use super::object::Words;
use super::ownership::AfterDeath;
use super::ownership::Attempt;
use super::ownership::Ownership;
use super::waiting;
use super::waiting::Turn;
use crate::ipc::deadline::Wait;
use crate::ipc::segment::Kind;
use crate::sys::failpoint;
use crate::values::blob::INLINE_MAX;
use crate::values::codec;
use crate::values::output::Output;
use crate::work::function::signature_of;
use crate::work::task::Data;

/// The holder: two words.
const LEASE: usize = 0;
const DIED: usize = 16;
const VALID: usize = 24;
/// The least capacity of `Mutex::new`.
const CAPACITY_MIN: usize = 4096;

/// A value that processes share and change, one at a time: any type that serializes, in place of Python's `Value`, and of
/// `Manager().dict()`, `list()` and `Namespace()`.
///
/// A change is kept as a whole or not at all. If the holder dies or panics, or the changed value does not serialize, the
/// value is the one before; the next holder [is told](MutexGuard::owner_died) of a death.
///
/// `lock` decodes the value and dropping the guard encodes it, if it was changed through the guard (`&mut`; a change by
/// interior mutability alone is not kept). That takes microseconds for some kilobytes; for a map of millions of entries, let
/// one process own the map and send it requests over a [`channel`](crate::channel).
///
/// It travels anywhere inside a value: an argument, a result, a [context](crate::Pool::with), an argument of an
/// [initializer](crate::PoolBuilder::initializer), a message of a channel. Clones and what arrives elsewhere are the same
/// mutex. It has three descriptors in each process. The value itself cannot hold descriptors: handles, files and sockets stay
/// outside.
///
/// A guard belongs to the thread that has it. A thread that locks what it holds gets an error and does not hang. Which of
/// several waiting threads comes next is not determined.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
///
/// use procpool::Pool;
/// use procpool::sync::Mutex;
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     let counts = Mutex::new(BTreeMap::<String, u32>::new())?;
///     let words = ["to", "be", "or", "not", "to", "be"].map(str::to_owned);
///     pool.with(&counts).map(words, |counts, word| -> anyhow::Result<()> {
///         *counts.lock()?.entry(word).or_default() += 1;
///         Ok(())
///     })?;
///     assert_eq!(counts.lock()?["be"], 2);
///     Ok(())
/// }
/// ```
#[doc(alias = "Value")]
#[doc(alias = "Manager")]
pub struct Mutex<T: Data> {
    object: Arc<Object>,
    /// A mutex holds no `T`, so it is `Send` and `Sync` whatever `T` is.
    values: PhantomData<fn(T) -> T>,
}

/// The value of a [`Mutex`], which this thread holds until this is dropped. Then what was changed is kept.
///
/// # Examples
///
/// See [`Mutex`].
#[must_use = "dropping it releases the mutex"]
pub struct MutexGuard<'a, T: Data> {
    mutex: &'a Mutex<T>,
    value: T,
    died: Option<u32>,
    is_changed: bool,
    /// False after an error of `wait`.
    is_held: bool,
    /// A guard that is made while its thread unwinds is not dropped because of that panic.
    was_panicking: bool,
    /// It belongs to its thread.
    thread: PhantomData<*const ()>,
}

fn ownership(words: Words<'_>) -> Ownership<'_, AtomicU64> {
    Ownership { place: words.lease(LEASE), died: words.word(DIED) }
}

/// The encoded value, in memory.
fn encode<T: Data>(value: &T, capacity: Option<usize>) -> Result<Vec<u8>, LockError> {
    let refused = |message: String| Err(LockError::Encode { message });
    let mut output = Output::default();
    codec::encode(value, &mut output).map_err(|message| LockError::Encode { message })?;
    if output.carries() {
        return refused("it has descriptors, which cannot be kept in memory: pass them beside the mutex".to_owned());
    }
    let len = output.len();
    if let Some(capacity) = capacity.filter(|capacity| len > *capacity as u64) {
        return refused(format!(
            "it has {len} bytes, and the mutex room for {capacity}: make it by `Mutex::with_capacity`"
        ));
    }
    if len <= INLINE_MAX as u64 {
        return Ok(output.bytes().to_vec());
    }
    let blob = output.take_blob().and_then(|blob| blob.read());
    blob.map(|bytes| bytes.to_vec()).or_else(|error| refused(error.to_string()))
}

impl<T: Data> Mutex<T> {
    /// A new mutex with this value. It has room for values of four times the length, encoded, and at least for 4096 bytes.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: the value does not serialize.
    /// - Otherwise: no descriptor is left, or not enough memory.
    ///
    /// # Examples
    ///
    /// ```
    /// let total = procpool::sync::Mutex::new(1.5)?;
    /// *total.lock()? += 1.0;
    /// assert_eq!(*total.lock()?, 2.5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(value: T) -> io::Result<Self> {
        Self::with_room(&value, |len| len.saturating_mul(4).max(CAPACITY_MIN))
    }

    /// A new mutex with this value, and room for values of up to `bytes`, encoded. It takes twice as much memory.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); `InvalidInput` also if the value has no room.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::sync::{LockError, Mutex};
    ///
    /// let texts = Mutex::with_capacity(Vec::<String>::new(), 10_000)?;
    /// let mut guard = texts.lock()?;
    /// guard.push("x".repeat(20_000));
    /// assert!(matches!(guard.commit(), Err(LockError::Encode { .. })));
    /// assert!(texts.lock()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_capacity(value: T, bytes: usize) -> io::Result<Self> {
        Self::with_room(&value, |_| bytes)
    }

    fn with_room(value: &T, capacity: impl FnOnce(usize) -> usize) -> io::Result<Self> {
        let invalid = |error: LockError| io::Error::new(io::ErrorKind::InvalidInput, error);
        let bytes = encode(value, None).map_err(invalid)?;
        let capacity = capacity(bytes.len());
        if bytes.len() > capacity {
            let message = format!("the value has {} bytes, and the mutex room for {capacity}", bytes.len());
            return Err(invalid(LockError::Encode { message }));
        }
        let len = capacity.checked_mul(2).ok_or(io::ErrorKind::OutOfMemory)?;
        let mutex = Self { object: Object::create(Kind::Mutex, signature_of::<T>(), len)?, values: PhantomData };
        if let Ok(words) = mutex.object.words() {
            words.view.put(0, &bytes);
            // Relaxed: the memory is sent by a system call later.
            words.word(VALID).store((bytes.len() as u64) << 1, Ordering::Relaxed);
        }
        Ok(mutex)
    }

    fn capacity(&self) -> usize {
        self.object.bytes_len() / 2
    }

    /// Takes the mutex, and decodes its value. Waits until it is free.
    ///
    /// # Errors
    ///
    /// - [`LockError::HeldByThisThread`].
    /// - [`LockError::Decode`]: the value is as it was, and the mutex is free.
    /// - [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`Mutex`].
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, LockError> {
        // A wait without an end does not time out.
        loop {
            if let Some(guard) = self.take(Wait::Forever)? {
                return Ok(guard);
            }
        }
    }

    /// Takes the mutex if it is free. It waits for no holder; where a process was stopped in the midst of a call on this mutex,
    /// it gives up after a few milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock).
    ///
    /// # Examples
    ///
    /// ```
    /// let mutex = procpool::sync::Mutex::new(7)?;
    /// assert_eq!(mutex.try_lock()?.map(|guard| *guard), Some(7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_lock(&self) -> Result<Option<MutexGuard<'_, T>>, LockError> {
        self.take(Wait::Not)
    }

    /// Takes the mutex. Waits until it is free, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let mutex = procpool::sync::Mutex::new("a".to_owned())?;
    /// if let Some(mut guard) = mutex.lock_timeout(Duration::from_secs(1))? {
    ///     guard.push('b');
    /// }
    /// assert_eq!(*mutex.lock()?, "ab");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<MutexGuard<'_, T>>, LockError> {
        self.take(Wait::at_most(timeout))
    }

    fn take(&self, wait: Wait) -> Result<Option<MutexGuard<'_, T>>, LockError> {
        let Some(died) = self.hold(wait)? else { return Ok(None) };
        match self.read() {
            Ok(value) => Ok(Some(MutexGuard {
                mutex: self,
                value,
                died,
                is_changed: false,
                is_held: true,
                was_panicking: thread::panicking(),
                thread: PhantomData,
            })),
            Err(error) => {
                self.release(None);
                Err(error)
            }
        }
    }

    /// Becomes the holder. Returns who has died with the mutex before.
    fn hold(&self, wait: Wait) -> Result<Option<Option<u32>>, LockError> {
        let me = holders::me();
        let attempt = |words: Words<'_>| match ownership(words).take(me, AfterDeath::Tell, failpoint::pass) {
            Attempt::Taken { died } => Ok(Turn::Come(died)),
            Attempt::Own(_) => Err(LockError::HeldByThisThread),
            Attempt::Busy(lease) => Ok(Turn::Busy(vec![(0, lease)])),
            // Only after `AfterDeath::Refuse`.
            Attempt::Refused { died } => Err(LockError::OwnerDied { pid: died }),
        };
        waiting::wait(&self.object, wait, attempt, |words, _, lease| {
            ownership(words).evict(lease, || words.wake(), failpoint::pass);
        })
    }

    /// The value, as the holder.
    fn read(&self) -> Result<T, LockError> {
        let words = self.object.words()?;
        // Relaxed, here and below: the latch and the lease order the accesses of one holder after those of another.
        let valid = words.word(VALID).load(Ordering::Relaxed);
        let len = usize::try_from(valid >> 1).ok().filter(|len| *len <= self.capacity());
        let len = len.ok_or_else(LockError::nonsense)?;
        let mut bytes = Vec::new();
        words.view.copy_out(self.slot(valid), len, &mut bytes);
        codec::decode(&bytes).map_err(|message| LockError::Decode { message })
    }

    /// Where the slot that `valid` names begins.
    fn slot(&self, valid: u64) -> usize {
        if valid & 1 == 0 { 0 } else { self.capacity() }
    }

    /// Writes bytes into the slot that is not valid, as the holder. Returns what makes it the valid one.
    fn write(&self, bytes: &[u8]) -> Result<u64, LockError> {
        let words = self.object.words()?;
        let other = words.word(VALID).load(Ordering::Relaxed) & 1 ^ 1;
        words.view.put(self.slot(other), bytes);
        failpoint::pass("mutex_written");
        Ok((bytes.len() as u64) << 1 | other)
    }

    /// Ends what this thread holds, with another valid slot or the same.
    fn release(&self, valid: Option<u64>) {
        // In a forked copy of the process the lease is the original's.
        let Ok(words) = self.object.words() else { return };
        words.publish(|wake| {
            if let Some(valid) = valid {
                // The store that keeps the change.
                words.word(VALID).store(valid, Ordering::Release);
                failpoint::pass("mutex_flipped");
            }
            ownership(words).release(holders::me(), wake);
            failpoint::pass("mutex_released");
        });
    }
}

impl<T: Data> MutexGuard<'_, T> {
    /// The process that died with the mutex before this thread got it. What that was changing was not kept.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::Pool;
    /// use procpool::sync::Mutex;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let pool = Pool::new(1)?;
    ///     let mutex = Mutex::new(1)?;
    ///     let died = pool.apply((mutex.clone(),), |mutex: Mutex<i32>| -> anyhow::Result<()> {
    ///         *mutex.lock()? = 2;
    ///         let mut value = mutex.lock()?;
    ///         *value = 3;
    ///         std::process::abort()
    ///     });
    ///     assert!(died.is_err());
    ///     let guard = mutex.lock()?;
    ///     assert!(guard.owner_died().is_some());
    ///     assert_eq!(*guard, 2);
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn owner_died(&self) -> Option<u32> {
        self.died
    }

    /// Releases the mutex, and keeps what was changed, as dropping does; but here an error is told, and not logged.
    ///
    /// # Errors
    ///
    /// [`LockError::Encode`]: the value does not serialize, or has no room. The value before stays.
    ///
    /// # Examples
    ///
    /// ```
    /// let mutex = procpool::sync::Mutex::new(1)?;
    /// let mut guard = mutex.lock()?;
    /// *guard = 2;
    /// guard.commit()?;
    /// assert_eq!(*mutex.lock()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit(mut self) -> Result<(), LockError> {
        self.finish()
    }

    /// Waits until `condition` is [notified](Condvar::notify_all). Meanwhile the mutex is free, and what was changed is kept.
    ///
    /// As for every condition variable, what is waited for may not hold: look again, or use [`wait_while`](Self::wait_while).
    ///
    /// # Errors
    ///
    /// [`LockError::Encode`], [`LockError::TooMany`]: the thread holds the mutex still. After any other error the guard holds
    /// nothing: it shows the value that it had, and changes are not kept.
    ///
    /// # Examples
    ///
    /// See [`Condvar`].
    pub fn wait(&mut self, condition: &Condvar) -> Result<(), LockError> {
        while !self.wait_within(condition, Wait::Forever)? {}
        Ok(())
    }

    /// As [`wait`](Self::wait), but not longer than `timeout`, and then until the mutex is free. Returns whether it was
    /// notified.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use procpool::sync::{Condvar, Mutex};
    ///
    /// let (mutex, condition) = (Mutex::new(0)?, Condvar::new()?);
    /// assert!(!mutex.lock()?.wait_timeout(&condition, Duration::from_millis(1))?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(&mut self, condition: &Condvar, timeout: Duration) -> Result<bool, LockError> {
        self.wait_within(condition, Wait::at_most(timeout))
    }

    /// Waits as long as `is_early` says so, which is asked first, and again after each notification. It may change the
    /// value.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    ///
    /// # Examples
    ///
    /// See [`Condvar`].
    pub fn wait_while(
        &mut self,
        condition: &Condvar,
        mut is_early: impl FnMut(&mut T) -> bool,
    ) -> Result<(), LockError> {
        while is_early(self) {
            self.wait(condition)?;
        }
        Ok(())
    }

    fn wait_within(&mut self, condition: &Condvar, wait: Wait) -> Result<bool, LockError> {
        let ticket = condition.enter()?;
        // From here on a notification is for this thread, before the mutex is free.
        self.finish()?;
        let notified = ticket.wait(wait);
        let died = loop {
            if let Some(died) = self.mutex.hold(Wait::Forever)? {
                break died;
            }
        };
        self.is_held = true;
        self.died = died;
        match self.mutex.read() {
            Ok(value) => self.value = value,
            Err(error) => {
                self.is_held = false;
                self.mutex.release(None);
                return Err(error);
            }
        }
        notified
    }

    /// Keeps what was changed, and releases the mutex. After an error the mutex is held still.
    fn finish(&mut self) -> Result<(), LockError> {
        if !self.is_held {
            return Ok(());
        }
        let valid = if self.is_changed {
            let bytes = encode(&self.value, Some(self.mutex.capacity()))?;
            Some(self.mutex.write(&bytes)?)
        } else {
            None
        };
        (self.is_held, self.is_changed) = (false, false);
        self.mutex.release(valid);
        Ok(())
    }
}

impl<T: Data> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if thread::panicking() && !self.was_panicking {
            self.is_changed = false;
        }
        if let Err(error) = self.finish() {
            if self.mutex.object.words().is_ok() {
                log::error!("a mutex: {error}");
            }
            self.mutex.release(None);
        }
    }
}

impl<T: Data> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Data> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.is_changed = true;
        &mut self.value
    }
}

impl<T: Data> Clone for Mutex<T> {
    fn clone(&self) -> Self {
        Self { object: Arc::clone(&self.object), values: PhantomData }
    }
}

impl<T: Data> Serialize for Mutex<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl<'de, T: Data> Deserialize<'de> for Mutex<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Object::deserialize::<Self, D>(deserializer, Kind::Mutex, signature_of::<T>())?;
        Ok(Self { object, values: PhantomData })
    }
}

impl<T: Data> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

impl<T: Data + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.value, f)
    }
}
