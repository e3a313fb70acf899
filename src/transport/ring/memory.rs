//! The memory that one worker and its parent share: a sealed memfd, mapped by both.
//!
//! ```text
//!      0  ledger u64 · answered u64 · busy_ns u64 · busy_items u64     changed by the worker with every record
//!     32  began_ns u64 · worker_on u64 · began_record u64 · stamps u64                    now and then
//!    256  sent u64 · taken u64 · recalls u64 · spin_ns u64 · bell u32    changed by the parent
//!    296  parent_on u64
//!    512  192 stamps, of two u64 each                                  changed by the worker now and then
//!   4096  down ring, 64 KiB: records for the worker
//!  69632  up ring, 64 KiB: its answers
//! ```
//!
//! The other side may write anywhere in it at any time. So there is no reference to its bytes, only to its atomics: bytes
//! are copied in and out, and read in the copy. Positions in a ring grow without end; the place of a byte is its position
//! modulo the ring's length.
//!
//! Also called: memory-mapped shared memory, SPSC ring buffer, futex.

#![expect(unsafe_code, reason = "shared memory is a raw pointer; each SAFETY note says why it is in bounds")]

use std::io;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

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
use nix::sys::time::TimeSpec;
use start_methods::PrivateFd;

use super::record::HEAD;
use crate::sys::failpoint::fault;
use crate::sys::file_size;
use crate::sys::memfd;
use crate::values::number::LEN_MAX;

/// The name of the memory in /proc/PID/maps.
pub(crate) const NAME: &str = "procpool-rings";
/// The length of each ring, a power of two.
pub(super) const RING_LEN: usize = 64 * 1024;
const HEAD_LEN: usize = 4096;
const LEN: usize = HEAD_LEN + 2 * RING_LEN;

/// One of the two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ring {
    Down,
    Up,
}

impl Ring {
    fn offset(self) -> usize {
        match self {
            Ring::Down => HEAD_LEN,
            Ring::Up => HEAD_LEN + RING_LEN,
        }
    }
}

/// A number in the head, by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// See [`ledger`](super::ledger).
    Ledger = 0,
    /// Where the worker's last finished answer ends in the up ring.
    Answered = 8,
    /// How long the worker has been busy in nanoseconds, by its own clock: a hint.
    BusyNs = 16,
    /// How many records it has finished in that time: a hint.
    BusyItems = 24,
    /// When the worker began the record with the number `BeganRecord`, by CLOCK_MONOTONIC: a hint.
    BeganNs = 32,
    /// The processor that the worker ran on last: a hint.
    WorkerOn = 40,
    /// How many records were done when the worker last looked at the clock: a hint.
    BeganRecord = 48,
    /// How many stamps the worker has written.
    Stamps = 56,
    /// Where the last record ends in the down ring.
    Sent = 256,
    /// The position up to which the parent has taken answers out of the up ring.
    Taken = 264,
    /// How many times records were taken back.
    Recalls = 272,
    /// How long the worker may spin for work before it sleeps, in nanoseconds.
    SpinNs = 280,
    /// The processor that the parent ran on when it sent a single item: a hint.
    ParentOn = 296,
}

/// The offset of the worker's bell, the futex that it sleeps on.
const BELL: usize = 288;

/// How many stamps there is room for, and where the first is.
pub(super) const STAMPS: u64 = STAMP_COUNT as u64;
const STAMP_COUNT: usize = 192;
const STAMPS_AT: usize = 512;
const STAMP_LEN: usize = 16;

const _: () = assert!(STAMPS_AT + STAMP_COUNT * STAMP_LEN <= HEAD_LEN, "the stamps are in the head");

/// The mapping. No forked child inherits it.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
}

