//! A lock that guards something else: a file, a device, a part of a shared array.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use super::error::LockError;
use super::holders;
use super::lease::COUNT_MAX;
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

/// The holder: two words.
const LEASE: usize = 0;
const DIED: usize = 16;
/// Whether it is reentrant. Written once.
const REENTRANT: usize = 24;

/// A lock between processes, for what is not in it: a file, a device, a part of a [`SharedArray`](crate::SharedArray).
///
/// If its holder dies, `lock` says so ([`LockError::OwnerDied`]), to everyone, until a thread calls
/// [`recover`](Self::recover): what the dead was changing may be half done. For state that can be kept in the lock itself
/// use a [`Mutex`](crate::sync::Mutex), which a death leaves as it was.
///
/// It travels anywhere inside a value: an argument, a result, a [context](crate::Pool::with), an argument of an
/// [initializer](crate::PoolBuilder::initializer), a message of a channel. Clones and what arrives elsewhere are the same
/// lock. It has three descriptors in each process.
///
/// A guard belongs to the thread that has it. A thread that locks what it holds gets an error and does not hang, unless the
/// lock is [reentrant](Self::reentrant). Which of several waiting threads comes next is not determined.
///
/// `multiprocessing.Lock` and `RLock` of Python, where a death of the holder is a lock that stays locked.
///
/// # Examples
///
/// Each task appends a line to a file, one at a time:
///
/// ```
/// use std::io::Write;
///
/// use procpool::sync::Lock;
/// use procpool::{Fd, Pool};
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     let (reader, writer) = std::io::pipe()?;
///     let log = (Lock::new()?, Fd::new(writer));
///     pool.with(&log).map(0..10u32, |(lock, log), x| -> anyhow::Result<()> {
///         let _guard = lock.lock()?;
///         let mut log = &**log;
///         log.write_all(x.to_string().as_bytes())?;
///         Ok(log.write_all(b"\n")?)
///     })?;
///     drop(log);
///     assert_eq!(std::io::read_to_string(reader)?.lines().count(), 10);
///     Ok(())
/// }
/// ```
#[doc(alias = "RLock")]
#[derive(Clone)]
pub struct Lock {
    object: Arc<Object>,
}

/// A [`Lock`] that this thread holds until this is dropped.
///
/// # Examples
///
/// See [`Lock`].
#[must_use = "dropping it releases the lock"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    /// It belongs to its thread.
    thread: PhantomData<*const ()>,
}

