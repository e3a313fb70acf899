//! A file that this process may write for ever, and nobody else at any time.
//!
//! F_SEAL_FUTURE_WRITE (Linux 5.1) forbids every write and every writable mapping but those that exist already: ours,
//! which no forked child has. So a worker to which the descriptor was passed can read what is in the file now, and
//! neither change what others will be sent in it, nor make it shorter under our hands.
//!
//! A worker has it mapped and reads it there. So whoever has a buffer must be sure that nobody reads it before he writes.

#![expect(unsafe_code, reason = "the one writable mapping is a raw pointer; its SAFETY notes say who reads and writes")]

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

use super::FUTURE_WRITE;
use super::Foot;
use super::State;
use super::fixed;
use crate::sys::owner_process::OwnerProcess;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Buffer {
    fd: Arc<PrivateFd>,
    base: NonNull<u8>,
    /// How many bytes have room. The foot stands behind them.
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
    /// Makes a buffer of a file in which `capacity` bytes and a foot stand, and which has no holes. `None` if the kernel
    /// does not know such seals; then nothing has been done to the file.
    pub(super) fn of_file(fd: &Arc<PrivateFd>, capacity: usize) -> Option<Self> {
        let len = NonZero::new(mapping_len(capacity)).expect("the foot has bytes");
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice; it overlaps nothing.
        let base = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, &**fd, 0) }.ok()?;
        // A forked worker must not be able to write what its siblings are sent.
        // SAFETY: the range is the mapping that was just made; its contents in this process do not change.
        let hidden = unsafe { madvise(base, len.get(), MmapAdvise::MADV_DONTFORK) };
        let seals = FUTURE_WRITE | fixed() | SealFlag::F_SEAL_SEAL;
        let sealed = hidden.and_then(|()| fcntl(&**fd, FcntlArg::F_ADD_SEALS(seals)));
        if sealed.is_err() {
            // SAFETY: made above, with this length; nobody has another pointer to it.
            let _: nix::Result<()> = unsafe { munmap(base, len.get()) };
            return None;
        }
        Some(Self { fd: Arc::clone(fd), base: base.cast(), capacity, owner: OwnerProcess::here() })
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether this process can write it.
    fn is_here(&self) -> bool {
        self.owner.is_here()
    }

    /// Copies `bytes` to `start`, where there must be room.
    pub(super) fn write(&mut self, start: usize, bytes: &[u8]) {
        assert!(start + bytes.len() <= self.capacity, "the writer looks for room first");
        self.put(start, bytes);
    }

    /// Notes how many bytes the value has.
    pub(super) fn finish(&mut self, len: usize) {
        let foot = Foot { offset: self.capacity as u64, len: len as u64, state: State::Given };
        self.put(self.capacity, &foot.to_bytes());
    }

    fn put(&mut self, start: usize, bytes: &[u8]) {
        assert!(self.is_here(), "a copy of this process has no mapping");
        // SAFETY: the callers have seen that the place is before the end of the mapping.
        let to = unsafe { self.base.add(start) };
        // SAFETY: `to` has so much room (as above), and is writable: this process mapped it. The file is sealed at this
        // length and has no holes, so no page is missing. `bytes` does not overlap it, since nobody has a reference into
        // the mapping while it is borrowed mutably. Other processes can only read it, and none does: the buffer is either
        // new, or came back from one who has answered (`Blob::note_answered`).
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// The first `len` bytes.
    pub(super) fn start(&self, len: usize) -> &[u8] {
        assert!(len <= self.capacity && self.is_here(), "no more than was written, and by this process");
        // SAFETY: mapped as long as `self`, and longer than that; the bytes change through `&mut self` only, since no
        // other process can write the file.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), len) }
    }
}

fn mapping_len(capacity: usize) -> usize {
    capacity + Foot::LEN
}

impl AsFd for Buffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // In a copy of the process something else may be at this address.
        if !self.is_here() {
            return;
        }
        // SAFETY: the mapping was made by `of_file`, with this length, in this process, and nothing that borrowed it is
        // left.
        let unmapped = unsafe { munmap(self.base.cast(), mapping_len(self.capacity)) };
        if let Err(errno) = unmapped {
            log::error!("munmap of a buffer: {errno}: a bug in procpool");
        }
    }
}
