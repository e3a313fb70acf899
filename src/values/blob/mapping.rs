//! A file in memory, to be read where it lies.

#![expect(unsafe_code, reason = "a mapping is a raw pointer; its SAFETY notes say why what it points to is constant")]

use std::num::NonZero;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::SealFlag;
use nix::fcntl::fcntl;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;
use nix::sys::statfs::TMPFS_MAGIC;
use nix::sys::statfs::fstatfs;
use nix::unistd::Whence;
use nix::unistd::lseek;

use super::FUTURE_WRITE;
use super::constant;
use super::fixed;

/// The beginning of a file, as long as that does not change.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pointer is to a mapping that lives as long as `self`, belongs to no thread, and is only read.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The first `len` bytes of a file that can never change. `None` if it can, whoever promises the contrary, or is
    /// anything but plain memory, or if the kernel would rather not.
    pub(super) fn of_constant(file: impl AsFd, len: u64) -> Option<Self> {
        // Not shared: kernels before 6.7 refuse that for a file that is sealed and was opened for writing.
        if is_whole(&file, constant(), len) { Self::new(file, len, MapFlags::MAP_PRIVATE) } else { None }
    }

    /// The first `len` bytes of a [`Buffer`](super::Buffer), whose maker is trusted: it writes into it when nobody reads
    /// it. `None` if anybody else could write it, and as above.
    pub(super) fn of_buffer(file: impl AsFd, len: u64) -> Option<Self> {
        if is_whole(&file, FUTURE_WRITE | fixed(), len) { Self::new(file, len, MapFlags::MAP_SHARED) } else { None }
    }

    fn new(file: impl AsFd, len: u64, flags: MapFlags) -> Option<Self> {
        let len = NonZero::new(usize::try_from(len).ok()?)?;
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing.
        let start = unsafe { mmap(None, len, ProtFlags::PROT_READ, flags, file, 0) }.ok()?;
        Some(Self { start: start.cast(), len: len.get() })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading as long as `self`, and so long (`new`); bytes need no alignment and have any value.
        // None of its pages is missing or will be: the file is as long, has no holes, and cannot be truncated
        // (`is_whole`). The bytes do not change while they are borrowed: either nobody can write the file, its holes
        // included, nor map it for writing; or only its maker can, who is our parent, and does not before our answer
        // (`Blob::note_answered`), which we give when we have read.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

/// Whether a file has these seals, and every one of its first `len` bytes is there and cannot go.
fn is_whole(file: impl AsFd, wanted: SealFlag, len: u64) -> bool {
    // Only files of tmpfs and hugetlbfs have seals. A page of the latter may be missing at any time.
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    if !seals.is_ok_and(|seals| seals.contains(wanted)) || !is_in_memory(&file) {
        return false;
    }
    // From here on the file stays as it is: with its length, which may not be what it was when it came, and with
    // its holes. A page for a hole is found when it is read, or not found, which would be SIGBUS.
    // (The offset that is moved by this is nobody's: readers have their own.)
    let first_hole: Result<_, Errno> = lseek(&file, 0, Whence::SeekHole);
    first_hole.is_ok_and(|offset| u64::try_from(offset).is_ok_and(|offset| offset >= len))
}

/// Whether a file is in memory, in pages of the usual size, and on no disk.
pub(super) fn is_in_memory(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|status| status.filesystem_type() == TMPFS_MAGIC)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, with this length, and nothing that borrowed it is left.
        let unmapped = unsafe { munmap(self.start.cast(), self.len) };
        if let Err(errno) = unmapped {
            log::error!("munmap of a large value: {errno}: a bug in procpool");
        }
    }
}
