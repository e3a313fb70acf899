//! A latch: a short lock in shared memory whose holder may die. [`protocol`] says how.
//!
//! Also called: robust futex, robust mutex, spinlock with owner death.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

mod protocol;
mod thread;

use self::protocol::HOLDER;
pub(super) use self::protocol::Previous;
use self::protocol::release;
use self::protocol::take;
use self::thread::ThisThread;

/// A latch that this thread holds until this is dropped.
#[derive(Debug)]
pub(super) struct Held<'a> {
    word: &'a AtomicU32,
    thread: ThisThread,
    pub(super) previous: Previous,
}

/// Takes the latch in `word`. `None` if `gives_up` says so, which is asked before each sleep: the holder is stopped, or the
/// word is scribbled over.
#[inline]
pub(super) fn hold(word: &AtomicU32, gives_up: impl Fn() -> bool) -> Option<Held<'_>> {
    let thread = ThisThread::get();
    take(word, &thread, gives_up).map(|previous| Held { word, thread, previous })
}

/// Whether a thread seems to hold the latch. A hint.
#[inline]
pub(super) fn is_held(word: &AtomicU32) -> bool {
    word.load(Ordering::Relaxed) & HOLDER != 0
}

/// The id of this thread.
pub(super) fn thread_id() -> u32 {
    ThisThread::get().number()
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        release(self.word, &self.thread);
    }
}

#[cfg(test)]
mod tests {
    use super::protocol::DIED;
    use super::*;

    #[test]
    fn it_excludes() {
        const ROUNDS: u64 = 20_000;
        let word = AtomicU32::new(0);
        let count = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let held = hold(&word, || false).unwrap();
                        assert_eq!(held.previous, Previous::Released);
                        // Not atomic together: only the latch keeps increments from being lost.
                        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!((count.into_inner(), word.into_inner()), (3 * ROUNDS, 0));
    }

    #[test]
    fn one_that_is_held_is_given_up() {
        let word = AtomicU32::new(0);
        let _held = hold(&word, || false).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| hold(&word, || true).is_none());
            assert!(other.join().unwrap());
        });
    }

    #[test]
    fn a_thread_that_ends_inside_has_died() {
        let word = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| std::mem::forget(hold(&word, || false).unwrap())).join().unwrap();
        });
        // `join` returns when the kernel has cleared the thread's id, which is after it has marked the word.
        assert_eq!(word.load(Ordering::Relaxed), DIED);
        assert_eq!(hold(&word, || false).unwrap().previous, Previous::Died);
        assert_eq!(hold(&word, || false).unwrap().previous, Previous::Released);
    }

    #[test]
    fn a_holder_that_does_not_exist_has_died() {
        // No thread has this id: the kernel gives out none so large.
        let word = AtomicU32::new(HOLDER);
        assert_eq!(hold(&word, || false).unwrap().previous, Previous::Died);
    }
}
