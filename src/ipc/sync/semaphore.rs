//! A semaphore: at most so many permits are taken at once, and those of a dead process come back.
//!
//! ```text
//!     0  permits u64     in all
//!     8  used u64        leases at and beyond this one were never taken
//!    16  leases          one for each process that holds permits
//! ```
//!
//! How many are free is not written down: it is `permits` less the counts of all leases. So to take a permit, to give it back,
//! and to end the lease of the dead are each one store, and a death at any step loses none and makes none.

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
use super::holders;
use super::lease::COUNT_MAX;
use super::lease::Holder;
use super::lease::Lease;
use super::lease::Me;
use super::lease::Place;
use super::object::Object;
use super::object::Words;
use super::waiting;
use super::waiting::Turn;
use crate::ipc::deadline::Wait;
use crate::ipc::segment::Kind;
use crate::sys::failpoint;

const PERMITS: usize = 0;
const USED: usize = 8;
const LEASES: usize = 16;
/// How many processes may hold permits at once.
const LEASES_MAX: usize = 240;

/// A semaphore between processes: at most so many permits are taken at once.
///
/// The permits of a process that dies come back, and whoever waits for one is told. At most 240 processes hold permits at
/// once; others wait. It travels anywhere inside a value, as a [`Lock`](crate::sync::Lock) does.
///
/// `multiprocessing.Semaphore` and `BoundedSemaphore` of Python, where the permits of the dead are lost. A permit is a value
/// here: it cannot be given back twice.
///
/// # Examples
///
/// At most two tasks at once use the network, whatever the size of the pool:
///
/// ```
/// use procpool::Pool;
/// use procpool::sync::Semaphore;
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(4)?;
///     let connections = Semaphore::new(2)?;
///     pool.with(&connections).map(0..10u32, |connections, x| -> anyhow::Result<u32> {
///         let _permit = connections.acquire()?;
///         Ok(x) // Here it would download.
///     })?;
///     assert_eq!(connections.available()?, 2);
///     Ok(())
/// }
/// ```
#[doc(alias = "BoundedSemaphore")]
#[derive(Clone)]
pub struct Semaphore {
    object: Arc<Object>,
}

/// A permit of a [`Semaphore`], given back when this is dropped.
///
/// # Examples
///
/// See [`Semaphore`].
#[must_use = "dropping it gives the permit back"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    index: usize,
}

#[derive(Clone, Copy)]
struct Table<'a>(Words<'a>);

impl<'a> Table<'a> {
    fn permits(self) -> &'a AtomicU64 {
        self.0.word(PERMITS)
    }

    fn place(self, index: usize) -> Place<'a, AtomicU64> {
        self.0.lease(LEASES + 16 * index)
    }

    fn used(self) -> usize {
        usize::try_from(self.0.word(USED).load(Ordering::Relaxed)).unwrap_or(LEASES_MAX).min(LEASES_MAX)
    }

    /// The leases that are taken.
    fn leases(self) -> impl Iterator<Item = (usize, Lease)> {
        (0..self.used()).map(move |index| (index, self.place(index).read())).filter(|(_, lease)| !lease.is_free())
    }

    /// How many permits are free. Under the latch.
    fn available(self) -> u64 {
        let taken: u64 = self.leases().map(|(_, lease)| u64::from(lease.holder.count())).sum();
        self.permits().load(Ordering::Relaxed).saturating_sub(taken)
    }

    /// Takes a permit for this process; the index of its lease. `None` if none is free, or no lease is.
    fn take(self, me: Me) -> Option<usize> {
        if self.available() == 0 {
            return None;
        }
        let own = self.leases().find(|(_, lease)| lease.is_of_process(me) && lease.holder.count() < COUNT_MAX);
        if let Some((index, lease)) = own {
            self.place(index).set(lease.holder.with_count(lease.holder.count() + 1));
            return Some(index);
        }
        let used = self.used();
        let index = (0..used).find(|index| self.place(*index).read().is_free()).unwrap_or(used);
        if index == LEASES_MAX {
            return None;
        }
        if index == used {
            // Before the lease: one that is not counted would be overlooked.
            self.0.word(USED).store(used as u64 + 1, Ordering::Relaxed);
        }
        self.place(index).take(me.lease(1), failpoint::pass);
        Some(index)
    }

    /// Takes one off a lease of this process.
    fn give_back(self, me: Me, index: usize) {
        let place = self.place(index);
        let lease = place.read();
        // Otherwise somebody has written nonsense.
        if lease.is_of_process(me) {
            place.set(lease.holder.with_count(lease.holder.count() - 1));
        }
    }
}

