//! How deep (de)serializing may go on this thread's stack.
//!
//! A value is walked by recursion, so the bytes of a worker, honest or not, decide how much stack their reader needs,
//! and an overflow would end this process. A [`Room`] therefore says when half of the stack that was left at the
//! beginning has been used. The other half is for what is done with the value afterwards, which is recursion too: to
//! drop a value takes less stack for each level than to read it (measured: at most three quarters, optimized or
//! not), to clone it at most twice as much, and so does `Debug`, but for a bare list in optimized builds.
//!
//! Nothing that is flat comes here for more than one comparison: where the stack ends is asked only when a walk has
//! used [`SMALL`], and then once per thread.

#![expect(unsafe_code, reason = "only the C library knows where a thread's stack is")]

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::ops::Range;
use std::ptr;

/// Whoever has so little stack left is lost anyway.
const SMALL: usize = 4 << 10;

/// What may be used of a stack of which nothing is known, as of a coroutine.
const UNKNOWN: usize = 32 << 10;

thread_local! {
    /// Addresses do not change, not even in a child that this thread forks.
    static STACK: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// The stack that one walk through a value may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// The lowest address it may get to, as far as is known; [`USED_UP`] for ever when it wanted to get lower.
    limit: usize,
    /// Where it began, until it has been asked where the stack ends.
    start: Option<NonZero<usize>>,
}

const USED_UP: usize = usize::MAX;

impl Room {
    /// For a walk that begins here.
    #[inline]
    pub(crate) fn from_here() -> Room {
        let start = here();
        Room { limit: start.wrapping_sub(SMALL), start: NonZero::new(start) }
    }

    /// Whether the walk may go deeper than to where this is called. Once it may not, it is at its end.
    #[inline]
    pub(crate) fn is_left(&mut self) -> bool {
        let here = here();
        if here < self.limit {
            *self = self.looked_at(here);
        }
        here >= self.limit
    }

    /// Whether the walk has been told that it may not.
    #[inline]
    pub(crate) fn is_used_up(&self) -> bool {
        self.limit == USED_UP
    }

    /// By value, so that the caller may keep a room in registers.
    #[cold]
    #[inline(never)]
    fn looked_at(self, here: usize) -> Room {
        let limit = self.start.map_or(self.limit, |start| start.get() - usable(start.get()));
        Room { limit: if here < limit { USED_UP } else { limit }, start: None }
    }
}

/// How much a walk may use that begins at `start`.
fn usable(start: usize) -> usize {
    match of_this_thread() {
        Some(stack) if stack.contains(&start) => (start - stack.start) / 2,
        // Not on this thread's own stack, or nobody knows where that is.
        _ => UNKNOWN.min(start),
    }
}

/// About where the stack is used up to.
#[inline(always)]
fn here() -> usize {
    let local = 0u8;
    ptr::from_ref(&local).addr()
}

fn of_this_thread() -> Option<Range<usize>> {
    // The main thread's is looked up in /proc, which may fail now and not the next time.
    let (start, end) = STACK.get().or_else(ask)?;
    STACK.set(Some((start, end)));
    Some(start..end)
}

/// The lowest usable address of this thread's stack, and its end. The main thread's grows until then (`ulimit -s`).
fn ask() -> Option<(usize, usize)> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: pthread_self is always this thread's.
    let this_thread = unsafe { libc::pthread_self() };
    // SAFETY: the thread is alive, and the pointer is to memory of the right size and alignment, to be written.
    if unsafe { libc::pthread_getattr_np(this_thread, attributes.as_mut_ptr()) } != 0 {
        return None;
    }
    let mut lowest = ptr::null_mut();
    let mut size = 0;
    let mut guard_size = 0;
    // SAFETY: the attributes were initialized by the call that has just succeeded.
    let told = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &mut lowest, &mut size) };
    // SAFETY: as above.
    let guard_told = unsafe { libc::pthread_attr_getguardsize(attributes.as_ptr(), &mut guard_size) };
    // SAFETY: as above; they are not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if told != 0 || guard_told != 0 {
        return None;
    }
    // C libraries differ in whether the guard is part of what they tell.
    let lowest = lowest.addr();
    Some((lowest.checked_add(guard_size)?, lowest.checked_add(size)?))
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::thread;

    use super::*;

    fn on_a_stack_of<R: Send + 'static>(size: usize, f: impl FnOnce() -> R + Send + 'static) -> R {
        thread::Builder::new().stack_size(size).spawn(f).unwrap().join().unwrap()
    }

    /// Uses stack until the room is used up; says how much that was.
    #[inline(never)]
    fn descend(room: &mut Room, start: usize) -> usize {
        let frame = black_box([0u8; 256]);
        if !room.is_left() {
            return start - here();
        }
        let used = descend(room, start);
        black_box(&frame);
        used
    }

    #[test]
    fn a_thread_knows_its_own_stack() {
        for size in [64 << 10, 2 << 20, 16 << 20] {
            let (stack, here) = on_a_stack_of(size, || (of_this_thread().unwrap(), here()));
            assert!(stack.contains(&here), "{stack:?}, {here}");
            // The C library gives a thread the stack of one that has ended, if that is large enough and not huge.
            assert!(stack.len() >= size - (16 << 10) && stack.len() <= 4 * size + (64 << 10), "{size}: {stack:?}");
        }
    }

    #[test]
    fn half_of_what_is_left_may_be_used() {
        for size in [64usize << 10, 256 << 10, 2 << 20] {
            let (used, len) = on_a_stack_of(size, || {
                let used = descend(&mut Room::from_here(), here());
                (used, of_this_thread().unwrap().len())
            });
            assert!(used > len / 4 && used < len / 2 + (16 << 10), "{used} of {len}");
        }
    }

    #[test]
    fn a_room_that_was_used_up_says_so() {
        let mut room = Room::from_here();
        assert!(room.is_left());
        assert!(!room.is_used_up());
        descend(&mut room, here());
        assert!(room.is_used_up());
        assert!(!room.is_left(), "the walk is at its end, wherever it goes on");
    }

    #[test]
    fn little_is_used_of_an_unknown_stack() {
        assert_eq!(usable(1 << 40), UNKNOWN);
        let elsewhere = Box::new(0u8);
        assert_eq!(usable(ptr::from_ref(&*elsewhere).addr()), UNKNOWN);
    }
}
