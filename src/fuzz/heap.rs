//! How much memory is asked for while bytes are read: what a length in them says must not be believed.

#![expect(unsafe_code, reason = "an allocator is an unsafe trait; this one counts, and passes everything on")]

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;

thread_local! {
    static ASKED_FOR: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread asks for.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: all that the trait asks for is done by the system's allocator, to which every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // At the end of a thread there is nothing left to count with.
        let _: Result<_, _> = ASKED_FOR.try_with(|asked| asked.set(asked.get().saturating_add(layout.size())));
        // SAFETY: the caller promises what the system's allocator needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

/// How many bytes this thread asks for, in all, while it does this.
pub(super) fn asked_for(f: impl FnOnce()) -> usize {
    let before = ASKED_FOR.get();
    f();
    ASKED_FOR.get() - before
}