// SAFETY: the pointer is to a mapping that lives as long as `self` and belongs to no thread; all access through it is
// by atomics or by copies of bytes that the other process may be writing anyway.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// New memory, all zero, and the descriptor through which the worker maps it.
    ///
    /// # Errors
    ///
    /// The kernel refuses memfds, seals, or the memory.
    pub(super) fn new() -> io::Result<(Self, PrivateFd)> {
        fault!("memfd");
        let fd = memfd::new(NAME)?;
        file_size::check(LEN as u64)?;
        // The pages are allocated now: a failure at the first write would be SIGBUS.
        fallocate(&fd, FallocateFlags::empty(), 0, LEN as libc::off_t)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        let fd = PrivateFd::adopt(fd)?;
        Ok((Self::map(&fd)?, fd))
    }

    /// The memory behind a descriptor, in this process and in none that it forks.
    ///
    /// # Errors
    ///
    /// It cannot be mapped.
    pub(super) fn map(fd: impl AsFd) -> io::Result<Self> {
        fault!("map");
        let len = const { NonZero::new(LEN).expect("it is not empty") };
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice; it overlaps nothing, and the file is
        // sealed at this very length, so that no access within it can fail.
        let base = unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, fd, 0) }?;
        let memory = Self { base: base.cast() };
        // A forked worker must not inherit the rings of other workers, nor a copy of a worker its rings.
        // SAFETY: the range is the mapping that was made above; its contents in this process do not change.
        unsafe { madvise(base, LEN, MmapAdvise::MADV_DONTFORK) }?;
        Ok(memory)
    }

    pub(super) fn cell(&self, cell: Cell) -> &AtomicU64 {
        // SAFETY: every cell lies within the head, which is mapped.
        let place = unsafe { self.base.add(cell as usize) };
        // SAFETY: mapped as long as `self`, aligned because the mapping is and the offset is a multiple of 8, and both
        // sides touch it by atomic operations only (a worker that does not can make it any number, which is expected).
        unsafe { AtomicU64::from_ptr(place.cast().as_ptr()) }
    }

    /// The place of the stamp with this number, which is that of other stamps before and after: how many records were
    /// done, and when.
    pub(super) fn stamp(&self, number: u64) -> [&AtomicU64; 2] {
        let slot = usize::try_from(number % STAMPS).expect("a place in the head");
        [0, size_of::<u64>()].map(|offset| {
            // SAFETY: all stamps lie within the head, which is mapped.
            let place = unsafe { self.base.add(STAMPS_AT + slot * STAMP_LEN + offset) };
            // SAFETY: as for `cell`.
            unsafe { AtomicU64::from_ptr(place.cast().as_ptr()) }
        })
    }

    fn bell(&self) -> &AtomicU32 {
        // SAFETY: it lies within the head, which is mapped.
        let place = unsafe { self.base.add(BELL) };
        // SAFETY: as for `cell`.
        unsafe { AtomicU32::from_ptr(place.cast().as_ptr()) }
    }

    /// How many times the bell has been rung. Acquire: pairs with the Release of [`ring`](Self::ring).
    pub(super) fn rings(&self) -> u32 {
        self.bell().load(Ordering::Acquire)
    }

    /// Wakes the worker that sleeps in [`sleep`](Self::sleep), or keeps it from falling asleep: the count changes before the
    /// wake, and a sleeper whose count is old does not sleep.
    pub(super) fn ring(&self) {
        self.bell().fetch_add(1, Ordering::Release);
        // SAFETY: the word is mapped and aligned; FUTEX_WAKE uses its address only. Not private: the sleeper is
        // another process. It is refused if a task waits on the word in another way (FUTEX_LOCK_PI); then that worker
        // sleeps, and other workers are unaffected.
        unsafe { libc::syscall(libc::SYS_futex, self.bell().as_ptr(), libc::FUTEX_WAKE, 1) };
    }

    /// Sleeps until the bell has been rung more often than `rings` times, but not longer than `time`. Returns whether it has.
    pub(super) fn doze(&self, rings: u32, time: Duration) -> bool {
        let until = Instant::now() + time;
        while self.rings() == rings {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let left: libc::timespec = *TimeSpec::from_duration(left).as_ref();
            // SAFETY: as for `sleep`; the time is here.
            unsafe { libc::syscall(libc::SYS_futex, self.bell().as_ptr(), libc::FUTEX_WAIT, rings, &raw const left) };
        }
        true
    }

    /// Sleeps until the bell has been rung more often than `rings` times.
    pub(super) fn sleep(&self, rings: u32) {
        while self.rings() == rings {
            let forever = std::ptr::null::<libc::timespec>();
            // SAFETY: the word is mapped and aligned. Whatever the call returns (rung meanwhile, woken, interrupted,
            // refused), the word is read again.
            unsafe { libc::syscall(libc::SYS_futex, self.bell().as_ptr(), libc::FUTEX_WAIT, rings, forever) };
        }
    }

    /// As [`put`](Self::put), for the head of a record: without a call of memcpy.
    #[inline]
    pub(super) fn put_head(&self, ring: Ring, position: u64, head: [u8; HEAD]) {
        let place = place_of(position);
        if place > RING_LEN - HEAD {
            return self.put(ring, position, &head);
        }
        // SAFETY: the whole head lies within the ring.
        let to = unsafe { self.base.add(ring.offset() + place) };
        // SAFETY: as for `put`; an array of bytes is aligned anywhere.
        unsafe { to.cast::<[u8; HEAD]>().write(head) };
    }

    /// As [`put`](Self::put), for the head of a record and a padded number behind it; false if the end of the ring would
    /// divide them.
    #[inline]
    pub(super) fn put_number(&self, ring: Ring, position: u64, head: [u8; HEAD], number: [u8; LEN_MAX]) -> bool {
        let place = place_of(position);
        if place > RING_LEN - HEAD - LEN_MAX {
            return false;
        }
        // SAFETY: head and number lie within the ring.
        let to = unsafe { self.base.add(ring.offset() + place) };
        // SAFETY: as for `put`; an array of bytes is aligned anywhere.
        unsafe { to.cast::<[u8; HEAD]>().write(head) };
        // SAFETY: within the ring, as above.
        let to = unsafe { to.add(HEAD) };
        // SAFETY: as above.
        unsafe { to.cast::<[u8; LEN_MAX]>().write(number) };
        true
    }

    /// Copies `bytes` into a ring, from `position` on.
    pub(super) fn put(&self, ring: Ring, position: u64, bytes: &[u8]) {
        let (first, second) = split(position, bytes.len());
        let (head, tail) = bytes.split_at(first.1);
        for ((start, len), part) in [(first, head), (second, tail)] {
            if len == 0 {
                continue;
            }
            // SAFETY: `split` gives places within one ring.
            let to = unsafe { self.base.add(ring.offset() + start) };
            // SAFETY: the destination is mapped for the whole length of the part, and is no Rust object, so the
            // two cannot overlap. The other process reads it by copying, and reads the ledger first.
            unsafe { to.copy_from_nonoverlapping(NonNull::from(part).cast(), part.len()) };
        }
    }

    /// Appends a copy of `len` bytes of a ring, from `position` on.
    pub(super) fn copy_out(&self, ring: Ring, position: u64, len: usize, bytes: &mut Vec<u8>) {
        bytes.reserve(len);
        let (first, second) = split(position, len);
        for (start, part_len) in [first, second] {
            if part_len == 0 {
                continue;
            }
            // SAFETY: `split` gives places within one ring.
            let from = unsafe { self.base.add(ring.offset() + start) };
            let filled = bytes.len();
            let to = bytes.spare_capacity_mut().as_mut_ptr().cast::<u8>();
            // SAFETY: the source is mapped for the whole length; the destination has been reserved. If the other side
            // writes there meanwhile the copy has some mixture of bytes, and bytes of any value are bytes.
            unsafe { from.as_ptr().copy_to_nonoverlapping(to, part_len) };
            // SAFETY: these bytes have just been written.
            unsafe { bytes.set_len(filled + part_len) };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, with this length, and nothing that borrowed it is left.
        let unmapped = unsafe { munmap(self.base.cast(), LEN) };
        if let Err(errno) = unmapped {
            log::error!("munmap of a worker's rings: {errno}: a bug in procpool");
        }
    }
}

