//! The protocol of a latch: a short lock in shared memory whose holder may die.
//!
//! It is held for a few loads, stores and one copy of at most 16 KiB; never across user code, and no thread holds two.
//!
//! # The word
//!
//! ```text
//!   31       30     29                          0
//!   WAITERS  DIED   the thread that holds it, or 0
//! ```
//!
//! - *Taking* it is a compare-and-exchange of a word without a thread for one with the own thread id. DIED is cleared, and
//!   told to the taker, which first repairs what the dead holder may have left half done.
//! - *Releasing* it stores 0. If WAITERS was set, one sleeper is woken; it sets WAITERS when it takes the latch, because
//!   there may be others.
//! - *A holder that dies* cannot release it, so the kernel does. Each thread has announced to the kernel where the list
//!   of its robust locks begins, and the head of that list has one field for a lock that is being taken or released
//!   (`list_op_pending`). It names the latch from before the exchange until after the release. When a thread ends, however
//!   it ends, the kernel looks at that field: if the word holds the thread's id, it replaces the id by DIED and wakes one
//!   sleeper. So the memory that processes share holds no list and no pointer. (A robust mutex of the C library holds both:
//!   a process that changes them can make another one write anywhere.)
//!
//! # Waking is not relied upon
//!
//! A sleeper can be woken and killed before it takes the latch. If yet another thread has taken the free latch meanwhile,
//! without WAITERS, the other sleepers are forgotten. So a sleep lasts [`SLEEP_MAX`] at most. No thread that is idle sleeps
//! here, so this is no polling.
//!
//! After a sleep that has not ended early, the holder is looked up. If there is no such thread, its id was not written by a
//! thread that held the latch: the word was scribbled over, or the kernel knows nothing of the holder's list (a thread of
//! musl that was never announced). Then the sleeper replaces the id by DIED, as the kernel would have.
//!
//! # Orderings
//!
//! Taking is Acquire and releasing is Release: what a holder has written is seen by the next. After a death the next
//! holder pairs with the kernel, whose exchange is a full barrier. The loads that only wait are Relaxed.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A sleeper must be woken.
const WAITERS: u32 = 1 << 31;
/// The last holder died.
pub(super) const DIED: u32 = 1 << 30;
/// The id of the holder. The bits are the kernel's, see futex(2): FUTEX_WAITERS, FUTEX_OWNER_DIED, FUTEX_TID_MASK.
pub(super) const HOLDER: u32 = DIED - 1;

/// The longest sleep.
pub(super) const SLEEP_MAX: Duration = Duration::from_millis(10);
/// How often the word is read before the thread sleeps. A holder that runs is done by then.
const SPINS: u32 = if cfg!(loom) { 0 } else { 100 };

/// How the holder before this one has let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ipc) enum Previous {
    Released,
    /// It died inside: what it was changing may be half done.
    Died,
}

/// The word, with the orderings of every access: the same for the atomic that ships and for the models.
pub(super) trait Word {
    fn load(&self) -> u32;
    fn compare_exchange(&self, current: u32, new: u32) -> Result<u32, u32>;
    /// Returns the value that the zero replaces.
    fn clear(&self) -> u32;
}

macro_rules! word {
    ($atomic:ty) => {
        impl Word for $atomic {
            #[inline]
            fn load(&self) -> u32 {
                self.load(Ordering::Relaxed)
            }

            #[inline]
            fn compare_exchange(&self, current: u32, new: u32) -> Result<u32, u32> {
                self.compare_exchange(current, new, Ordering::Acquire, Ordering::Relaxed)
            }

            #[inline]
            fn clear(&self) -> u32 {
                self.swap(0, Ordering::Release)
            }
        }
    };
}
word!(AtomicU32);

// Behind the macro, which it uses.
#[cfg(all(test, loom))]
mod model;

/// Why a sleep has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slept {
    Enough,
    /// Woken, interrupted, or the word had changed.
    Shorter,
}

/// What a latch needs of the thread and of the kernel.
pub(super) trait Thread<W> {
    /// The id of this thread: not 0, and within [`HOLDER`].
    fn id(&self) -> u32;
    /// From here on, if this thread ends while the word holds its id, the kernel marks the word.
    fn announce(&self, word: &W);
    fn retract(&self);
    /// Sleeps for [`SLEEP_MAX`] at most, unless the word has another value.
    fn sleep(&self, word: &W, value: u32) -> Slept;
    fn wake_one(&self, word: &W);
    fn pause(&self);
    fn exists(&self, id: u32) -> bool;
    /// A step at which tests let the thread die.
    fn step(&self, name: &str);
}

/// Takes the latch. `None` if `gives_up` says so first.
#[inline]
pub(super) fn take<W: Word, T: Thread<W>>(word: &W, thread: &T, gives_up: impl Fn() -> bool) -> Option<Previous> {
    thread.announce(word);
    thread.step("latch_announced");
    let now = word.load();
    if now & HOLDER == 0 && word.compare_exchange(now, thread.id() | now & WAITERS).is_ok() {
        thread.step("latch_taken");
        return Some(previous(now));
    }
    take_contended(word, thread, gives_up)
}

#[cold]
fn take_contended<W: Word, T: Thread<W>>(word: &W, thread: &T, gives_up: impl Fn() -> bool) -> Option<Previous> {
    let mut mine = thread.id();
    let mut spins = 0;
    loop {
        let now = word.load();
        if now & HOLDER == 0 {
            if word.compare_exchange(now, mine | now & WAITERS).is_ok() {
                thread.step("latch_taken");
                return Some(previous(now));
            }
        } else if spins < SPINS {
            spins += 1;
            thread.pause();
        } else if gives_up() {
            thread.retract();
            return None;
        } else if now & WAITERS != 0 || word.compare_exchange(now, now | WAITERS).is_ok() {
            let slept_enough = thread.sleep(word, now | WAITERS) == Slept::Enough;
            // Others may sleep too.
            mine = thread.id() | WAITERS;
            if slept_enough && !thread.exists(now & HOLDER) {
                // It fails if the latch has been released, or the kernel was faster.
                let _: Result<_, u32> = word.compare_exchange(now | WAITERS, WAITERS | DIED);
            }
        }
    }
}

fn previous(word: u32) -> Previous {
    if word & DIED == 0 { Previous::Released } else { Previous::Died }
}

/// Releases the latch, which this thread holds.
#[inline]
pub(super) fn release<W: Word, T: Thread<W>>(word: &W, thread: &T) {
    thread.step("latch_releasing");
    if word.clear() & WAITERS != 0 {
        thread.step("latch_released");
        thread.wake_one(word);
    }
    thread.retract();
}
