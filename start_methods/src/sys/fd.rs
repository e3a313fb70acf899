//! Descriptors that stay in this process: never 0, 1 or 2, closed on exec, and closed in every child that this crate
//! forks.
//!
//! CLOEXEC has no effect on a child that is forked and not executed. A sibling that keeps a copy of the parent's end of
//! a socket would hide the parent's death from the owner of the other end. So a registry lists every descriptor of this
//! crate, and the first act of a forked child is to close them all.
//!
//! # Invariants
//!
//! - A descriptor is in the registry exactly as long as it is open: both change under one lock, and a fork happens
//!   under the same lock.
//! - An owner that our fork has copied into a child knows that its descriptor is closed there (its epoch is over): it
//!   never closes or uses a number that may mean another file now.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use nix::fcntl::FcntlArg;
use nix::fcntl::FdFlag;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt;
use nix::unistd::pipe2;

use crate::sys::calls;
use crate::sys::closer;
use crate::sys::closer::Linger;
use crate::sys::process;
use crate::sys::process::PerProcess;

/// The lowest number that a descriptor of this crate may have; the standard streams are below.
pub(crate) const LOWEST: RawFd = 3;

/// Messages taken out of a socket before it is closed.
const DRAINED_MAX: usize = 300;

/// This process's open descriptors, which no child may keep.
static REGISTRY: PerProcess<Mutex<Registry>> = PerProcess::new();

/// The number of forks of this crate between the first process and this one, counted in the child.
// Relaxed everywhere: it changes only in a child that has just been forked and has one thread.
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// A descriptor that no child forked by this crate keeps.
///
/// Its number is 3 or higher, and it is closed on exec. In a child that this crate has forked, the copy of it in memory
/// is invalid: dropping it does nothing.
///
/// # Examples
///
/// ```
/// use std::fs::File;
/// use std::os::fd::AsRawFd;
///
/// use start_methods::PrivateFd;
///
/// let fd = PrivateFd::adopt(File::open("/dev/null")?.into())?;
/// assert!(fd.as_raw_fd() >= 3);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct PrivateFd {
    number: RawFd,
    epoch: u32,
    origin: Origin,
}

/// How far a descriptor is trusted, which decides how it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Made here, or by a process that is trusted.
    Trusted,
    /// Of the user's: its close may wait for a device or a file server.
    Users,
    /// Sent by a process that is not trusted: its close may wait for that process, unless it is a file in memory.
    Foreign,
    /// A socket on which such a process sends: the close of a message closes its descriptors.
    Inbox,
}

