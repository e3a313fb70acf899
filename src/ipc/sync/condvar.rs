//! A condition variable: threads that wait with a mutex free, until they are notified.
//!
//! ```text
//!     0  order u64       of the next thread that waits
//!     8  slots           of the threads that wait; see `slots`
//! ```
//!
//! The count of a lease is what its thread is told: [`WAITING`] or [`NOTIFIED`]. `notify_one` tells the thread that has
//! waited longest, by one store; that thread frees its slot when it returns.
//!
//! A thread that was notified and dies before it returns would take the notification with it. So each thread that waits
//! watches those that were notified and have not returned, and passes the notification of a dead one on: it tells the next
//! thread first, and frees the slot of the dead then. (A death between the two tells one thread too many.) A dead thread
//! that was still waiting may be told too: then it is one that was notified.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use super::error::LockError;
use super::holders;
use super::lease::Lease;
use super::lease::Me;
use super::object::Object;
use super::object::Words;
use super::slots::SLOTS_MAX;
use super::slots::Slot;
use super::slots::Slots;
use super::waiting;
use super::waiting::Turn;
use crate::ipc::deadline::Wait;
use crate::ipc::segment::Kind;
use crate::sys::failpoint;

const ORDER: usize = 0;
const SLOTS: usize = 8;

/// How long a thread waits for a slot while all are taken.
const ENTER_MAX: Duration = Duration::from_secs(1);
/// How long a thread that leaves waits for the latch.
const PASS_ON_MAX: Duration = Duration::from_millis(200);

const WAITING: u32 = 1;
const NOTIFIED: u32 = 2;

/// A condition variable between processes: [`MutexGuard::wait`](crate::sync::MutexGuard::wait) sleeps until another thread or
/// process notifies it, with the mutex free meanwhile.
///
/// A thread that was notified and dies takes nothing with it: the next one is notified. At most 160 threads wait at once. It
/// travels anywhere inside a value, as a [`Lock`](crate::sync::Lock) does.
///
/// `multiprocessing.Condition` of Python, where a death while waiting blocks the next `notify`.
///
/// # Examples
///
/// ```
/// use procpool::Pool;
/// use procpool::sync::{Condvar, Mutex};
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(1)?;
///     let shared = (Mutex::new(Vec::<u32>::new())?, Condvar::new()?);
///     let filled = pool.apply_async((shared.clone(),), |(list, more): (Mutex<Vec<u32>>, Condvar)| -> anyhow::Result<()> {
///         for x in 0..3 {
///             list.lock()?.push(x);
///             more.notify_all()?;
///         }
///         Ok(())
///     });
///     let mut list = shared.0.lock()?;
///     list.wait_while(&shared.1, |list| list.len() < 3)?;
///     assert_eq!(*list, [0, 1, 2]);
///     filled.get()?;
///     Ok(())
/// }
/// ```
#[doc(alias = "Condition")]
#[derive(Clone)]
pub struct Condvar {
    object: Arc<Object>,
}

/// The slot of a thread that is about to wait, or waits. Freed when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    condvar: &'a Condvar,
    slot: Slot<'a>,
    /// Whether the caller was told that it was notified.
    has_come: bool,
}

