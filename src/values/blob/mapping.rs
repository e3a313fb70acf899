//! A read-only mapping of a file, so that a value is decoded in place (zero-copy).

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

use super::seals::FUTURE_WRITE;
use super::seals::constant;
use super::seals::fixed_length;

/// The first bytes of a file, which do not change while they are borrowed.
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
    /// The first `len` bytes of a file that can never change. `None` if the file can change, whatever its sender claims, if
    /// it is not plain memory, or if the kernel refuses to map it.
    pub(super) fn of_constant(file: impl AsFd, len: u64) -> Option<Self> {
        // Not shared: kernels before 6.7 refuse that for a file that is sealed and was opened for writing.
        if is_whole(&file, constant(), len) { Self::new(file, len, MapFlags::MAP_PRIVATE) } else { None }
    }

    /// The `len` bytes of such a file whose sender is trusted to have left no holes in it: to look for them takes the kernel
    /// longer, the longer the file is. `None` as for [`of_constant`](Self::of_constant).
    pub(super) fn of_trusted_constant(file: impl AsFd, len: u64) -> Option<Self> {
        if is_sealed_memory(&file, constant()) { Self::new(file, len, MapFlags::MAP_PRIVATE) } else { None }
    }

    /// The first `len` bytes of a buffer, whose owner is trusted to write only while no process reads. `None` if another
    /// process could write the file, and as for [`of_constant`](Self::of_constant).
    pub(super) fn of_buffer(file: impl AsFd, len: u64) -> Option<Self> {
        if is_whole(&file, FUTURE_WRITE | fixed_length(), len) {
            Self::new(file, len, MapFlags::MAP_SHARED)
        } else {
            None
        }
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
        // SAFETY: mapped for reading as long as `self` lives, with this length (`new`); bytes need no alignment, and any
        // value is valid. No page is missing or will be: the file is that long, has no holes, and cannot be truncated
        // (`is_whole`, which the sender has checked for `of_trusted_constant`). The bytes do not change while they are borrowed: either no process can write the file, punch
        // holes into it or map it for writing; or only its owner can, which is the parent of this process, and which does
        // not before it has this process's answer (`Blob::mark_answered`), which is sent after the bytes have been read.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

/// Whether a file has these seals, and each of its first `len` bytes exists and cannot vanish.
fn is_whole(file: impl AsFd, wanted: SealFlag, len: u64) -> bool {
    if !is_sealed_memory(&file, wanted) {
        return false;
    }
    // The order matters: from here on the file is sealed, with its length, which may have changed since it was received,
    // and with its holes. A page for a hole is allocated when it is read, and a failure to do so would be SIGBUS.
    // (lseek moves the file's own offset, which no reader uses.)
    let first_hole: Result<_, Errno> = lseek(&file, 0, Whence::SeekHole);
    first_hole.is_ok_and(|offset| u64::try_from(offset).is_ok_and(|offset| offset >= len))
}

/// Whether a file is in memory and has these seals.
fn is_sealed_memory(file: impl AsFd, wanted: SealFlag) -> bool {
    // Only files of tmpfs and hugetlbfs have seals. A page of hugetlbfs may be missing at any time.
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    seals.is_ok_and(|seals| seals.contains(wanted)) && is_in_memory(&file)
}

/// Whether it is a file that can have seals: only files of tmpfs and hugetlbfs can.
pub(super) fn has_seals(file: impl AsFd) -> bool {
    fcntl(file, FcntlArg::F_GET_SEALS).is_ok()
}

/// Whether a file is in memory, in pages of the usual size, and not on a disk.
pub(super) fn is_in_memory(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|status| status.filesystem_type() == TMPFS_MAGIC)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping, with this length, and nothing borrows it any more.
        let unmapped = unsafe { munmap(self.start.cast(), self.len) };
        if let Err(errno) = unmapped {
            log::error!("munmap of a large value: {errno}: a bug in procpool");
        }
    }
}
