//! Memory that a forked child shares with its parent: nothing but words that may be changed by both.

#![expect(unsafe_code, reason = "mmap has no safe wrapper")]

use std::num::NonZeroUsize;
use std::slice;
use std::sync::atomic::AtomicU32;

use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap_anonymous;

/// Words of one cache line. Those that are written by different processes are kept this far apart.
pub(crate) const LINE_WORDS: usize = 16;

/// So many cache lines, all zero. They are never unmapped: a bench asks once.
pub(crate) fn lines(count: usize) -> anyhow::Result<&'static [AtomicU32]> {
    let words = count * LINE_WORDS;
    let bytes = NonZeroUsize::new(words * size_of::<AtomicU32>()).expect("at least one line");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, where the kernel likes.
    let start = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_SHARED) }?;
    // SAFETY: the mapping is that long, aligned to a page, filled with zeroes and never unmapped; and every word may be
    // changed at any time by whoever has it, which is what atomics are for.
    Ok(unsafe { slice::from_raw_parts(start.cast().as_ptr(), words) })
}