fn slots(words: Words<'_>) -> Slots<'_> {
    Slots::new(words, SLOTS)
}

/// Takes a slot; its index and order. `None` if all are taken.
fn take(words: Words<'_>, me: Me) -> Option<(usize, u64)> {
    let next = words.word(ORDER);
    let order = next.load(Ordering::Relaxed);
    next.store(order.wrapping_add(1), Ordering::Relaxed);
    Some((slots(words).take(me, WAITING, order)?, order))
}

/// Tells the thread that has waited longest. Returns whether there is one.
fn notify(words: Words<'_>) -> bool {
    let slots = slots(words);
    let waiting = slots.leases().filter(|(_, lease)| lease.holder.count() == WAITING);
    let Some((index, lease)) = waiting.min_by_key(|(index, _)| slots.order(*index)) else { return false };
    words.wake();
    slots.place(index).set(lease.holder.with_count(NOTIFIED));
    failpoint::pass("condvar_notified");
    true
}

/// Frees the slot of a dead thread, and passes its notification on.
fn evict(words: Words<'_>, index: usize, lease: Lease) {
    if slots(words).place(index).read() != lease {
        return;
    }
    if lease.holder.count() != WAITING {
        notify(words);
    }
    slots(words).free(index);
}

impl Condvar {
    /// A new condition variable.
    ///
    /// # Errors
    ///
    /// No descriptor is left, or not enough memory.
    ///
    /// # Examples
    ///
    /// See [`Condvar`].
    pub fn new() -> io::Result<Self> {
        Ok(Self { object: Object::create(Kind::Condvar, 0, 0)? })
    }

    /// Notifies the thread that has waited longest, if there is one.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let condition = procpool::sync::Condvar::new()?;
    /// condition.notify_one()?; // No thread waits, so nothing is kept.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify_one(&self) -> Result<(), LockError> {
        let words = self.object.words()?;
        // A latch that cannot be had is waited for.
        let _held = words.hold(Wait::Forever);
        notify(words);
        Ok(())
    }

    /// Notifies all threads that wait.
    ///
    /// # Errors
    ///
    /// [`LockError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`Condvar`].
    pub fn notify_all(&self) -> Result<(), LockError> {
        let words = self.object.words()?;
        // As above.
        let _held = words.hold(Wait::Forever);
        // Bounded, although another process may write there meanwhile.
        (0..SLOTS_MAX).take_while(|_| notify(words)).for_each(drop);
        Ok(())
    }

    /// From here on this thread is notified, before it sleeps.
    pub(super) fn enter(&self) -> Result<Ticket<'_>, LockError> {
        let me = holders::me();
        let attempt = |words: Words<'_>| match take(words, me) {
            Some(taken) => Ok(Turn::Come(taken)),
            None => Ok(Turn::Others(slots(words).leases().collect())),
        };
        // Not longer: a thread that waits here with its mutex keeps the others from being notified.
        let taken = waiting::wait(&self.object, Wait::at_most(ENTER_MAX), attempt, evict)?;
        let (index, order) = taken.ok_or(LockError::TooMany { limit: SLOTS_MAX })?;
        Ok(Ticket { condvar: self, slot: Slot::new(&self.object, SLOTS, me, index, order), has_come: false })
    }
}

impl Ticket<'_> {
    /// Waits until this thread is notified. Returns whether it was.
    pub(super) fn wait(mut self, wait: Wait) -> Result<bool, LockError> {
        let attempt = |words: Words<'_>| {
            if self.is_notified(words) {
                return Ok(Turn::Come(()));
            }
            let others = slots(words).leases().filter(|(_, lease)| lease.holder.count() != WAITING);
            let others: Vec<_> = others.collect();
            Ok(if others.is_empty() { Turn::Busy(others) } else { Turn::Others(others) })
        };
        let come = waiting::wait(&self.condvar.object, wait, attempt, evict)?.is_some();
        // It may have been notified at the last moment. Then the notification is this thread's.
        let words = self.condvar.object.words()?;
        self.has_come = come || {
            let _held = words.hold(Wait::Not);
            self.is_notified(words)
        };
        Ok(self.has_come)
    }

    fn is_notified(&self, words: Words<'_>) -> bool {
        self.slot.lease(words).is_none_or(|lease| lease.holder.count() != WAITING)
    }
}

impl Drop for Ticket<'_> {
    /// Passes on a notification that its thread has not come to see. The slot is freed after this.
    fn drop(&mut self) {
        let Ok(words) = self.condvar.object.words() else { return };
        if !self.has_come
            && let Some(_held) = words.hold(Wait::at_most(PASS_ON_MAX))
            && self.slot.lease(words).is_some_and(|lease| lease.holder.count() != WAITING)
        {
            notify(words);
        }
    }
}

impl Serialize for Condvar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Condvar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { object: Object::deserialize::<Self, D>(deserializer, Kind::Condvar, 0)? })
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}
