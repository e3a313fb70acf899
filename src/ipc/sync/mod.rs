//! Locks and their kin between processes. A process that dies holds nothing, and the next one is told.
//!
//! ```text
//!   mutex, lock, semaphore, condvar, event, barrier     what users call
//!   waiting      the loop that all of them share: attempt, arm, watch the holders, sleep
//!   object       what each is made of: memory with a latch, and a gate
//!   ownership    one holder at a time (pure)
//!   lease        which process holds, told in shared memory (pure)
//!   slots        which threads wait
//!   holders      whether that process lives: pidfds and /proc
//! ```
//!
//! # The protocol
//!
//! The state of an object lies in a segment, and changes under its latch, which the kernel opens when its holder dies. Each
//! change is published by one store, so a death at any step is a death before the change or after it. A thread that has to
//! wait sleeps at the object's gate, and each change that it may wait for wakes it; see [`gate`](super::gate).
//!
//! A latch is held for nanoseconds, a lock for as long as its user likes. So a lock is a *lease*: the process, its start
//! time and a count are written down in the segment. A thread that finds it taken opens a pidfd of the holder, sees
//! that a process with this start time still has the id, and sleeps until the gate or the pidfd wakes it. If the holder
//! has died, it takes the latch, sees that the lease is still the same, and ends it in the place of the dead.
//!
//! - *A dead holder is always noticed by whoever waits*, because each waiter watches each holder for itself: no process
//!   has to live for another to be told. If no thread waits, nothing needs to be noticed until one tries.
//! - *A lease is ended once*: under the latch, and only if it is the lease that was watched, with its start time. So a holder
//!   that released it meanwhile, or another one with the same process id, loses nothing.
//! - *No living holder is evicted*: a pidfd that was open while the start time was read names the process that wrote the
//!   lease or one that began later; and it becomes readable only when all of its threads have ended.
//!
//! Whatever must not wait, a guard that is dropped for instance, gives up the latch after a while, because its holder may be
//! stopped, and publishes without it; see [`object`].

mod barrier;
mod condvar;
mod error;
mod event;
mod holders;
mod lease;
mod lock;
mod mutex;
mod object;
mod ownership;
mod semaphore;
mod slots;
mod waiting;

pub use self::barrier::Barrier;
pub use self::barrier::BarrierError;
pub use self::condvar::Condvar;
pub use self::error::LockError;
pub use self::event::Event;
pub use self::lock::Lock;
pub use self::lock::LockGuard;
pub use self::mutex::Mutex;
pub use self::mutex::MutexGuard;
pub use self::semaphore::Permit;
pub use self::semaphore::Semaphore;