impl PrivateFd {
    /// Takes ownership of `fd`, and moves it to a number of at least 3 if necessary.
    ///
    /// # Errors
    ///
    /// EMFILE when the descriptor table is full (only if `fd` has to be moved).
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::PrivateFd;
    ///
    /// let (read, write) = std::io::pipe()?;
    /// let (read, write) = (PrivateFd::adopt(read.into())?, PrivateFd::adopt(write.into())?);
    /// # drop((read, write));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        Registry::lock().adopt(fd)
    }

    /// A pidfd of the process with this id (pidfd_open(2)): readable when the process has ended, and never another process.
    ///
    /// # Errors
    ///
    /// ESRCH: there is no such process. EMFILE: no descriptor is left. ENOSYS, EPERM: the system refuses pidfds.
    ///
    /// # Examples
    ///
    /// ```
    /// let own = start_methods::PrivateFd::of_process(std::process::id())?;
    /// # drop(own);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn of_process(pid: u32) -> io::Result<Self> {
        open_pidfd(pid)
    }

    /// A pipe: its read end, which does not block, and its write end. Programs that are executed inherit neither.
    ///
    /// # Errors
    ///
    /// EMFILE or ENFILE when the descriptor table of the process or of the system is full.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::PrivateFd;
    ///
    /// let (read, write) = PrivateFd::pipe()?;
    /// nix::unistd::write(&write, b"hello")?;
    /// assert_eq!(nix::unistd::read(&read, &mut [0; 8])?, 5);
    /// assert!(nix::unistd::read(&read, &mut [0; 8]).is_err()); // Nothing is there.
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn pipe() -> io::Result<(Self, Self)> {
        let (read, write) = pipe(OFlag::empty())?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((read, write))
    }

    /// The descriptor is of the user's. If its close may wait, for a file server for instance, a thread of its own closes
    /// it, so it may be dropped where nothing may wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use start_methods::PrivateFd;
    ///
    /// let mut fd = PrivateFd::adopt(File::open("/dev/null")?.into())?;
    /// fd.close_apart();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn close_apart(&mut self) {
        self.origin = Origin::Users;
    }

    /// Whether the descriptor is open here. `false` for a copy that a fork of this crate has made.
    pub(crate) fn is_open_here(&self) -> bool {
        self.epoch == EPOCH.load(Ordering::Relaxed)
    }

    /// It was sent by a process that is not trusted.
    pub(crate) fn distrust(&mut self) {
        self.origin = Origin::Foreign;
    }

    /// It is a socket on which a process sends that is not trusted.
    pub(crate) fn distrust_messages(&mut self) {
        self.origin = Origin::Inbox;
    }

    /// Whether its close may wait for another process.
    fn may_wait_to_close(&self) -> bool {
        match self.origin {
            Origin::Trusted => false,
            // These ask the kernel only. Other calls ask the owner of the file.
            Origin::Foreign => !self.is_memory(),
            Origin::Users => !self.is_memory() && !self.is_pipe() && !self.is_socket_without_linger(),
            // Not by a forked copy: the messages are for the process that it was copied from.
            Origin::Inbox => Registry::lock().contains(self.number) && !self.is_drained(),
        }
    }

    fn is_memory(&self) -> bool {
        fcntl(calls::borrow(self.number), FcntlArg::F_GET_SEALS).is_ok()
    }

    fn is_pipe(&self) -> bool {
        fcntl(calls::borrow(self.number), FcntlArg::F_GETPIPE_SZ).is_ok()
    }

    fn is_socket_without_linger(&self) -> bool {
        getsockopt(&calls::borrow(self.number), sockopt::Linger).is_ok_and(|linger| linger.l_onoff == 0)
    }

    /// Takes the messages out of this socket. Whether none is left.
    fn is_drained(&self) -> bool {
        (0..DRAINED_MAX).any(|_| {
            let mut fds = Vec::new();
            let received = calls::receive(calls::borrow(self.number), &mut [0; 1], &mut fds);
            for fd in fds {
                let epoch = self.epoch;
                drop(Self { number: fd.into_raw_fd(), epoch, origin: Origin::Foreign });
            }
            // Empty, closed at the other end, or broken.
            received.map_or_else(|error| error.kind() != io::ErrorKind::Interrupted, |arrived| arrived.len == 0)
        })
    }

    /// The number. Panics for a copy in a forked child.
    fn number(&self) -> RawFd {
        assert!(
            self.is_open_here(),
            "this descriptor belongs to the process that forked this one, and was closed here"
        );
        self.number
    }
}

impl AsFd for PrivateFd {
    /// # Panics
    ///
    /// In a child that this crate has forked, for a descriptor of the parent's.
    fn as_fd(&self) -> BorrowedFd<'_> {
        calls::borrow(self.number())
    }
}

impl AsRawFd for PrivateFd {
    fn as_raw_fd(&self) -> RawFd {
        self.number()
    }
}

impl fmt::Debug for PrivateFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrivateFd").field(&self.number).finish()
    }
}

impl Drop for PrivateFd {
    fn drop(&mut self) {
        if !self.is_open_here() {
            return;
        }
        if self.may_wait_to_close() {
            // A child that is forked between `forget` and the close keeps a copy. Nothing waits for that.
            let forget = |number| Registry::lock().remove(number);
            return match self.origin {
                // Its options are the user's, who may still have it open.
                Origin::Users => closer::close_later(self.number, forget, Linger::Keep),
                Origin::Trusted | Origin::Foreign | Origin::Inbox => {
                    closer::close_later(self.number, forget, Linger::Clear);
                }
            };
        }
        let mut registry = Registry::lock();
        registry.remove(self.number);
        // Under the lock: a fork between the two steps would copy a descriptor that is not in the registry.
        calls::close(self.number);
    }
}

/// What a start was doing when [`open_pidfd`] failed.
pub(crate) const OPENING_PIDFD: &str = "opening a pidfd";

