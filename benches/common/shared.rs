//! Memory that a forked child shares with its parent, as atomic words.

#![expect(unsafe_code, reason = "mmap has no safe wrapper")]

use std::num::NonZeroUsize;
use std::slice;
use std::sync::atomic::AtomicU32;

use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap_anonymous;

/// Words in one cache line. Words that different processes write are kept this far apart (false sharing).
pub(crate) const LINE_WORDS: usize = 16;

/// Maps `count` zeroed cache lines. They are never unmapped: a bench calls this once.
pub(crate) fn lines(count: usize) -> anyhow::Result<&'static [AtomicU32]> {
    let words = count * LINE_WORDS;
    let bytes = NonZeroUsize::new(words * size_of::<AtomicU32>()).expect("at least one line");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let start = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_SHARED) }?;
    // SAFETY: the mapping has that length, is aligned to a page, zeroed and never unmapped. Both processes may change
    // any word at any time, which atomics allow.
    Ok(unsafe { slice::from_raw_parts(start.cast().as_ptr(), words) })
}
