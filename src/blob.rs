//! Bytes too large for a frame: written once into an anonymous file, sealed, passed by descriptor.
//!
//! ```text
//!   writer   memfd, write(2), F_SEAL_WRITE | SHRINK | GROW | SEAL    from here on nobody can change a byte
//!   reader   asks for the seals, maps the file, decodes in place     or copies it out with pread(2), if it is small,
//!                                                                    or anything is not as it should be
//! ```
//!
//! What is mapped here can neither change nor vanish, whoever sent it, so a `&[u8]` to it is sound, and no access to
//! it is a SIGBUS. What promises less is copied: whatever its writer does meanwhile then costs at most a wrong value.
//!
//! Files are not written through a mapping. The kernel would clear each page before it is overwritten, and take a
//! fault for each: twice the time that write(2) takes. It could also be SIGBUS when memory runs out, where write(2)
//! has an error.

#![expect(unsafe_code, reason = "a mapping is a raw pointer; its SAFETY notes say why what it points to is constant")]

use std::io;
use std::io::IoSlice;
use std::num::NonZero;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use libc::off_t;
use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::SealFlag;
use nix::fcntl::fcntl;
use nix::fcntl::open;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use nix::sys::statfs::TMPFS_MAGIC;
use nix::sys::statfs::fstatfs;
use nix::sys::uio::writev;
use nix::unistd::Whence;
use nix::unistd::lseek;
use start_methods::PrivateFd;

use crate::failpoint::failpoint;
use crate::failpoint::fault;

/// What fits a frame; more travels as a blob.
pub(crate) const INLINE_MAX: usize = 60 * 1024;

/// Shorter blobs are copied out: that takes less time than to map them, to fault and to unmap.
const MAP_MIN: u64 = 256 * 1024;

/// An anonymous file full of bytes. Clones share the file.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    fd: Arc<PrivateFd>,
    len: u64,
}

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    fd: PrivateFd,
    len: u64,
}

impl Writer {
    /// A new file, empty.
    ///
    /// # Errors
    ///
    /// There is no descriptor left, or no place for anonymous files.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { fd: PrivateFd::adopt(anonymous_file()?)?, len: 0 })
    }

    /// Appends the parts, one behind the other.
    ///
    /// # Errors
    ///
    /// There is not enough memory.
    pub(crate) fn write(&mut self, parts: [&[u8]; 2]) -> io::Result<()> {
        let mut parts = &mut parts.map(IoSlice::new)[..];
        // Parts of nothing are advanced over as well, and not written.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match writev(&self.fd, parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    failpoint!("mid_blob");
                    self.len += count as u64;
                    IoSlice::advance_slices(&mut parts, count);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// What was written, for good.
    pub(crate) fn finish(self) -> Blob {
        // A file that cannot be sealed will be copied by its reader, who asks.
        let _: Result<_, Errno> = fcntl(&self.fd, FcntlArg::F_ADD_SEALS(constant() | SealFlag::F_SEAL_SEAL));
        Blob { fd: Arc::new(self.fd), len: self.len }
    }
}

/// The seals of a file whose bytes cannot change any more. F_SEAL_WRITE is refused while anybody has a writable mapping
/// of the file, and allows none later; with F_SEAL_GROW nothing can be allocated behind the end.
fn constant() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

impl Blob {
    /// What another process sent.
    ///
    /// # Errors
    ///
    /// It is not a regular file, so reading it might block.
    pub(crate) fn receive(fd: PrivateFd) -> io::Result<Self> {
        let status = fstat(&fd)?;
        if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the descriptor of a large value is not a file"));
        }
        let len = u64::try_from(status.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self { fd: Arc::new(fd), len })
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// There is not enough memory, or the file became shorter.
    pub(crate) fn read(&self) -> io::Result<Bytes> {
        if self.len >= MAP_MIN
            && let Some(mapping) = self.map()
        {
            return Ok(Bytes(Kind::Mapped(mapping)));
        }
        self.copy(self.len).map(|bytes| Bytes(Kind::Copied(bytes)))
    }

