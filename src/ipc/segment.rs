//! A segment: memory that several processes share, in a sealed memfd.
//!
//! ```text
//!      0  magic u64 · kind u32 · version u32 · length u64 · signature u64 · pid namespace u64
//!     64  words of the object: latches, flags, positions
//!   4096  bytes of the object
//! ```
//!
//! Its maker writes the first line once. A process that is sent a segment checks, before it maps it, that it is a file
//! of tmpfs, that its length is sealed, and that this line is what the receiver expects. After that, any process that has
//! the segment may write any byte at any time. So there is no reference to its bytes, only to its words, which are atomics.
//!
//! No forked copy of a process has the mapping (MADV_DONTFORK). So all access is through a [`View`], which only the
//! process that has mapped the segment gets, and which is held for one operation.
//!
//! Also called: shared memory, memfd, file sealing.

#![expect(unsafe_code, reason = "shared memory is a raw pointer; each SAFETY note says why it is in bounds")]

use std::fs;
use std::io;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

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
use nix::sys::statfs::TMPFS_MAGIC;
use nix::sys::statfs::fstatfs;
use nix::sys::uio::pread;
use start_methods::PrivateFd;

use crate::sys::failpoint::fault;
use crate::sys::file_size;
use crate::sys::memfd;
use crate::sys::owner_process::OwnerProcess;

/// The name of the memory in /proc/PID/maps.
const NAME: &str = "procpool-ipc";
/// Where the bytes of the object begin.
const BYTES: usize = 4096;
/// Where the words of the object begin.
const WORDS: usize = 64;
/// The longest segment.
const LEN_MAX: usize = 1 << 40;

const MAGIC: u64 = u64::from_le_bytes(*b"procpool");
const VERSION: u32 = 1;

/// What a segment is for. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Channel = 1,
    Atomic = 2,
    Atomics = 3,
    Array = 4,
    Lock = 5,
    Mutex = 6,
    Semaphore = 7,
    Condvar = 8,
    Event = 9,
    Barrier = 10,
}

/// What the maker and the receivers of a segment agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// The number of the type of the object's values; see `signature_of`.
    pub(super) signature: u64,
}

/// The head as it lies in memory.
type Numbers = [u64; 5];
const HEAD_LEN: usize = size_of::<Numbers>();
const _: () = assert!(HEAD_LEN <= WORDS);

impl Head {
    fn numbers(self, len: usize) -> io::Result<Numbers> {
        let kind = u64::from(self.kind as u32) | u64::from(VERSION) << 32;
        Ok([MAGIC, kind, len as u64, self.signature, pid_namespace()?])
    }
}

/// The number of this process's pid namespace. Latches hold thread ids, which mean nothing in another one. Asked for
/// each time: a forked process may be in a new one.
fn pid_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// A mapped segment.
#[derive(Debug)]
pub(super) struct Segment {
    base: NonNull<u8>,
    len: usize,
    owner: OwnerProcess,
}

// SAFETY: the pointer is to a mapping that lives as long as `self` and belongs to no thread; all access through it is
// by atomics or by copies of bytes that other processes may be writing anyway.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A new segment with `bytes` bytes behind its words, all zero, and its file.
    ///
    /// # Errors
    ///
    /// The kernel refuses memfds, seals, or the memory; /proc is not mounted.
    pub(super) fn create(head: Head, bytes: usize) -> io::Result<(Self, PrivateFd)> {
        let len = BYTES.checked_add(bytes).filter(|len| *len <= LEN_MAX).ok_or(io::ErrorKind::OutOfMemory)?;
        let numbers = head.numbers(len)?;
        fault!("memfd");
        let fd = memfd::new(NAME)?;
        file_size::check(len as u64)?;
        let length = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // The pages are allocated now: a failure at the first write would be SIGBUS.
        fallocate(&fd, FallocateFlags::empty(), 0, length)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(fixed_length() | SealFlag::F_SEAL_SEAL))?;
        let fd = PrivateFd::adopt(fd)?;
        let segment = Self::map(&fd, len)?;
        let view = segment.view().expect("it was mapped a line ago");
        for (index, number) in numbers.iter().enumerate() {
            // Relaxed: the file is sent later, by a system call, which orders this before the receiver's read.
            view.place(8 * index).store(*number, Ordering::Relaxed);
        }
        Ok((segment, fd))
    }

    /// The segment in a file that another process has sent.
    ///
    /// # Errors
    ///
    /// `InvalidData`: it is not a segment with this head; the text says why. Otherwise the error of mmap(2).
    pub(super) fn open(fd: impl AsFd, head: Head) -> io::Result<Self> {
        let refused = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        // First: this asks the kernel only. The calls below ask the owner of the file, which may be a process that does
        // not answer.
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
        if !seals.is_ok_and(|seals| seals.contains(fixed_length())) {
            return refused("the descriptor is not a file in memory with a sealed length");
        }
        if !fstatfs(&fd).is_ok_and(|status| status.filesystem_type() == TMPFS_MAGIC) {
            return refused("the descriptor is a file in memory of another page size");
        }
        // The length cannot change any more.
        let len = usize::try_from(fstat(&fd)?.st_size).unwrap_or(usize::MAX);
        if !(BYTES..=LEN_MAX).contains(&len) {
            return refused("the file is too short or too long for a segment");
        }
        let mut copy = [0; HEAD_LEN];
        if pread(&fd, &mut copy, 0)? != HEAD_LEN {
            return refused("the file has no head");
        }
        match check_head(&copy, head.numbers(len)?) {
            Ok(()) => Self::map(&fd, len),
            Err(text) => refused(text),
        }
    }

    fn map(fd: impl AsFd, len: usize) -> io::Result<Self> {
        fault!("map");
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let len = NonZero::new(len).expect("a segment has a head");
        // SAFETY: a new shared mapping at an address of the kernel's choice; it overlaps nothing, and the file is sealed
        // at this very length (`create`, `open`), so that no access within it is beyond its end.
        let base = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, fd, 0) }?;
        let segment = Self { base: base.cast(), len: len.get(), owner: OwnerProcess::here() };
        // SAFETY: the range is the mapping that was made above; its contents in this process do not change.
        unsafe { madvise(base, len.get(), MmapAdvise::MADV_DONTFORK) }?;
        Ok(segment)
    }

    /// Access to the memory. `None` in a forked copy of the process that has mapped it.
    #[inline]
    pub(super) fn view(&self) -> Option<View<'_>> {
        self.owner.is_here().then_some(View { base: self.base, len: self.len, _segment: self })
    }

    /// How many bytes there are behind the words.
    pub(super) fn bytes_len(&self) -> usize {
        self.len - BYTES
    }
}

