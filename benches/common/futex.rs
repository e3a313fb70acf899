//! futex(2) on a word of shared memory.

#![expect(unsafe_code, reason = "the system call futex has no safe wrapper")]

use std::ptr;
use std::sync::atomic::AtomicU32;

/// Sleeps while the word is `value`. May return spuriously.
pub(crate) fn wait(word: &AtomicU32, value: u32) {
    let timeout = ptr::null::<libc::timespec>();
    // SAFETY: the kernel only reads the word, which lives as long as the call, and there is no timeout to read.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, timeout) };
}

/// Wakes one sleeper.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel only looks for sleepers by the word's address.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}