fn ownership(words: Words<'_>) -> Ownership<'_, AtomicU64> {
    Ownership { place: words.lease(LEASE), died: words.word(DIED) }
}

impl Lock {
    /// A new lock, which is free.
    ///
    /// # Errors
    ///
    /// No descriptor is left, or not enough memory.
    ///
    /// # Examples
    ///
    /// ```
    /// let lock = procpool::sync::Lock::new()?;
    /// drop(lock.lock()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new() -> io::Result<Self> {
        Ok(Self { object: Object::create(Kind::Lock, 0, 0)? })
    }

    /// A new lock that the thread which holds it may take again. It is free when all guards of that thread are dropped.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// let lock = procpool::sync::Lock::reentrant()?;
    /// let first = lock.lock()?;
    /// let second = lock.lock()?;
    /// drop((first, second));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reentrant() -> io::Result<Self> {
        let lock = Self::new()?;
        if let Ok(words) = lock.object.words() {
            // Relaxed: the memory is sent by a system call later.
            words.word(REENTRANT).store(1, Ordering::Relaxed);
        }
        Ok(lock)
    }

    /// Takes the lock. Waits until it is free.
    ///
    /// # Errors
    ///
    /// - [`LockError::OwnerDied`]: a process died with it, and nobody has recovered it yet.
    /// - [`LockError::HeldByThisThread`], unless it is reentrant.
    /// - [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`Lock`].
    pub fn lock(&self) -> Result<LockGuard<'_>, LockError> {
        self.wait_for(Wait::Forever)
    }

    /// Takes the lock if it is free. It waits for no holder; where a process was stopped in the midst of a call on this lock,
    /// it gives up after a few milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock).
    ///
    /// # Examples
    ///
    /// ```
    /// let lock = procpool::sync::Lock::new()?;
    /// let _guard = lock.lock()?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| assert!(lock.try_lock().unwrap().is_none()));
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_lock(&self) -> Result<Option<LockGuard<'_>>, LockError> {
        self.take(Wait::Not, AfterDeath::Refuse)
    }

    /// Takes the lock. Waits until it is free, but not longer than `timeout`.
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
    /// let lock = procpool::sync::Lock::new()?;
    /// assert!(lock.lock_timeout(Duration::from_secs(1))?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<LockGuard<'_>>, LockError> {
        self.take(Wait::at_most(timeout), AfterDeath::Refuse)
    }

    /// Takes the lock although a process has died with it, and so says that what it guards is in order again, or will be when
    /// the guard is dropped. Waits until it is free.
    ///
    /// # Errors
    ///
    /// [`LockError::HeldByThisThread`]; [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::SharedArray;
    /// use procpool::sync::{Lock, LockError};
    ///
    /// fn add(lock: &Lock, table: &SharedArray<u32>) -> Result<(), LockError> {
    ///     let _guard = match lock.lock() {
    ///         Err(LockError::OwnerDied { .. }) => {
    ///             let guard = lock.recover()?;
    ///             table.write(0, &vec![0; table.len()]); // It may be half written: begin anew.
    ///             guard
    ///         }
    ///         other => other?,
    ///     };
    ///     table.set(0, table.get(0) + 1);
    ///     Ok(())
    /// }
    ///
    /// let table = SharedArray::zeroed(10)?;
    /// add(&Lock::new()?, &table)?;
    /// assert_eq!(table.get(0), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recover(&self) -> Result<LockGuard<'_>, LockError> {
        // A wait without an end does not time out.
        loop {
            if let Some(guard) = self.take(Wait::Forever, AfterDeath::Tell)? {
                return Ok(guard);
            }
        }
    }

    fn wait_for(&self, wait: Wait) -> Result<LockGuard<'_>, LockError> {
        // As above.
        loop {
            if let Some(guard) = self.take(wait, AfterDeath::Refuse)? {
                return Ok(guard);
            }
        }
    }

    fn take(&self, wait: Wait, after_death: AfterDeath) -> Result<Option<LockGuard<'_>>, LockError> {
        let me = holders::me();
        let attempt = |words: Words<'_>| match ownership(words).take(me, after_death, failpoint::pass) {
            Attempt::Taken { .. } => Ok(Turn::Come(())),
            Attempt::Own(lease) if words.word(REENTRANT).load(Ordering::Relaxed) != 0 => {
                match ownership(words).take_again(lease) {
                    true => Ok(Turn::Come(())),
                    false => Err(LockError::TooMany { limit: COUNT_MAX as usize }),
                }
            }
            Attempt::Own(_) => Err(LockError::HeldByThisThread),
            Attempt::Busy(lease) => Ok(Turn::Busy(vec![(0, lease)])),
            Attempt::Refused { died } => Err(LockError::OwnerDied { pid: died }),
        };
        let taken = waiting::wait(&self.object, wait, attempt, |words, _, lease| {
            ownership(words).evict(lease, || words.wake(), failpoint::pass);
        });
        Ok(taken?.map(|()| LockGuard { lock: self, thread: PhantomData }))
    }

    /// Ends what this thread holds.
    fn release(&self) {
        // In a forked copy of the process the lease is the original's.
        if let Ok(words) = self.object.words() {
            words.publish(|wake| ownership(words).release(holders::me(), wake));
        }
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        self.lock.release();
    }
}

impl Serialize for Lock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Lock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { object: Object::deserialize::<Self, D>(deserializer, Kind::Lock, 0)? })
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").finish_non_exhaustive()
    }
}
