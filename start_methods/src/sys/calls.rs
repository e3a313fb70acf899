//! System calls that have no safe wrapper in the dependencies of this crate, each made safe here.
//!
//! One function per call, without policy. Two exceptions: [`fork`] also ensures that the child never returns, and
//! [`send`] and [`receive`], which move descriptors, own every descriptor from the moment the kernel creates it.
//!
//! # Invariants
//!
//! - A descriptor that the kernel returns has an owner before anything can fail.
//! - The child of [`fork`] leaves by `_exit`, even when a destructor panics.

#![expect(unsafe_code, reason = "fork, _exit, pidfds, close_range, and SCM_RIGHTS have no safe form")]

use std::ffi::c_int;
use std::ffi::c_long;
use std::ffi::c_void;
use std::io;
use std::io::IoSlice;
use std::mem;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::ptr;

use nix::spawn::PosixSpawnFileActions;
use nix::unistd::ForkResult;
use nix::unistd::Pid;

use crate::sys::failpoint::fault;
use crate::sys::threads::Hold;

/// Maximum descriptors in one message: the kernel's SCM_MAX_FD.
pub(crate) const MESSAGE_FDS_MAX: usize = 253;

/// The exit code of a child whose entry panicked: the same as that of a Rust program whose `main` panicked.
pub(crate) const EXIT_PANICKED: u8 = 101;

/// `CMSG_SPACE` for [`MESSAGE_FDS_MAX`] descriptors: a header of 16 bytes (12 with a 32-bit size_t, which leaves some
/// bytes unused), and four bytes for each descriptor, padded to eight.
const CONTROL_BYTES: usize = 16 + (MESSAGE_FDS_MAX * size_of::<RawFd>()).next_multiple_of(8);

/// The kernel writes `cmsghdr`s here, which need the alignment of `size_t`.
#[repr(C, align(8))]
struct ControlBuffer([u8; CONTROL_BYTES]);

/// A process id as the signed type that some calls take.
pub(crate) fn pid_t(pid: u32) -> Pid {
    Pid::from_raw(c_int::try_from(pid).expect("the kernel's process ids are positive C integers"))
}

/// Calls fork(2) and runs `child_main` in the child, which ends with the code it returns.
///
/// Returns in the parent only. The child never returns from this call: its stack is a copy of the parent's, and a
/// second return would run the rest of the parent's program twice.
pub(crate) fn fork(_hold: &Hold, child_main: impl FnOnce() -> u8) -> io::Result<u32> {
    /// The last barrier against a return: a panic that unwinds to here ends the process.
    struct NeverReturn;
    impl Drop for NeverReturn {
        fn drop(&mut self) {
            exit_now(EXIT_PANICKED);
        }
    }

    fault!("fork");
    // SAFETY: a `Hold` exists only while this process has no thread that could hold a lock (see `threads`), or if the
    // caller of `fork_despite_threads` has promised that the child needs no such lock.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => Ok(child.as_raw().unsigned_abs()),
        Ok(ForkResult::Child) => {
            let _never_return = NeverReturn;
            let code = catch_unwind(AssertUnwindSafe(child_main)).unwrap_or_else(|payload| {
                // Not dropped: the payload's destructor is foreign code and may panic again.
                mem::forget(payload);
                EXIT_PANICKED
            });
            exit_now(code)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// pthread_atfork(3): registers functions that every fork(2) of this program calls.
pub(crate) fn at_fork(
    before: extern "C" fn(),
    in_parent: extern "C" fn(),
    in_child: extern "C" fn(),
) -> io::Result<()> {
    let [before, in_parent, in_child] = [before, in_parent, in_child].map(|handler| Some(handler as AtFork));
    // SAFETY: the handlers are functions of this program and never unwind; that of the child is async-signal-safe.
    match unsafe { libc::pthread_atfork(before, in_parent, in_child) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// A handler as the C library declares it.
type AtFork = unsafe extern "C" fn();

/// Ends the process without exit handlers and without flushing: after fork(2), the content of those buffers belongs to
/// the parent, which flushes it itself.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code.into()) }
}

unsafe extern "C" {
    /// The stream of the C library.
    #[link_name = "stdout"]
    static C_STDOUT: *mut libc::FILE;

    /// Of glibc and of musl.
    fn __fpurge(stream: *mut libc::FILE);
}

/// Writes what C code has printed to the standard output and is still in its buffer.
pub(crate) fn flush_c_stdout() {
    // SAFETY: the C library initializes it before any code of the program runs, and this one is never assigned by Rust.
    let stream = unsafe { C_STDOUT };
    // SAFETY: fflush(3) takes an open stream. A program that has closed its standard output has set it aside; the C
    // library then fails the write.
    unsafe { libc::fflush(stream) };
}

/// Forgets what is in the buffer of C's standard output: in a forked child it is the parent's, which writes it itself.
/// Allocates nothing and takes no lock.
pub(crate) fn forget_c_stdout() {
    // SAFETY: see `flush_c_stdout`.
    let stream = unsafe { C_STDOUT };
    // SAFETY: the stream is open, and this process has one thread.
    unsafe { __fpurge(stream) };
}

/// Whether the program was executed with more rights than its caller has (set-user-id and the like), so that its
/// environment must not be trusted.
pub(crate) fn is_secure_execution() -> bool {
    // SAFETY: getauxval(3) reads a vector that the kernel gave us at exec; unknown keys give 0.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// pidfd_open(2), Linux 5.3.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    fault!("pidfd");
    // SAFETY: the call takes two integers; the result is checked below.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, c_long::from(pid), 0 as c_long) };
    let fd = checked(result)?;
    // SAFETY: the kernel has just created this descriptor for us; it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_send_signal(2), Linux 5.1.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: c_int, flags: u32) -> io::Result<()> {
    let no_siginfo = ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is what pidfd_send_signal(2) documents for "as kill(2) would".
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_siginfo, flags) };
    checked(result).map(drop)
}

/// Reaps the child behind a pidfd; `None` if it still runs. Linux 5.4.
///
/// Returns the status word of wait(2). Not nix's `waitid`, which fails for a child that a real-time signal ended, after
/// it has reaped that child.
pub(crate) fn reap_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    reap(libc::P_PIDFD, pidfd.as_raw_fd().unsigned_abs())
}