/// A pidfd of the process with this id, registered before a fork can copy it.
pub(crate) fn open_pidfd(pid: u32) -> io::Result<PrivateFd> {
    let mut registry = Registry::lock();
    calls::pidfd_open(pid).and_then(|fd| registry.adopt(fd))
}

/// Whether a system call failed because it does not exist here or may not be used.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// A pipe, read end first, both ends registered before a fork can copy them.
pub(crate) fn pipe(flags: OFlag) -> io::Result<(PrivateFd, PrivateFd)> {
    let mut registry = Registry::lock();
    let pair = pipe2(flags | OFlag::O_CLOEXEC)?;
    registry.adopt_pair(pair)
}

/// The set of this crate's open descriptors, one bit for each number.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    words: Vec<u64>,
}

impl Registry {
    /// Locks this process's registry. The holder must not block.
    pub(crate) fn lock() -> MutexGuard<'static, Self> {
        process::lock(REGISTRY.get())
    }

    /// See [`PrivateFd::adopt`].
    pub(crate) fn adopt(&mut self, fd: OwnedFd) -> io::Result<PrivateFd> {
        self.adopt_from(fd, LOWEST)
    }

    /// As [`adopt`](Self::adopt), with a number of at least `lowest`, which must not be below [`LOWEST`].
    pub(crate) fn adopt_from(&mut self, fd: OwnedFd, lowest: RawFd) -> io::Result<PrivateFd> {
        let fd = if fd.as_raw_fd() < lowest {
            // In one step: between dup and FD_CLOEXEC another thread may execute a program.
            calls::own(fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?)
        } else {
            fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            fd
        };
        let number = fd.into_raw_fd();
        self.insert(number);
        Ok(PrivateFd { number, epoch: EPOCH.load(Ordering::Relaxed), origin: Origin::Trusted })
    }

    /// [`adopt`](Self::adopt) for both ends of a pair. If one fails, both are closed.
    pub(crate) fn adopt_pair(&mut self, (first, second): (OwnedFd, OwnedFd)) -> io::Result<(PrivateFd, PrivateFd)> {
        // Not two calls of `adopt`: dropping the first PrivateFd on failure would lock the registry a second time.
        let first = if first.as_raw_fd() < LOWEST {
            calls::own(fcntl(&first, FcntlArg::F_DUPFD_CLOEXEC(LOWEST))?)
        } else {
            first
        };
        let second = self.adopt(second)?;
        match self.adopt(first) {
            Ok(first) => Ok((first, second)),
            Err(error) => {
                self.remove(second.number);
                calls::close(second.number);
                std::mem::forget(second);
                Err(error)
            }
        }
    }

    /// Called in a child that has just been forked, with the parent's registry: closes all descriptors but `kept`, and
    /// ends the epoch of every copied owner. Neither allocates nor waits.
    pub(crate) fn close_all_in_child(&self, kept: &[RawFd]) {
        for (index, word) in self.words.iter().enumerate() {
            for bit in (0..u64::BITS).filter(|bit| word & (1 << bit) != 0) {
                let number = number_of(index, bit);
                if !kept.contains(&number) {
                    calls::close(number);
                }
            }
        }
        EPOCH.fetch_add(1, Ordering::Relaxed);
    }

    fn contains(&self, number: RawFd) -> bool {
        let (index, mask) = place_of(number);
        self.words.get(index).is_some_and(|word| word & mask != 0)
    }

    fn insert(&mut self, number: RawFd) {
        let (index, mask) = place_of(number);
        if self.words.len() <= index {
            self.words.resize(index + 1, 0);
        }
        self.words[index] |= mask;
    }

    fn remove(&mut self, number: RawFd) {
        let (index, mask) = place_of(number);
        // After a fork by other code, the copy has a registry of its own, without this number.
        if let Some(word) = self.words.get_mut(index) {
            *word &= !mask;
        }
    }
}

fn place_of(number: RawFd) -> (usize, u64) {
    let number = usize::try_from(number).expect("open descriptors are not negative");
    (number / 64, 1 << (number % 64))
}

fn number_of(index: usize, bit: u32) -> RawFd {
    let base = RawFd::try_from(index * 64).expect("it was made from a descriptor");
    base + RawFd::try_from(bit).expect("less than 64")
}
