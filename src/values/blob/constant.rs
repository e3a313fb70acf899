//! A file in memory that never changes, mapped: written once, then sealed against every change.
//!
//! It is written with pwrite(2), or through a mapping that is gone before the file is sealed: F_SEAL_WRITE is refused
//! while a writable mapping exists, and after it there can be none. So what the mapping shows is constant, in every process
//! that has it.
//!
//! Unlike other descriptors of this crate, this one is not closed in forked copies of the process: they have the mapping,
//! and with it the memory, anyway.
//!
//! Also called: memfd, file sealing, immutable shared memory.

#![expect(unsafe_code, reason = "a writable mapping is a raw pointer, until the file is sealed")]

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use nix::fcntl::FallocateFlags;
use nix::fcntl::FcntlArg;
use nix::fcntl::SealFlag;
use nix::fcntl::fallocate;
use nix::fcntl::fcntl;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;
use nix::sys::stat::fstat;

use super::mapping;
use super::mapping::Mapping;
use super::positioned::file_offset;
use super::positioned::write_at;
use super::sealed::anonymous_file;
use super::seals::constant;
use crate::sys::file_size;
use crate::values::attach::Source;

/// A file, at least one byte long, and its mapping.
#[derive(Debug)]
pub(crate) struct ConstantFile {
    fd: OwnedFd,
    mapping: Mapping,
}

/// Identifies a file as long as a process has it open or mapped: device and inode.
pub(crate) type FileId = (u64, u64);

impl ConstantFile {
    /// A file with these bytes, of which there is at least one.
    ///
    /// # Errors
    ///
    /// There is no descriptor, not enough memory, or no sealed memory on this system; `FileTooLarge`.
    pub(crate) fn of_bytes(bytes: &[u8]) -> io::Result<Self> {
        let fd = anonymous_file()?;
        write_at(&fd, [bytes, &[]], 0)?;
        Self::seal(fd, bytes.len())
    }

    /// A file of `len` bytes, at least one, that `fill` writes. They are zeros before.
    ///
    /// # Errors
    ///
    /// As for [`of_bytes`](Self::of_bytes).
    pub(crate) fn filled_by(len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Self> {
        let fd = anonymous_file()?;
        file_size::check(len as u64)?;
        // All of it now: a page that could not be allocated when it is written would end the process (SIGBUS).
        fallocate(&fd, FallocateFlags::empty(), 0, file_offset(len as u64)?)?;
        let mut writable = Writable::new(&fd, len)?;
        fill(writable.bytes());
        drop(writable);
        Self::seal(fd, len)
    }

    /// A file with what the other one has from its offset to its end, at least one byte.
    ///
    /// # Errors
    ///
    /// As for [`of_bytes`](Self::of_bytes), and those of reading; `UnexpectedEof` if the file became shorter meanwhile.
    pub(crate) fn copy_of(file: &File, len: u64) -> io::Result<Self> {
        file_size::check(len)?;
        let mut copy = File::from(anonymous_file()?);
        // The kernel copies from page to page.
        if io::copy(&mut file.take(len), &mut copy)? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        copy.rewind()?;
        Self::seal(copy.into(), usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?)
    }

    fn seal(fd: OwnedFd, len: usize) -> io::Result<Self> {
        let refused = |_| {
            let text = "this system has no memory that can be sealed (memfd_create(2), F_ADD_SEALS), so that none can be \
                        shared safely";
            io::Error::new(io::ErrorKind::Unsupported, text)
        };
        fcntl(&fd, FcntlArg::F_ADD_SEALS(constant() | SealFlag::F_SEAL_SEAL)).map_err(refused)?;
        let mapping = Mapping::of_trusted_constant(&fd, len as u64).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { fd, mapping })
    }

    /// The identity of a file that another process has sent, and its length.
    ///
    /// # Errors
    ///
    /// `InvalidData`: it is no file in memory, or an empty one; otherwise the error of fstat(2).
    pub(crate) fn identify(fd: BorrowedFd<'_>) -> io::Result<(FileId, u64)> {
        // First: this asks the kernel only. Other calls ask the owner of the file, which may be a process that does not
        // answer.
        if !mapping::has_seals(fd) {
            return Err(not_sealed());
        }
        let status = fstat(fd)?;
        match u64::try_from(status.st_size) {
            Ok(len @ 1..) => Ok(((status.st_dev, status.st_ino), len)),
            _ => Err(not_sealed()),
        }
    }

    /// A file of `len` bytes that another process has sent.
    ///
    /// # Errors
    ///
    /// `InvalidData`: it can change or vanish; otherwise the error of dup(2) or mmap(2).
    pub(crate) fn receive(fd: BorrowedFd<'_>, len: u64, source: Source) -> io::Result<Self> {
        let mapping = match source {
            Source::Parent => Mapping::of_trusted_constant(fd, len),
            Source::Other => Mapping::of_constant(fd, len),
        };
        Ok(Self { mapping: mapping.ok_or_else(not_sealed)?, fd: fd.try_clone_to_owned()? })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.mapping.bytes()
    }

    /// Its identity.
    ///
    /// # Errors
    ///
    /// The error of fstat(2).
    pub(crate) fn id(&self) -> io::Result<FileId> {
        Self::identify(self.fd.as_fd()).map(|(id, _)| id)
    }
}

impl AsFd for ConstantFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn not_sealed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what was sent as shared memory is not sealed memory")
}

/// A writable mapping of a file that only this thread uses.
struct Writable {
    start: NonNull<u8>,
    len: NonZero<usize>,
}

impl Writable {
    fn new(fd: &OwnedFd, len: usize) -> io::Result<Self> {
        let len = NonZero::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing.
        let start = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, fd, 0) }?;
        let writable = Self { start: start.cast(), len };
        // A process that is forked meanwhile must not keep a writable mapping: the file could not be sealed.
        // SAFETY: the range is the mapping that was just made; its contents in this process do not change.
        unsafe { madvise(start, len.get(), MmapAdvise::MADV_DONTFORK) }?;
        Ok(writable)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped for reading and writing as long as `self` lives, with this length, and no page is missing: the file
        // was allocated. The file has no other mapping and no other descriptor, so nothing else reads or writes it while
        // `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len.get()) }
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping, with this length, in this process, and nothing borrows it any more.
        let unmapped = unsafe { munmap(self.start.cast(), self.len.get()) };
        if let Err(errno) = unmapped {
            log::error!("munmap of shared memory: {errno}: a bug in procpool");
        }
    }
}