impl Semaphore {
    /// A new semaphore with so many permits.
    ///
    /// # Errors
    ///
    /// No descriptor is left, or not enough memory.
    ///
    /// # Examples
    ///
    /// See [`Semaphore`].
    pub fn new(permits: u32) -> io::Result<Self> {
        let object = Object::create(Kind::Semaphore, 0, 0)?;
        if let Ok(words) = object.words() {
            // Relaxed: the memory is sent by a system call later.
            Table(words).permits().store(permits.into(), Ordering::Relaxed);
        }
        Ok(Self { object })
    }

    /// Takes a permit. Waits until one is free.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`Semaphore`].
    pub fn acquire(&self) -> Result<Permit<'_>, LockError> {
        // A wait without an end does not time out.
        loop {
            if let Some(permit) = self.take(Wait::Forever)? {
                return Ok(permit);
            }
        }
    }

    /// Takes a permit if one is free.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let semaphore = procpool::sync::Semaphore::new(1)?;
    /// let permit = semaphore.try_acquire()?;
    /// assert!(permit.is_some() && semaphore.try_acquire()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_acquire(&self) -> Result<Option<Permit<'_>>, LockError> {
        self.take(Wait::Not)
    }

    /// Takes a permit. Waits until one is free, but not longer than `timeout`.
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
    /// let semaphore = procpool::sync::Semaphore::new(0)?;
    /// assert!(semaphore.acquire_timeout(Duration::from_millis(1))?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Option<Permit<'_>>, LockError> {
        self.take(Wait::at_most(timeout))
    }

    /// Makes so many permits more.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let semaphore = procpool::sync::Semaphore::new(0)?;
    /// semaphore.add_permits(2)?;
    /// assert_eq!(semaphore.available()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn add_permits(&self, permits: u32) -> Result<(), LockError> {
        let words = self.object.words()?;
        // A latch that cannot be had is waited for.
        let _held = words.hold(Wait::Forever);
        words.wake();
        let all = Table(words).permits();
        all.store(all.load(Ordering::Relaxed).saturating_add(permits.into()), Ordering::Relaxed);
        Ok(())
    }

    /// How many permits are free. Other processes may change that at any time; those of a process that has died are free
    /// when a thread tries to take one.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`add_permits`](Self::add_permits).
    pub fn available(&self) -> Result<u64, LockError> {
        let words = self.object.words()?;
        let _held = words.hold(Wait::Not);
        Ok(Table(words).available())
    }

    fn take(&self, wait: Wait) -> Result<Option<Permit<'_>>, LockError> {
        let me = holders::me();
        let attempt = |words: Words<'_>| match Table(words).take(me) {
            Some(index) => Ok(Turn::Come(index)),
            None if Table(words).available() == 0 => Ok(Turn::Busy(Table(words).leases().collect())),
            // No lease is free: others, which have one, may come to their turn.
            None => Ok(Turn::Others(Table(words).leases().collect())),
        };
        let index = waiting::wait(&self.object, wait, attempt, |words, index, lease| {
            let place = Table(words).place(index);
            if place.read() == lease {
                words.wake();
                failpoint::pass("lease_noted");
                place.set(Holder::NONE);
            }
        });
        Ok(index?.map(|index| Permit { semaphore: self, index }))
    }
}

impl Permit<'_> {
    /// Takes the permit out of the semaphore: it has one less from now on.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let semaphore = procpool::sync::Semaphore::new(2)?;
    /// semaphore.acquire()?.forget()?;
    /// assert_eq!(semaphore.available()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forget(self) -> Result<(), LockError> {
        let words = self.semaphore.object.words()?;
        // A latch that cannot be had is waited for. The permit is given back by the drop of `self`, after this.
        let _held = words.hold(Wait::Forever);
        let permits = Table(words).permits();
        permits.store(permits.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // In a forked copy of the process the lease is the original's.
        if let Ok(words) = self.semaphore.object.words() {
            words.publish(|wake| {
                wake();
                Table(words).give_back(holders::me(), self.index);
            });
        }
    }
}

impl Serialize for Semaphore {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Semaphore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { object: Object::deserialize::<Self, D>(deserializer, Kind::Semaphore, 0)? })
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