/// Access to a segment, in the process that has mapped it. Not kept across a call of user code, which might fork.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    base: NonNull<u8>,
    len: usize,
    _segment: &'a Segment,
}

impl<'a> View<'a> {
    /// The word of eight bytes at `offset`, counted from the first word.
    #[inline]
    pub(super) fn word(self, offset: usize) -> &'a AtomicU64 {
        self.place(WORDS + offset)
    }

    #[inline]
    fn place(self, offset: usize) -> &'a AtomicU64 {
        check_word(offset, 8);
        // SAFETY: checked to lie within the head, which is mapped.
        let place = unsafe { self.base.add(offset) };
        // SAFETY: mapped as long as the segment is borrowed, aligned because the mapping is and the offset is a multiple of 8, and all
        // processes touch it by atomic operations only (one that does not can make it any number, which is expected).
        unsafe { AtomicU64::from_ptr(place.cast().as_ptr()) }
    }

    /// The word of four bytes at `offset`, counted from the first word.
    #[inline]
    pub(super) fn small_word(self, offset: usize) -> &'a AtomicU32 {
        let offset = WORDS + offset;
        check_word(offset, 4);
        // SAFETY: checked to lie within the head, which is mapped.
        let place = unsafe { self.base.add(offset) };
        // SAFETY: as for `place`; the offset is a multiple of 4.
        unsafe { AtomicU32::from_ptr(place.cast().as_ptr()) }
    }

    /// Where the bytes behind the words begin: at a multiple of 4096.
    #[inline]
    pub(super) fn start(self) -> NonNull<u8> {
        // SAFETY: a segment has its head at least (`create`, `open`), so this is in the mapping, or one behind its end.
        unsafe { self.base.add(BYTES) }
    }

    /// Copies `bytes` to `place`, counted from the first byte behind the words.
    #[inline]
    pub(super) fn put(self, place: usize, bytes: &[u8]) {
        self.check_bytes(place, bytes.len());
        // SAFETY: checked to lie within the mapping.
        let to = unsafe { self.base.add(BYTES + place) };
        // SAFETY: the destination is mapped for the whole length, and is no Rust object, so the two cannot overlap.
        // Other processes read it by copying, after they have read a word that is stored after this.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// Appends a copy of `len` bytes from `place` on, counted from the first byte behind the words.
    #[inline]
    pub(super) fn copy_out(self, place: usize, len: usize, bytes: &mut Vec<u8>) {
        self.check_bytes(place, len);
        bytes.reserve(len);
        let filled = bytes.len();
        // SAFETY: checked to lie within the mapping.
        let from = unsafe { self.base.add(BYTES + place) };
        let to = bytes.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: the source is mapped for the whole length; the destination has been reserved. If another process writes
        // there meanwhile the copy has some mixture of bytes, and bytes of any value are bytes.
        unsafe { from.as_ptr().copy_to_nonoverlapping(to, len) };
        // SAFETY: these bytes have just been written.
        unsafe { bytes.set_len(filled + len) };
    }

    /// A copy of the eight bytes from `place` on, without a call of memcpy.
    #[inline]
    pub(super) fn load_bytes(self, place: usize) -> [u8; 8] {
        self.check_bytes(place, 8);
        // SAFETY: checked to lie within the mapping.
        let from = unsafe { self.base.add(BYTES + place) };
        // SAFETY: mapped for the whole length; an array of bytes is aligned anywhere, and bytes of any value are bytes.
        unsafe { from.cast::<[u8; 8]>().as_ptr().read_volatile() }
    }

    #[inline]
    fn check_bytes(self, place: usize, len: usize) {
        let end = place.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len - BYTES), "bytes lie in the segment");
    }
}

