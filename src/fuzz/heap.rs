//! Counts how much memory a decoder allocates: it must not trust a length in the bytes.

#![expect(unsafe_code, reason = "an allocator is an unsafe trait; this one counts, and forwards every call")]

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread allocates.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is forwarded unchanged to the system's allocator, which does all that the trait requires.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // At the end of a thread, the counter has been destroyed.
        let _: Result<_, _> = ALLOCATED.try_with(|total| total.set(total.get().saturating_add(layout.size())));
        // SAFETY: the caller promises what the system's allocator needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

/// How many bytes this thread allocates in total while it runs `f`.
pub(super) fn allocated_by(f: impl FnOnce()) -> usize {
    let before = ALLOCATED.get();
    f();
    ALLOCATED.get() - before
}
