//! What a latch needs of the thread that takes it: its id, its list of robust locks, and futexes.
//!
//! The C library announces a list for each thread (glibc at its start, musl at its first robust mutex), and this uses one
//! field of its head. Where a thread has none, this announces a list of its own, which is always empty. Should musl
//! replace it later, deaths of that thread inside a latch are noticed by the look-up of the holder only; see
//! [`protocol`](super::protocol).

#![expect(unsafe_code, reason = "get_robust_list(2) and futex(2) have no safe form")]

use std::cell::Cell;
use std::ffi::c_long;
use std::ffi::c_void;
use std::hint::spin_loop;
use std::ptr::NonNull;
use std::ptr::null_mut;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::atomic::compiler_fence;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use nix::unistd::gettid;

use super::protocol::HOLDER;
use super::protocol::SLEEP_MAX;
use super::protocol::Slept;
use super::protocol::Thread;
use crate::sys::failpoint;
use crate::sys::owner_process::OwnerProcess;

/// struct robust_list_head, see get_robust_list(2).
#[repr(C)]
struct ListHead {
    /// The first lock of the list; the head itself if there is none.
    first: AtomicPtr<c_void>,
    /// The distance from an entry of the list to its futex.
    futex_offset: Cell<c_long>,
    /// `list_op_pending`: the entry of the lock that is being taken or released.
    pending: AtomicPtr<c_void>,
}

/// The field `pending` of the list that is announced for a thread, and the distance.
#[derive(Clone, Copy, Debug)]
struct Pending {
    field: NonNull<AtomicPtr<c_void>>,
    futex_offset: isize,
}

/// The thread that runs, as the kernel knows it. It is used by that thread only: the type is not `Send`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThisThread {
    id: u32,
    /// `None` where the kernel refuses lists.
    pending: Option<Pending>,
    owner: OwnerProcess,
}

thread_local! {
    static KNOWN: Cell<Option<ThisThread>> = const { Cell::new(None) };
    /// For a thread without a list.
    static OWN_LIST: ListHead = const {
        ListHead { first: AtomicPtr::new(null_mut()), futex_offset: Cell::new(0), pending: AtomicPtr::new(null_mut()) }
    };
}

impl ThisThread {
    #[inline]
    pub(super) fn get() -> Self {
        match KNOWN.get() {
            // In a forked copy of the process the thread has another id.
            Some(known) if known.owner.is_here() => known,
            _ => Self::ask(),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.id
    }

    #[cold]
    fn ask() -> Self {
        let id = gettid().as_raw().unsigned_abs();
        assert!(id != 0 && id <= HOLDER, "thread ids are positive and smaller than FUTEX_TID_MASK");
        let thread = Self { id, pending: announced_list().or_else(announce_own_list), owner: OwnerProcess::here() };
        KNOWN.set(Some(thread));
        thread
    }
}

/// The list that the C library has announced for this thread.
fn announced_list() -> Option<Pending> {
    let mut head: *mut ListHead = null_mut();
    let mut len = 0usize;
    // SAFETY: the call stores a pointer and a length into the two variables.
    let result = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) };
    if result != 0 || len != size_of::<ListHead>() {
        return None;
    }
    // SAFETY: null, or the head of the list of this very thread, which lives as long as the thread, which nothing else
    // than this thread and the kernel uses, and whose layout is the kernel's interface.
    let head: &ListHead = unsafe { head.as_ref() }?;
    let futex_offset = isize::try_from(head.futex_offset.get()).ok()?;
    Some(Pending { field: NonNull::from(&head.pending), futex_offset })
}

fn announce_own_list() -> Option<Pending> {
    OWN_LIST.with(|list| {
        // An empty list ends where it begins.
        list.first.store((&raw const list.first).cast_mut().cast(), Ordering::Relaxed);
        let (head, len) = (std::ptr::from_ref(list), size_of::<ListHead>());
        // SAFETY: the list is empty and well formed, and its memory is the thread's own, in place until the thread has
        // ended. (Should it be unmapped before, the kernel ignores the list.)
        let result = unsafe { libc::syscall(libc::SYS_set_robust_list, head, len) };
        (result == 0).then(|| Pending { field: NonNull::from(&list.pending), futex_offset: 0 })
    })
}

impl ThisThread {
    #[inline]
    fn set_pending(&self, entry: *mut c_void) {
        // The kernel looks at the field when this thread has ended, so only the order in which the compiler puts the
        // stores of this thread matters. SeqCst: neither stores before nor stores behind may pass.
        compiler_fence(Ordering::SeqCst);
        if let Some(pending) = self.pending {
            // SAFETY: the field of this thread's list, see `announced_list`; `self` does not leave its thread.
            let field = unsafe { pending.field.as_ref() };
            field.store(entry, Ordering::Relaxed);
        }
        compiler_fence(Ordering::SeqCst);
    }
}

impl Thread<AtomicU32> for ThisThread {
    #[inline]
    fn id(&self) -> u32 {
        self.id
    }

    #[inline]
    fn announce(&self, word: &AtomicU32) {
        let distance = self.pending.map_or(0, |pending| pending.futex_offset);
        // The kernel adds the distance again. The C library never follows the pointer.
        self.set_pending(word.as_ptr().cast::<c_void>().wrapping_byte_offset(-distance));
    }

    #[inline]
    fn retract(&self) {
        self.set_pending(null_mut());
    }

    fn sleep(&self, word: &AtomicU32, value: u32) -> Slept {
        let time: libc::timespec = *TimeSpec::from_duration(SLEEP_MAX).as_ref();
        // SAFETY: the word is mapped and aligned, and so is the time. Not private: the holder is another process.
        let result = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const time) };
        if result == -1 && Errno::last() == Errno::ETIMEDOUT { Slept::Enough } else { Slept::Shorter }
    }

    fn wake_one(&self, word: &AtomicU32) {
        // SAFETY: the word is mapped and aligned; FUTEX_WAKE uses its address only.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }

    #[inline]
    fn pause(&self) {
        spin_loop();
    }

    fn exists(&self, id: u32) -> bool {
        // kill(2) knows every thread by its id. EPERM: it exists, and is another user's.
        let found = i32::try_from(id).map(|id| nix::sys::signal::kill(Pid::from_raw(id), None));
        found != Ok(Err(Errno::ESRCH))
    }

    #[inline]
    fn step(&self, name: &str) {
        failpoint::pass(name);
    }
}
