//! Descriptors that no forked copy of this process keeps, whichever code calls fork(2).
//!
//! A table lists them, and a handler that fork(2) runs in the child (pthread_atfork(3)) closes what it lists. It is for
//! descriptors whose *last* close matters to other processes: a copy in a child of the user's would delay it until that
//! child ends. Our own forks close them the same way, before all that is in the [registry](crate::sys::fd).
//!
//! Not covered: processes made without the handlers, by clone(2), _Fork(3) or the bare system call, that do not execute
//! a program. (An exec closes these descriptors.)
//!
//! Also called: atfork handler, fork hook.
//!
//! # Invariants
//!
//! - A descriptor is in the table as long as it is open and used. It was created at a moment without forks, so that no
//!   copy was made of it before it was in the table.
//! - The handler reads and writes atomics only, and calls close(2) only.

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::socketpair;

use crate::sys::calls;
use crate::sys::failpoint::failpoint;
use crate::sys::fd::LOWEST;
use crate::sys::fd::PrivateFd;
use crate::sys::fd::Registry;

/// One more than the highest number that the table can list: the default of `fs.nr_open`. Pages of the table that are
/// not used take no memory.
const NUMBERS: usize = 1 << 20;

/// How long a pair is made again because a fork may have copied it. After that it is used all the same: a program that
/// forks all the time must be able to start processes.
const CALM_TIMEOUT: Duration = Duration::from_secs(1);

/// The numbers of the descriptors, one bit for each.
static TABLE: [AtomicU64; NUMBERS / 64] = [const { AtomicU64::new(0) }; NUMBERS / 64];

/// How many words of the table were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// The forks of this process that have begun and that are over. The second never overtakes the first.
///
/// SeqCst for these two and the table: a fork is detected by an order of accesses to different atomics.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicU64 = AtomicU64::new(0);

/// The number of forks between the first process and this one.
// Relaxed: it changes only in a child that has just been forked and has one thread.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Whether the handlers are registered. Changes only under the lock of the registry.
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

/// A descriptor that is closed in every process that is forked from this one. A copy of this value there does nothing.
#[derive(Debug)]
pub(crate) struct UnsharedFd {
    number: RawFd,
    /// Where it is open. The handlers count the generations; the process id tells a copy that they do not see.
    generation: u32,
    pid: u32,
}

impl UnsharedFd {
    /// A pair of connected stream sockets: one end to keep, and one, with a number of at least `lowest`, for another
    /// process.
    pub(crate) fn pair(lowest: RawFd) -> io::Result<(Self, PrivateFd)> {
        let give_up = Instant::now() + CALM_TIMEOUT;
        loop {
            // Our own forks are kept away by this lock.
            let mut registry = Registry::lock();
            register_handlers()?;
            let calm = forks_if_none_in_progress();
            let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
            failpoint!("unlisted");
            let ours = Self::insert(ours)?;
            let theirs = registry.adopt_from(theirs, lowest)?;
            // A fork of other code, between the creation and the entry in the table, has made a copy that its handler
            // did not see.
            if calm.is_some_and(|forks| BEGUN.load(Ordering::SeqCst) == forks) || Instant::now() >= give_up {
                return Ok((ours, theirs));
            }
            drop(registry);
            drop((ours, theirs));
            // There is no event for "the other thread's fork is over".
            thread::sleep(Duration::from_micros(100));
        }
    }

    fn insert(fd: OwnedFd) -> io::Result<Self> {
        let fd = if fd.as_raw_fd() < LOWEST { calls::own(fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(LOWEST))?) } else { fd };
        let Some((word, mask)) = place_of(fd.as_raw_fd()) else {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        };
        USED.fetch_max(word + 1, Ordering::SeqCst);
        TABLE[word].fetch_or(mask, Ordering::SeqCst);
        let (generation, pid) = (GENERATION.load(Ordering::Relaxed), std::process::id());
        Ok(Self { number: fd.into_raw_fd(), generation, pid })
    }

    /// The descriptor; `None` in a copy of the process.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        let is_here = self.generation == GENERATION.load(Ordering::Relaxed) && self.pid == std::process::id();
        is_here.then(|| calls::borrow(self.number))
    }
}

impl Drop for UnsharedFd {
    fn drop(&mut self) {
        if self.get().is_none() {
            return;
        }
        // Out of the table first: once it is closed, the number may be that of another file, which a fork must keep.
        // A fork between the two steps copies the descriptor, so the owner makes it worthless first.
        if let Some((word, mask)) = place_of(self.number) {
            TABLE[word].fetch_and(!mask, Ordering::SeqCst);
        }
        calls::close(self.number);
    }
}

/// The number of forks until now; `None` if one is in progress.
fn forks_if_none_in_progress() -> Option<u64> {
    // In this order: a fork that ends in between makes the two differ.
    let over = OVER.load(Ordering::SeqCst);
    (BEGUN.load(Ordering::SeqCst) == over).then_some(over)
}

/// Registers the handlers, once for this process and all that are forked from it. The caller holds the registry.
fn register_handlers() -> io::Result<()> {
    if !IS_REGISTERED.load(Ordering::Relaxed) {
        calls::at_fork(before_fork, after_fork_in_parent, after_fork_in_child)?;
        IS_REGISTERED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

extern "C" fn before_fork() {
    BEGUN.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn after_fork_in_parent() {
    OVER.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn after_fork_in_child() {
    close_all_in_child();
    // The forks of other threads are not in progress in this copy.
    OVER.store(BEGUN.load(Ordering::SeqCst), Ordering::SeqCst);
}

/// In a child that has just been forked: closes all that the table lists. Neither allocates nor waits. Does nothing the
/// second time.
pub(crate) fn close_all_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    for (index, word) in TABLE.iter().enumerate().take(USED.load(Ordering::SeqCst)) {
        let mut left = word.swap(0, Ordering::SeqCst);
        while left != 0 {
            calls::close(number_of(index, left.trailing_zeros()));
            left &= left - 1;
        }
    }
}

/// The word and the bit of a number; `None` if it is too high.
fn place_of(number: RawFd) -> Option<(usize, u64)> {
    let number = usize::try_from(number).ok().filter(|number| *number < NUMBERS)?;
    Some((number / 64, 1 << (number % 64)))
}

fn number_of(word: usize, bit: u32) -> RawFd {
    // Never -1, since the table has no such places. But a handler of fork(2) must not panic.
    RawFd::try_from(word * 64).map_or(-1, |base| base | RawFd::try_from(bit).unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_places() {
        for number in [3, 63, 64, 1023, 1_048_575] {
            let (word, mask) = place_of(number).unwrap();
            assert_eq!(number_of(word, mask.trailing_zeros()), number);
        }
        assert_eq!(place_of(1_048_576), None);
        assert_eq!(place_of(-1), None);
    }
}
