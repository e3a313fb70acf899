//! A limit on recursion: how deep (de)serializing may go on this thread's stack.
//!
//! A value is walked by recursion, so the bytes that a worker sends, honest or not, decide how much stack their reader
//! needs, and an overflow would end this process. A [`StackBudget`] is exhausted when half of the stack that was left
//! at the start has been used. The other half is for what is done with the value afterwards, which is recursion too: to
//! drop a value takes less stack per level than to read it (measured: at most three quarters, optimized or not), and to
//! clone it or to format it with `Debug` at most twice as much, except for `Debug` of a bare list in optimized builds.
//!
//! A flat value costs one comparison per check: the bounds of the stack are looked up only when a walk has used
//! [`SMALL`], and then once per thread.
//!
//! Also called: stack overflow protection, recursion limit.

#![expect(unsafe_code, reason = "only the C library knows where a thread's stack is")]

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::ops::Range;
use std::ptr;

/// A walk may use this much without a look at the bounds of the stack: a thread with less is lost anyway.
const SMALL: usize = 4 << 10;

/// How much of an unknown stack may be used, such as a coroutine's.
const UNKNOWN: usize = 32 << 10;

thread_local! {
    /// The bounds of this thread's stack. They do not change, not even in a child that this thread forks.
    static STACK: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// The stack that one walk through a value may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackBudget {
    /// The lowest address that the walk may reach, as far as is known; [`EXHAUSTED`] once it has tried to go lower.
    limit: usize,
    /// Where the walk began; `None` once the bounds of the stack have been looked up.
    start: Option<NonZero<usize>>,
}

const EXHAUSTED: usize = usize::MAX;

impl StackBudget {
    /// A budget for a walk that begins here.
    #[inline]
    pub(crate) fn from_here() -> StackBudget {
        let start = here();
        StackBudget { limit: start.wrapping_sub(SMALL), start: NonZero::new(start) }
    }

    /// Whether the walk may go deeper than the caller's frame. Once it may not, it never may again.
    #[inline]
    pub(crate) fn is_left(&mut self) -> bool {
        let here = here();
        if here < self.limit {
            *self = self.checked_at(here);
        }
        here >= self.limit
    }

    /// Whether [`is_left`](Self::is_left) has ever been false.
    #[inline]
    pub(crate) fn is_exhausted(&self) -> bool {
        self.limit == EXHAUSTED
    }

    /// The budget with its real limit. Takes it by value, so that the caller may keep a budget in registers.
    #[cold]
    #[inline(never)]
    fn checked_at(self, here: usize) -> StackBudget {
        let limit = self.start.map_or(self.limit, |start| start.get() - usable(start.get()));
        StackBudget { limit: if here < limit { EXHAUSTED } else { limit }, start: None }
    }
}

/// How much stack a walk that begins at `start` may use.
fn usable(start: usize) -> usize {
    match of_this_thread() {
        Some(stack) if stack.contains(&start) => (start - stack.start) / 2,
        // Not on this thread's own stack, or its bounds are unknown.
        _ => UNKNOWN.min(start),
    }
}

/// About the present top of the stack.
#[inline(always)]
fn here() -> usize {
    let local = 0u8;
    ptr::from_ref(&local).addr()
}

fn of_this_thread() -> Option<Range<usize>> {
    // A failure is not cached: the main thread's stack is looked up in /proc, which may fail now and work later.
    let (start, end) = STACK.get().or_else(look_up)?;
    STACK.set(Some((start, end)));
    Some(start..end)
}

/// The lowest usable address of this thread's stack, and its end. The main thread's stack may grow down to that address
/// (`ulimit -s`).
fn look_up() -> Option<(usize, usize)> {
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
    let stack_failed = unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &mut lowest, &mut size) };
    // SAFETY: as above.
    let guard_failed = unsafe { libc::pthread_attr_getguardsize(attributes.as_ptr(), &mut guard_size) };
    // SAFETY: as above; they are not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if stack_failed != 0 || guard_failed != 0 {
        return None;
    }
    // C libraries differ in whether the range that they report includes the guard: assume that it does.
    let lowest = lowest.addr();
    Some((lowest.checked_add(guard_size)?, lowest.checked_add(size)?))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::hint::black_box;
    use std::thread;

    use super::*;

    /// Runs `f` on a thread with a stack of this size.
    pub(crate) fn on_a_stack_of<R: Send + 'static>(size: usize, f: impl FnOnce() -> R + Send + 'static) -> R {
        thread::Builder::new().stack_size(size).spawn(f).unwrap().join().unwrap()
    }

    /// Recurses until the budget is exhausted; returns how much stack that used.
    #[inline(never)]
    fn descend(budget: &mut StackBudget, start: usize) -> usize {
        let frame = black_box([0u8; 256]);
        if !budget.is_left() {
            return start - here();
        }
        let used = descend(budget, start);
        black_box(&frame);
        used
    }

    #[test]
    fn a_thread_knows_its_own_stack() {
        for size in [64 << 10, 2 << 20, 16 << 20] {
            let (stack, here) = on_a_stack_of(size, || (of_this_thread().unwrap(), here()));
            assert!(stack.contains(&here), "{stack:?}, {here}");
            // The C library may reuse the stack of a thread that has ended, if that is large enough and not huge.
            assert!(stack.len() >= size - (16 << 10) && stack.len() <= 4 * size + (64 << 10), "{size}: {stack:?}");
        }
    }

    #[test]
    fn half_of_what_is_left_may_be_used() {
        for size in [64usize << 10, 256 << 10, 2 << 20] {
            let (used, len) = on_a_stack_of(size, || {
                let used = descend(&mut StackBudget::from_here(), here());
                (used, of_this_thread().unwrap().len())
            });
            assert!(used > len / 4 && used < len / 2 + (16 << 10), "{used} of {len}");
        }
    }

    #[test]
    fn an_exhausted_budget_stays_exhausted() {
        let mut budget = StackBudget::from_here();
        assert!(budget.is_left());
        assert!(!budget.is_exhausted());
        descend(&mut budget, here());
        assert!(budget.is_exhausted());
        assert!(!budget.is_left(), "the walk is over, even where there would be stack");
    }

    #[test]
    fn little_is_used_of_an_unknown_stack() {
        assert_eq!(usable(1 << 40), UNKNOWN);
        let elsewhere = Box::new(0u8);
        assert_eq!(usable(ptr::from_ref(&*elsewhere).addr()), UNKNOWN);
    }
}