fn reap(kind: libc::idtype_t, id: u32) -> io::Result<Option<i32>> {
    // If this process traces the child, as a debugger does, every wait reports its stops too, whatever the flags. So
    // the first call only peeks, and leaves stops to the code that waits for them.
    match wait_id(kind, id, libc::WNOHANG | libc::WNOWAIT)? {
        None => Ok(None),
        Some(_) => wait_id(kind, id, libc::WNOHANG),
    }
}

/// Reaps a child by its process id; `None` if it still runs.
///
/// Only for a child of this process that has not been reaped: its id cannot have been reused.
pub(crate) fn reap_pid(pid: u32) -> io::Result<Option<i32>> {
    reap(libc::P_PID, pid)
}

/// Whether a process with this id is a child of this process. Does not reap it.
pub(crate) fn is_unreaped_child(pid: u32) -> io::Result<bool> {
    match wait_id(libc::P_PID, pid, libc::WNOHANG | libc::WNOWAIT) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(false),
        result => result.map(|_| true),
    }
}

/// waitid(2) for the end of a process; `None` if it has not ended.
fn wait_id(kind: libc::idtype_t, id: u32, flags: c_int) -> io::Result<Option<i32>> {
    // SAFETY: siginfo_t is plain data for which all zeroes is a value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    loop {
        // SAFETY: `info` is ours and writable for the whole call.
        let result = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | flags) };
        match checked(result.into()) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // SAFETY: waitid(2) filled the SIGCHLD fields, or left them zero when nothing was reaped.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Ok(match info.si_code {
        libc::CLD_EXITED => Some((status & 0xff) << 8),
        libc::CLD_DUMPED => Some((status & 0x7f) | 0x80),
        libc::CLD_KILLED => Some(status & 0x7f),
        // A stop.
        _ => None,
    })
}

/// The first version of `struct pidfd_info`, which every kernel with this call accepts.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    thread: u32,
    process: u32,
    parent: u32,
    users: [u32; 8],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64, "PIDFD_INFO_SIZE_VER0");

const PIDFD_INFO_PID: u64 = 1 << 0;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// `PIDFD_GET_INFO`, Linux 6.13.
fn pidfd_info(pidfd: BorrowedFd<'_>, mask: u64) -> io::Result<PidfdInfo> {
    const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b;
    let mut info = PidfdInfo { mask, ..PidfdInfo::default() };
    // SAFETY: the request number carries the size of `info` (0x40), which is ours and writable.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    checked(result.into())?;
    Ok(info)
}

/// The status word of a process that has been reaped (Linux 6.15); `None` if it has not been reaped.
pub(crate) fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let info = pidfd_info(pidfd, PIDFD_INFO_EXIT)?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