    /// A copy of the first bytes, `max` at most.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub(crate) fn read_start(&self, max: usize) -> io::Result<Vec<u8>> {
        self.copy(self.len.min(max as u64))
    }

    /// `None` if it may still change, or be anything but plain memory, or if the kernel would rather not.
    fn map(&self) -> Option<Mapping> {
        let len = NonZero::new(usize::try_from(self.len).ok()?)?;
        if !self.is_constant() {
            return None;
        }
        // Not shared: kernels before 6.7 refuse that for a file that is sealed and was opened for writing.
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing.
        let start = unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, &self.fd, 0) }.ok()?;
        Some(Mapping { start: start.cast(), len: len.get() })
    }

    /// Whether every byte of the file is there and can neither change nor go.
    fn is_constant(&self) -> bool {
        // Only files of tmpfs and hugetlbfs have seals. A page of the latter may be missing at any time.
        let seals = fcntl(&self.fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
        if !seals.is_ok_and(|seals| seals.contains(constant()))
            || !fstatfs(&self.fd).is_ok_and(|status| status.filesystem_type() == TMPFS_MAGIC)
        {
            return false;
        }
        // From here on the file stays as it is: with its length, which may not be what it was when it came, and with
        // its holes. A page for a hole is found when it is read, or not found, which would be SIGBUS.
        // (The offset that is moved by this is nobody's: readers have their own.)
        let first_hole = lseek(&self.fd, 0, Whence::SeekHole);
        first_hole.is_ok_and(|offset| u64::try_from(offset).is_ok_and(|offset| offset >= self.len))
    }

    fn copy(&self, len: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        while bytes.len() < len {
            let done = bytes.len();
            let offset = off_t::try_from(done).map_err(|_| io::ErrorKind::OutOfMemory)?;
            let room = &mut bytes.spare_capacity_mut()[..len - done];
            let (fd, to) = (self.fd.as_fd().as_raw_fd(), room.as_mut_ptr().cast());
            // SAFETY: the kernel writes to `room`, which is ours and that long, and reads nothing.
            let count = unsafe { libc::pread(fd, to, room.len(), offset) };
            match Errno::result(count) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // SAFETY: so many bytes behind `done` have just been written, and no more than there was room for.
                Ok(count) => unsafe { bytes.set_len(done + count.unsigned_abs()) },
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(bytes)
    }
}

impl AsFd for Blob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The bytes of a blob, where they lie or as a copy.
#[derive(Debug)]
pub(crate) struct Bytes(Kind);

#[derive(Debug)]
enum Kind {
    Mapped(Mapping),
    Copied(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Mapped(mapping) => mapping.bytes(),
            Kind::Copied(bytes) => bytes,
        }
    }
}

/// A file that cannot change, in memory.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading as long as `self`, and so long (`map`); bytes need no alignment and have any
        // value. They do not change: the file is sealed against writing, so it can be neither written nor mapped for
        // writing by anybody, its holes included, and this mapping is private and read-only. None of its pages is
        // missing or will be: it is as long, has no holes (`is_constant`), and cannot be truncated.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, with this length, and nothing that borrowed it is left.
        let unmapped = unsafe { munmap(self.start.cast(), self.len) };
        if let Err(errno) = unmapped {
            log::error!("munmap of a large value: {errno}: a bug in procpool");
        }
    }
}

/// A memfd, or an unlinked temporary file, which has no seals, where memfd_create(2) is refused.
fn anonymous_file() -> io::Result<OwnedFd> {
    fault!("blob");
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Never executable, where the kernel knows that flag (6.3).
    let memfd = match memfd_create("procpool", flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create("procpool", flags),
        made => made,
    };
    memfd.or_else(|_| {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let open_in = |folder: &std::path::Path| open(folder, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let fd = open_in("/dev/shm".as_ref()).or_else(|_| open_in(&std::env::temp_dir()))?;
        Ok(fd)
    })
}

#[cfg(test)]
mod tests;