/// Where `len` bytes from `position` on lie in a ring: `(place, length)` of the part up to the ring's end, and of the
/// part from its beginning.
fn split(position: u64, len: usize) -> ((usize, usize), (usize, usize)) {
    assert!(len <= RING_LEN, "nothing longer than a ring is in it");
    let place = place_of(position);
    let first = len.min(RING_LEN - place);
    ((place, first), (0, len - first))
}

/// The place of a position in a ring.
fn place_of(position: u64) -> usize {
    let mask = (RING_LEN - 1) as u64;
    usize::try_from(position & mask).expect("a ring is shorter than memory")
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_sides_see_the_same_memory() {
        let (parent, fd) = Memory::new().unwrap();
        let worker = Memory::map(&fd).unwrap();
        parent.cell(Cell::Taken).store(7, Ordering::Relaxed);
        parent.put(Ring::Up, 5, b"hello");
        assert_eq!(worker.cell(Cell::Taken).load(Ordering::Relaxed), 7);
        let mut bytes = b">".to_vec();
        worker.copy_out(Ring::Up, 5, 5, &mut bytes);
        assert_eq!(bytes, b">hello");
    }

    #[test]
    fn it_cannot_be_made_shorter_or_longer() {
        let (_memory, fd) = Memory::new().unwrap();
        for len in [0, LEN as i64 - 1, LEN as i64 + 1] {
            assert_eq!(nix::unistd::ftruncate(&fd, len), Err(Errno::EPERM));
        }
        let more = fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
        assert_eq!(more, Err(Errno::EPERM));
    }

    /// A futex operation on the bell, as by a task that uses the word as a lock.
    fn futex(memory: &Memory, operation: libc::c_int) -> libc::c_long {
        let forever = std::ptr::null::<libc::timespec>();
        // SAFETY: the word is mapped and aligned.
        unsafe { libc::syscall(libc::SYS_futex, memory.bell().as_ptr(), operation, 0, forever) }
    }

    #[test]
    fn a_bell_that_a_task_has_made_a_lock_of_can_be_rung() {
        let (parent, fd) = Memory::new().unwrap();
        let worker = Memory::map(&fd).unwrap();
        let held = nix::unistd::gettid().as_raw().unsigned_abs();
        worker.bell().store(held, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| futex(&worker, libc::FUTEX_LOCK_PI));
            while worker.rings() == held {
                std::thread::yield_now();
            }
            let contended = worker.rings();
            parent.ring();
            assert_eq!(worker.rings(), contended + 1);
            worker.bell().store(contended, Ordering::Relaxed);
            assert_eq!(futex(&worker, libc::FUTEX_UNLOCK_PI), 0);
        });
    }

    proptest! {
        #[test]
        fn bytes_come_back_wherever_they_lie(
            position in any::<u64>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            back in 0..2000u64,
        ) {
            let (memory, _fd) = Memory::new().unwrap();
            // Near a place where the ring begins anew, and anywhere.
            for position in [position, (RING_LEN as u64).wrapping_sub(back)] {
                memory.put(Ring::Down, position, &bytes);
                let mut copy = Vec::new();
                memory.copy_out(Ring::Down, position, bytes.len(), &mut copy);
                prop_assert_eq!(&copy, &bytes);
            }
        }
    }
}