/// The id of a process and of its parent (Linux 6.13); ESRCH once the process has been reaped.
///
/// Only for a descriptor that is known to be a pidfd: for any other file, its driver chooses the result.
pub(crate) fn pidfd_numbers(pidfd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let info = pidfd_info(pidfd, PIDFD_INFO_PID)?;
    match info.mask & PIDFD_INFO_PID {
        // A pidfd of a thread reports its process correctly, but becomes invalid before the process ends.
        PIDFD_INFO_PID if info.thread == info.process => Ok((info.process, info.parent)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Adds an action that closes all descriptors from `first` on in the new process, before it is executed. ENOSYS where
/// the C library does not have it: glibc does since 2.34.
pub(crate) fn add_close_from(actions: &mut PosixSpawnFileActions, first: RawFd) -> io::Result<()> {
    type AddCloseFrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, c_int) -> c_int;
    fault!("close_from");
    // Looked up and not linked, because a program that needs it does not start with an older library.
    // SAFETY: the name is a C string.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"posix_spawn_file_actions_addclosefrom_np".as_ptr()) };
    if symbol.is_null() {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    // SAFETY: the C library documents this type for the function of this name.
    let add = unsafe { mem::transmute::<*mut c_void, AddCloseFrom>(symbol) };
    let actions: *mut PosixSpawnFileActions = actions;
    // SAFETY: the actions are initialized and ours; nix's type is transparent over that of the C library.
    match unsafe { add(actions.cast(), first) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Closes a descriptor that has no owner in this process. Ignores errors, which mean that it was not open.
pub(crate) fn close(fd: RawFd) {
    // SAFETY: the callers close a copy made by fork that this process does not refer to, or a descriptor that they own
    // by number.
    let _result = unsafe { libc::close(fd) };
}

/// Takes ownership of a descriptor known by number only.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers pass a number that they own: fd 3 or 4 of a re-executed child, which its parent has put there
    // and which a marker with a control socket confirms, or a descriptor that a forked child has kept while its former
    // owner has become invalid.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Borrows a descriptor known by number only.
pub(crate) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the callers keep the descriptor open for as long as they use this: it is either one
    // of 0, 1, 2, 3 of a process that has just been executed, or lies in a `PrivateFd`. The rest only ask for its
    // flags, which is harmless for any number.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Whether this is an AF_UNIX SOCK_SEQPACKET socket, as every control socket is.
pub(crate) fn is_unix_seqpacket(fd: BorrowedFd<'_>) -> bool {
    let option = |name| {
        let mut value: c_int = 0;
        let mut len = libc::socklen_t::try_from(size_of::<c_int>()).expect("four fits");
        let place = (&raw mut value).cast();
        // SAFETY: `value` and `len` are ours; the kernel writes at most `len` bytes.
        let result = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, place, &raw mut len) };
        (result == 0).then_some(value)
    };
    option(libc::SO_DOMAIN) == Some(libc::AF_UNIX) && option(libc::SO_TYPE) == Some(libc::SOCK_SEQPACKET)
}

/// The disposition of a signal: only the two that need no handler.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disposition {
    Default,
    Ignore,
}

/// sigaction(2) for any signal number, real-time signals included. Ignores numbers that cannot be changed (SIGKILL,
/// SIGSTOP, the two of the C library).
pub(crate) fn set_disposition(signal: c_int, disposition: Disposition) {
    // SAFETY: sigaction is plain data; all zeroes is "default, no flags, empty mask".
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    };
    // SAFETY: `action` installs no handler, so no code of ours can run at a bad moment.
    let _result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

/// Requests that the kernel sends `signal` to a process at every event on `fd` (with `O_ASYNC`).
pub(crate) fn signal_on_event(fd: BorrowedFd<'_>, pid: u32, signal: c_int) -> io::Result<()> {
    // libc does not define it; the number is the same on every architecture of Linux.
    const F_SETSIG: c_int = 10;
    let pid = pid_t(pid).as_raw();
    // SAFETY: F_SETOWN takes an integer.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETOWN, pid) };
    checked(result.into())?;
    // SAFETY: F_SETSIG takes an integer.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal) };
    checked(result.into()).map(drop)
}

/// sendmsg(2) with descriptors. Unlike nix's, it does not allocate.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    flags: c_int,
) -> io::Result<usize> {
    if fds.len() > MESSAGE_FDS_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message carries at most {MESSAGE_FDS_MAX} descriptors"),
        ));
    }
    let mut control = ControlBuffer([0; CONTROL_BYTES]);
    // SAFETY: msghdr is plain data; all zeroes is an empty message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut().cast();
    message.msg_iovlen = parts.len() as _;
    if !fds.is_empty() {
        put_descriptors(&mut message, &mut control, fds);
    }
    // SAFETY: the parts and the control buffer outlive the call; IoSlice is laid out as iovec.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn put_descriptors(message: &mut libc::msghdr, control: &mut ControlBuffer, fds: &[BorrowedFd<'_>]) {
    let bytes = u32::try_from(size_of_val(fds)).expect("a message carries few descriptors");
    message.msg_control = (&raw mut control.0).cast();
    // SAFETY: CMSG_SPACE is arithmetic.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
    // SAFETY: the message has a control buffer, which is larger than one header.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_LEN is arithmetic.
    let len = unsafe { libc::CMSG_LEN(bytes) };
    // SAFETY: all zeroes is a header; every field that counts is set below.
    let mut filled: libc::cmsghdr = unsafe { mem::zeroed() };
    filled.cmsg_level = libc::SOL_SOCKET;
    filled.cmsg_type = libc::SCM_RIGHTS;
    filled.cmsg_len = len as _;
    // SAFETY: `header` points into our aligned buffer.
    unsafe { header.write(filled) };
    // SAFETY: `header` points into our buffer, so the data behind it does too.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: BorrowedFd is laid out as RawFd, and CMSG_SPACE(bytes) fits the buffer: the caller has checked that there
    // are at most MESSAGE_FDS_MAX.
    unsafe { ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), data, bytes as usize) };
}

