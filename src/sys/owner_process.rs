//! Fork detection: whether this is the process that made a value, or a forked copy of it.
//!
//! The check needs no system call: getpid(2) is one, and would be called several times per item. Instead, a page that
//! the kernel clears in every forked child (MADV_WIPEONFORK, whichever thread forks and by whichever call) holds a
//! number that no two processes of one family share. Where the kernel does not support that, the process id is compared.
//!
//! Also called: fork safety, wipe on fork.

#![expect(unsafe_code, reason = "one page of memory, mapped and never unmapped")]

use std::num::NonZero;
use std::ptr::null_mut;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::munmap;
use nix::sys::signal::Signal;
use nix::sys::signal::raise;

const PAGE: NonZero<usize> = NonZero::new(4096).expect("a page has bytes");

/// The page, once it is mapped. An atomic and not a lock: a forked child might find a lock held for ever.
static MARK: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());

/// The process that made a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerProcess {
    /// The number in the page; `None` where there is no page.
    mark: Option<u64>,
    pid: u32,
}

impl OwnerProcess {
    /// This process.
    pub(crate) fn here() -> Self {
        let pid = std::process::id();
        let mark = mark_or_new().map(|mark| {
            // Threads race to write the first number of this process; the losers use the winner's. Relaxed: the number
            // stands alone, nothing is published with it.
            let new = new_number(pid);
            match mark.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => new,
                Err(number) => number,
            }
        });
        Self { mark, pid }
    }

    /// Ends this process if it is a forked copy: one that a function has made and that has returned from the function, of
    /// which only the original may answer. At once and silently: everything that would be printed or flushed belongs to the
    /// original.
    pub(crate) fn kill_copy(self) {
        if !self.is_here() {
            let raised = raise(Signal::SIGKILL);
            unreachable!("a process can kill itself: {raised:?}");
        }
    }

    /// Whether this is still that process, and not a forked copy.
    pub(crate) fn is_here(self) -> bool {
        match (self.mark, mark()) {
            (Some(number), Some(mark)) => mark.load(Ordering::Relaxed) == number,
            _ => self.pid == std::process::id(),
        }
    }
}

/// A number that no ancestor of this process has used: a hash of the time and the process id, and not zero.
fn new_number(pid: u32) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let now = u64::try_from(now & u128::from(u64::MAX)).expect("cut to 64 bits");
    (now.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(pid).rotate_left(32)).max(1)
}

fn mark() -> Option<&'static AtomicU64> {
    let mark = MARK.load(Ordering::Acquire);
    // SAFETY: null, or the address of a mapped page that is never unmapped, is aligned, and was zero when it was mapped,
    // which is a valid atomic.
    unsafe { mark.as_ref() }
}

fn mark_or_new() -> Option<&'static AtomicU64> {
    if let Some(mark) = mark() {
        return Some(mark);
    }
    let flags = MapFlags::MAP_PRIVATE;
    // SAFETY: new memory at an address of the kernel's choice.
    let page = unsafe { mmap_anonymous(None, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }.ok()?;
    // SAFETY: the page was mapped a line ago, and nothing is in it yet.
    let wiped = unsafe { madvise(page, PAGE.get(), MmapAdvise::MADV_WIPEONFORK) };
    // Published only if the kernel will wipe it. Of two threads that map a page at once, one publishes its own; the other
    // unmaps its page and uses the published one.
    let published = wiped.is_ok()
        && MARK.compare_exchange(null_mut(), page.cast().as_ptr(), Ordering::AcqRel, Ordering::Acquire).is_ok();
    if !published {
        // SAFETY: mapped above, and its address was not published.
        let unmapped = unsafe { munmap(page, PAGE.get()) };
        debug_assert!(unmapped.is_ok(), "a page of ours is unmapped");
    }
    mark()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_here_is_here() {
        let (first, second) = (OwnerProcess::here(), OwnerProcess::here());
        assert!(first.is_here() && second.is_here());
        assert_eq!(first.mark, second.mark);
    }

    #[test]
    fn a_wiped_mark_is_another_process() {
        let owner = OwnerProcess { mark: Some(new_number(1)), pid: std::process::id() };
        assert!(OwnerProcess::here().is_here());
        assert!(!owner.is_here());
    }
}
