//! A file in memory, and what it takes to map it and to read one byte of it.

#![expect(unsafe_code, reason = "mmap has no safe wrapper")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;

/// A file of this length that exists from its middle on for one byte.
pub(crate) struct MemoryFile {
    file: File,
    len: NonZeroUsize,
}

impl MemoryFile {
    pub(crate) fn new(len: usize) -> anyhow::Result<Self> {
        let file = File::from(memfd_create("bench", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(len as u64)?;
        file.write_all_at(&[7], len as u64 / 2)?;
        Ok(Self { file, len: NonZeroUsize::new(len).expect("it has bytes") })
    }

    /// Maps it, reads the byte in its middle, and unmaps it.
    pub(crate) fn read_middle(&self) -> anyhow::Result<u8> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap(None, self.len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, &self.file, 0) }?;
        // SAFETY: the middle is inside the mapping.
        let middle = unsafe { start.cast::<u8>().add(self.len.get() / 2) };
        // SAFETY: mapped for reading, and the file is that long.
        let byte = unsafe { middle.read_volatile() };
        // SAFETY: mapped above, with this length; there is no other pointer to it.
        unsafe { munmap(start, self.len.get()) }?;
        Ok(byte)
    }
}