/// The result of recvmsg(2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) len: usize,
    /// The message exceeds the buffer, or carries more than [`MESSAGE_FDS_MAX`] descriptors.
    pub(crate) too_large: bool,
    /// Descriptors were lost because the descriptor table of this process is full.
    pub(crate) table_full: bool,
}

/// recvmsg(2) with descriptors, without waiting. Unlike nix's, it does not lose the descriptors of a truncated message.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<Arrived> {
    let place = &raw mut *buffer as *mut [MaybeUninit<u8>];
    // SAFETY: the same memory, borrowed for as long. Only the kernel writes to it, and it writes initialized bytes.
    receive_at(socket, unsafe { &mut *place }, 0, fds)
}

/// [`receive`] into a vector: replaces its content by the message, of at most `room` bytes. Touches only the memory
/// that the message fills.
pub(crate) fn receive_into(
    socket: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    room: usize,
    fds: &mut Vec<OwnedFd>,
) -> io::Result<Arrived> {
    receive_into_with(socket, bytes, room, 0, fds)
}

/// As [`receive_into`], but the message stays in the socket. The descriptors are copies, to be closed.
pub(crate) fn peek_into(
    socket: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    room: usize,
    fds: &mut Vec<OwnedFd>,
) -> io::Result<Arrived> {
    receive_into_with(socket, bytes, room, libc::MSG_PEEK, fds)
}

fn receive_into_with(
    socket: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    room: usize,
    flags: libc::c_int,
    fds: &mut Vec<OwnedFd>,
) -> io::Result<Arrived> {
    bytes.clear();
    bytes.reserve(room);
    let arrived = receive_at(socket, &mut bytes.spare_capacity_mut()[..room], flags, fds)?;
    // SAFETY: the kernel has initialized `len` bytes, and was given room for no more than the reserved ones.
    unsafe { bytes.set_len(arrived.len) };
    Ok(arrived)
}

fn receive_at(
    socket: BorrowedFd<'_>,
    place: &mut [MaybeUninit<u8>],
    flags: libc::c_int,
    fds: &mut Vec<OwnedFd>,
) -> io::Result<Arrived> {
    let mut control = ControlBuffer([0; CONTROL_BYTES]);
    let mut part = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
    // SAFETY: msghdr is plain data; all zeroes is an empty message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control.0).cast();
    message.msg_controllen = CONTROL_BYTES as _;
    let flags = flags | libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: both buffers are our caller's or ours, and writable for the lengths given.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let len = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    take_descriptors(&message, fds);
    let descriptors_cut = message.msg_flags & libc::MSG_CTRUNC != 0;
    let table_full = descriptors_cut && fds.len() < MESSAGE_FDS_MAX;
    let too_large = message.msg_flags & libc::MSG_TRUNC != 0 || (descriptors_cut && !table_full);
    Ok(Arrived { len, too_large, table_full })
}

fn take_descriptors(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel has filled the control buffer and its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return whole headers inside the buffer, or null.
        let head = unsafe { header.read() };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN is arithmetic.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (head.cmsg_len as usize).saturating_sub(empty) / size_of::<RawFd>();
            // SAFETY: `header` is inside the buffer.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for index in 0..count {
                // SAFETY: the kernel wrote `count` descriptors behind this header.
                let place = unsafe { data.add(index) };
                // SAFETY: as above; the data need not be aligned for us.
                let fd = unsafe { place.read_unaligned() };
                // SAFETY: the kernel has installed it for us; it has no other owner.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: `header` came from this message.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}

fn checked(result: c_long) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(c_int::try_from(result).expect("these calls return 0 or a descriptor"))
}