#[inline]
fn check_word(offset: usize, size: usize) {
    assert!(offset % size == 0 && offset + size <= BYTES, "words lie in the head");
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return;
        }
        // SAFETY: the mapping was made by `map`, in this process, with this length, and nothing borrows it any more.
        let unmapped = unsafe { munmap(self.base.cast(), self.len) };
        if let Err(errno) = unmapped {
            log::error!("munmap of a segment: {errno}: a bug in procpool");
        }
    }
}

fn fixed_length() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// Compares the copy of a head with the one that is expected.
///
/// # Errors
///
/// The text says what differs.
fn check_head(copy: &[u8; HEAD_LEN], expected: Numbers) -> Result<(), &'static str> {
    const DIFFERENCES: [&str; 5] = [
        "the file is not a segment of this crate",
        "the segment is of another kind, or of another version of this crate",
        "the segment does not have the length that its head names",
        "the segment is for values of another type, or was made by another program",
        "the segment was made in another pid namespace (container): both processes must be in one",
    ];
    let found = copy.chunks_exact(8).map(|number| u64::from_ne_bytes(number.try_into().expect("eight bytes")));
    let differs = found.zip(expected).position(|(found, expected)| found != expected);
    differs.map_or(Ok(()), |index| Err(DIFFERENCES[index]))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    const HEAD: Head = Head { kind: Kind::Channel, signature: 7 };

    #[test]
    fn all_who_open_it_see_the_same_memory() {
        let (first, fd) = Segment::create(HEAD, 8192).unwrap();
        let second = Segment::open(&fd, HEAD).unwrap();
        let (one, other) = (first.view().unwrap(), second.view().unwrap());
        one.word(0).store(7, Ordering::Relaxed);
        one.small_word(12).store(8, Ordering::Relaxed);
        one.put(8187, b"hello");
        assert_eq!((other.word(0).load(Ordering::Relaxed), other.small_word(12).load(Ordering::Relaxed)), (7, 8));
        let mut bytes = b">".to_vec();
        other.copy_out(8187, 5, &mut bytes);
        assert_eq!((bytes.as_slice(), second.bytes_len()), (&b">hello"[..], 8192));
    }

    #[test]
    fn its_length_cannot_change() {
        let (_segment, fd) = Segment::create(HEAD, 4096).unwrap();
        for len in [0, 8191, 8193] {
            assert_eq!(nix::unistd::ftruncate(&fd, len), Err(nix::errno::Errno::EPERM));
        }
    }

    #[test]
    #[should_panic(expected = "bytes lie in the segment")]
    fn no_byte_behind_its_end_is_touched() {
        Segment::create(HEAD, 4096).unwrap().0.view().unwrap().put(4092, b"12345");
    }

    fn refusal(fd: impl AsFd, head: Head) -> String {
        let error = Segment::open(fd, head).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        error.to_string()
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let (_segment, fd) = Segment::create(HEAD, 4096).unwrap();
        assert!(refusal(&fd, Head { signature: 8, ..HEAD }).contains("values of another type"));
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        assert!(refusal(pipe, HEAD).contains("not a file in memory"));
        let file = OwnedFd::from(fs::File::open("/proc/self/exe").unwrap());
        assert!(refusal(file, HEAD).contains("not a file in memory"));
        let unsealed = memfd::new("test").unwrap();
        nix::unistd::ftruncate(&unsealed, 8192).unwrap();
        assert!(refusal(&unsealed, HEAD).contains("sealed length"));
        fcntl(&unsealed, FcntlArg::F_ADD_SEALS(fixed_length())).unwrap();
        assert!(refusal(&unsealed, HEAD).contains("not a segment of this crate"));
        let short = memfd::new("test").unwrap();
        fcntl(&short, FcntlArg::F_ADD_SEALS(fixed_length())).unwrap();
        assert!(refusal(&short, HEAD).contains("too short"));
    }

    #[test]
    fn every_number_of_the_head_is_checked() {
        let expected = HEAD.numbers(8192).unwrap();
        let bytes =
            |numbers: Numbers| <[u8; HEAD_LEN]>::try_from(numbers.map(u64::to_ne_bytes).as_flattened()).unwrap();
        assert_eq!(check_head(&bytes(expected), expected), Ok(()));
        let mut texts = std::collections::BTreeSet::new();
        for index in 0..expected.len() {
            let mut wrong = expected;
            wrong[index] ^= 1 << 40;
            texts.insert(check_head(&bytes(wrong), expected).unwrap_err());
        }
        assert_eq!(texts.len(), expected.len());
    }
}
