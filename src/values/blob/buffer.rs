//! A file that this process can always write, and that no other process can ever write.
//!
//! F_SEAL_FUTURE_WRITE (Linux 5.1) forbids every write and every writable mapping except those that exist already: the
//! one of this process, which no forked child inherits. So a worker that has the descriptor can read what is in the file
//! now, but can neither change what other workers will be sent in it, nor truncate it while this process writes.
//!
//! A worker maps the file and reads it in place. So the owner of a [`Buffer`] must be sure that no process reads it
//! before it writes.
//!
//! Also called: shared memory buffer, single-writer mapping.

#![expect(
    unsafe_code,
    reason = "the one writable mapping is a raw pointer; its SAFETY notes say which side reads and writes"
)]

use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::fcntl::FcntlArg;
use nix::fcntl::SealFlag;
use nix::fcntl::fcntl;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;
use start_methods::PrivateFd;

use super::footer::Footer;
use super::footer::LoanState;
use super::seals::FUTURE_WRITE;
use super::seals::fixed_length;
use crate::sys::owner_process::OwnerProcess;

/// A writable mapping of a file that is sealed against all other writers.
#[derive(Debug)]
pub(super) struct Buffer {
    fd: Arc<PrivateFd>,
    base: NonNull<u8>,
    /// How many bytes fit before the footer.
    capacity: usize,
    /// The process that has the mapping.
    owner: OwnerProcess,
}

// SAFETY: the pointer is to a mapping that lives as long as `self` and belongs to no thread; it is written through
// `&mut self` only.
unsafe impl Send for Buffer {}
// SAFETY: as above; through `&self` it is only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Turns a file of `capacity` bytes and a footer, without holes, into a buffer. `None` if the kernel does not support
    /// the seals; the file is unchanged then.
    pub(super) fn of_file(fd: &Arc<PrivateFd>, capacity: usize) -> Option<Self> {
        let len = NonZero::new(mapping_len(capacity)).expect("the footer has bytes");
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice; it overlaps nothing.
        let base = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, &**fd, 0) }.ok()?;
        // DONTFORK: a forked worker must not be able to write what its siblings are sent.
        // SAFETY: the range is the mapping that was just made; its contents in this process do not change.
        let hidden = unsafe { madvise(base, len.get(), MmapAdvise::MADV_DONTFORK) };
        let seals = FUTURE_WRITE | fixed_length() | SealFlag::F_SEAL_SEAL;
        let sealed = hidden.and_then(|()| fcntl(&**fd, FcntlArg::F_ADD_SEALS(seals)));
        if sealed.is_err() {
            // SAFETY: mapped above, with this length; there is no other pointer to it.
            let _: nix::Result<()> = unsafe { munmap(base, len.get()) };
            return None;
        }
        Some(Self { fd: Arc::clone(fd), base: base.cast(), capacity, owner: OwnerProcess::here() })
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether this process made the mapping, and is no forked copy.
    fn is_here(&self) -> bool {
        self.owner.is_here()
    }

    /// Copies `bytes` to the offset `start`.
    ///
    /// # Panics
    ///
    /// They do not fit before the footer.
    pub(super) fn write(&mut self, start: usize, bytes: &[u8]) {
        assert!(start + bytes.len() <= self.capacity, "the writer checks the capacity first");
        self.put(start, bytes);
    }

    /// Writes the footer of a value of `len` bytes.
    pub(super) fn finish(&mut self, len: usize) {
        let footer = Footer { offset: self.capacity as u64, len: len as u64, loan: LoanState::Given };
        self.put(self.capacity, &footer.to_bytes());
    }

    fn put(&mut self, start: usize, bytes: &[u8]) {
        assert!(self.is_here(), "a forked copy of this process has no mapping");
        // SAFETY: the callers have checked that the place is before the end of the mapping.
        let to = unsafe { self.base.add(start) };
        // SAFETY: `bytes` fit behind `to` (as above), which is writable: this process mapped it. The file is sealed at this
        // length and has no holes, so no page is missing. `bytes` does not overlap it, because no reference into the
        // mapping exists while it is borrowed mutably. Other processes can only read it, and none does: the buffer is
        // either new, or came back because its last reader has answered (`Blob::mark_answered`).
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// The first `len` bytes.
    pub(super) fn start(&self, len: usize) -> &[u8] {
        assert!(len <= self.capacity && self.is_here(), "no more than was written, and by this process");
        // SAFETY: mapped as long as `self` lives, and longer than `len`; the bytes change through `&mut self` only, because
        // no other process can write the file.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), len) }
    }
}

fn mapping_len(capacity: usize) -> usize {
    capacity + Footer::LEN
}

impl AsFd for Buffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // In a forked copy of the process another mapping may be at this address.
        if !self.is_here() {
            return;
        }
        // SAFETY: `of_file` made the mapping, with this length, in this process, and nothing borrows it any more.
        let unmapped = unsafe { munmap(self.base.cast(), mapping_len(self.capacity)) };
        if let Err(errno) = unmapped {
            log::error!("munmap of a buffer: {errno}: a bug in procpool");
        }
    }
}
