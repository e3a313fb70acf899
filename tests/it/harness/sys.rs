//! System calls without a safe wrapper. All `unsafe` of this binary is here, except one opt-in.

#![expect(unsafe_code, reason = "fork, _exit, pidfd_open and signal dispositions have no safe wrapper")]

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::ForkResult;

/// A descriptor that becomes readable when the process has ended.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and accesses no memory of this process.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(Errno::result(fd)?).expect("a descriptor is an int");
    // SAFETY: the kernel has just given us this descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until `fd` is readable or at its end. Returns false if `timeout` passes first.
pub(crate) fn readable_within(fd: &impl AsFd, timeout: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    loop {
        match nix::poll::poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Forks this process, runs `body` in the child, and returns the child's exit code.
///
/// The child inherits the locks that other threads held, so `body` should do little.
pub(crate) fn in_a_forked_copy(body: impl FnOnce() -> u8) -> i32 {
    // SAFETY: glibc keeps malloc usable after fork; the cases that call this are about other locks.
    match unsafe { nix::unistd::fork() }.expect("fork") {
        ForkResult::Child => {
            let body = std::panic::AssertUnwindSafe(body);
            let code = std::panic::catch_unwind(body).unwrap_or(101);
            end_now(i32::from(code))
        }
        ForkResult::Parent { child } => match nix::sys::wait::waitpid(child, None).expect("our own child") {
            WaitStatus::Exited(_, code) => code,
            other => panic!("the forked copy ended by {other:?}"),
        },
    }
}

/// Forks this process. Returns the child's process id in the parent, and `None` in the child, which continues from
/// here.
///
/// The child inherits locks as above; tasks call this in a worker, which has one thread.
pub(crate) fn fork() -> Option<u32> {
    // SAFETY: the thread that forks is the only one, so no other thread holds a lock.
    match unsafe { nix::unistd::fork() }.expect("fork") {
        ForkResult::Child => None,
        ForkResult::Parent { child } => Some(child.as_raw().unsigned_abs()),
    }
}

/// Forks this process. The child waits to be killed, and takes no lock.
pub(crate) fn forked_copy() -> u32 {
    // SAFETY: the child calls pause(2) only.
    match unsafe { nix::unistd::fork() }.expect("fork") {
        ForkResult::Child => loop {
            nix::unistd::pause();
        },
        ForkResult::Parent { child } => child.as_raw().unsigned_abs(),
    }
}

/// Ends the process without any cleanup.
pub(crate) fn end_now(code: i32) -> ! {
    // SAFETY: _exit does not return, and ends the process whatever its state is.
    unsafe { libc::_exit(code) }
}

/// Closes descriptor 0 without the knowledge of its owner.
pub(crate) fn close_stdin() {
    // SAFETY: nothing in this binary reads its standard input.
    drop(unsafe { OwnedFd::from_raw_fd(0) });
}

/// In a task: closes every descriptor from `first` on, owned or not.
pub(crate) fn close_from(first: RawFd) {
    // SAFETY: the tasks that do this test what happens to the owners, whose next call fails with EBADF.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_int::MAX, 0) };
    Errno::result(result).expect("Linux 5.9");
}

/// In a task: makes descriptor `victim` a copy of `fd`, without the knowledge of its owner.
pub(crate) fn put_over(fd: RawFd, victim: RawFd) {
    // SAFETY: as for `close_from`: the task tests what happens to the owner.
    Errno::result(unsafe { libc::dup2(fd, victim) }).expect("both numbers are in range");
}

/// In a task: duplicates a descriptor that the task does not own.
pub(crate) fn copy_of(fd: RawFd) -> OwnedFd {
    // SAFETY: fcntl takes integers here and accesses no memory of this process.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    // SAFETY: the kernel has just given us this descriptor, which has no other owner.
    unsafe { OwnedFd::from_raw_fd(Errno::result(copy).expect("a descriptor")) }
}

/// In a task: whether this is a socket that carries messages, as the control socket and the link do and the lifeline
/// does not.
pub(crate) fn carries_messages(fd: RawFd) -> bool {
    let mut kind: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four");
    let place = (&raw mut kind).cast();
    // SAFETY: the kernel writes at most `len` bytes to `kind`; for what is no socket it returns an error.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, place, &raw mut len) };
    result == 0 && kind == libc::SOCK_SEQPACKET
}

/// In a task: shuts a socket down in the directions `how`. Unlike a close, this affects every process that has it open.
pub(crate) fn shut_down(fd: RawFd, how: libc::c_int) {
    // SAFETY: shutdown takes two integers and accesses no memory of this process.
    Errno::result(unsafe { libc::shutdown(fd, how) }).expect("a socket");
}

/// Makes the last close of a socket wait until what was sent has been read, or for so many seconds.
pub(crate) fn linger(socket: impl AsFd, seconds: libc::c_int) {
    let linger = libc::linger { l_onoff: 1, l_linger: seconds };
    let len = libc::socklen_t::try_from(size_of::<libc::linger>()).expect("two numbers");
    let (fd, value) = (socket.as_fd().as_raw_fd(), (&raw const linger).cast());
    // SAFETY: the kernel reads the value, which is here, with its length.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, len) };
    Errno::result(set).expect("a socket");
}

/// Leaks a shared mapping of one page.
pub(crate) fn leak_shared_mapping() {
    let one_page = std::num::NonZeroUsize::new(4096).expect("not zero");
    // SAFETY: a new mapping at an address that the kernel chooses overlaps no other.
    let mapping = unsafe { nix::sys::mman::mmap_anonymous(None, one_page, ProtFlags::PROT_READ, MapFlags::MAP_SHARED) };
    mapping.expect("a page");
}

/// Ignores `signal` in this process from now on.
pub(crate) fn ignore(signal: Signal) {
    // SAFETY: SIG_IGN runs no handler.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }.expect("a signal that can be ignored");
}

/// Raises `signal` once, which must end this process.
pub(crate) fn die_of(signal: Signal) -> ! {
    nix::sys::signal::raise(signal).expect("a valid signal");
    unreachable!("{signal} was survived");
}

/// Sets an environment variable of this process.
pub(crate) fn set_env(name: &str, value: &str) {
    // SAFETY: cases call this on their main thread before they make a pool, so no other thread reads the
    // environment.
    unsafe { env::set_var(name, value) };
}

/// Lets a pool and its fork server fork although other threads exist.
pub(crate) fn despite_threads(builder: procpool::PoolBuilder) -> procpool::PoolBuilder {
    // SAFETY: the other threads of the cases that call this hold no lock that a worker needs: they are parked, wait on a
    // channel, or hold the loader's, and no task of these cases panics or loads a library.
    let builder = unsafe { builder.fork_despite_threads() };
    // SAFETY: as above.
    unsafe { builder.forkserver_despite_threads() }
}

/// As [`despite_threads`], for a process.
pub(crate) fn process_despite_threads(builder: procpool::process::ProcessBuilder) -> procpool::process::ProcessBuilder {
    // SAFETY: as above: the other threads are parked or wait on a channel.
    let builder = unsafe { builder.fork_despite_threads() };
    // SAFETY: as above.
    unsafe { builder.forkserver_despite_threads() }
}

/// The soft limit of open files of this process.
pub(crate) fn open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).unwrap().0
}

/// In a task: writes to a descriptor that the task does not own, without blocking.
pub(crate) fn write_anyway(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the bytes outlive the call. For a descriptor that does not exist or accepts nothing, it returns an error.
    unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
}

/// A function pointer as a just-in-time compiler would return it: into memory of no loaded image. It is never called;
/// it only has to be a valid pointer value.
pub(crate) fn function_outside_any_image() -> fn(u8) -> u8 {
    let code: &'static mut [u8; 64] = Box::leak(Box::new([0xc3; 64]));
    // SAFETY: every address but null is a value of this type, and it is never called: the pool must refuse it.
    unsafe { std::mem::transmute::<*mut u8, fn(u8) -> u8>(code.as_mut_ptr()) }
}

/// From now on `signal` interrupts blocking system calls and has no other effect.
pub(crate) fn interrupt_by(signal: Signal) {
    extern "C" fn do_nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(do_nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe { nix::sys::signal::sigaction(signal, &action) }.expect("a signal that can be handled");
}

/// Sends `signal` to every thread of this process.
pub(crate) fn signal_all_threads(signal: Signal) {
    let process = libc::c_long::from(std::process::id());
    for thread in std::fs::read_dir("/proc/self/task").expect("/proc is mounted").flatten() {
        let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse::<libc::c_long>().ok()) else {
            continue;
        };
        // SAFETY: tgkill takes three integers and accesses no memory of this process. It fails if the thread has ended.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal as libc::c_long) };
    }
}

/// What the kernel should refuse.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forbidden {
    Processes,
    Threads,
}

/// Installs a seccomp filter that refuses new processes or threads with EAGAIN, for every thread of this process and
/// the processes that they start. It cannot be removed.
pub(crate) fn forbid(what: Forbidden) {
    let number = |call: libc::c_long| u32::try_from(call).expect("numbers of calls are small");
    let thread_flag = libc::CLONE_THREAD.unsigned_abs();
    let refused = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
    let (process, thread) = match what {
        Forbidden::Processes => (refused(libc::EAGAIN), libc::SECCOMP_RET_ALLOW),
        Forbidden::Threads => (libc::SECCOMP_RET_ALLOW, refused(libc::EAGAIN)),
    };
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let give = |value| step(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    install(&mut [
        load(0),
        // clone3 has its flags in memory, which a filter cannot read. On ENOSYS the C library falls back to clone.
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number(libc::SYS_clone3)),
        give(refused(libc::ENOSYS)),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, number(libc::SYS_clone)),
        give(libc::SECCOMP_RET_ALLOW),
        // The lower half of the first argument, which has 64 bits; all supported targets are little endian.
        load(16),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, thread_flag),
        give(thread),
        give(process),
    ]);
}

/// Installs a seccomp filter that lets a system call fail, for every thread of this process and the processes that they
/// start.
pub(crate) fn refuse(call: libc::c_long, errno: i32) {
    let number = u32::try_from(call).expect("numbers of calls are small");
    install(&mut [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]);
}

/// Installs a seccomp filter that kills this process, or one that it starts, if it changes its CPU affinity.
pub(crate) fn kill_for_moves() {
    let number = u32::try_from(libc::SYS_sched_setaffinity).expect("numbers of calls are small");
    install(&mut [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]);
}

/// Installs a seccomp filter for all threads of this process.
fn install(program: &mut [libc::sock_filter]) {
    let len = u16::try_from(program.len()).expect("a filter is short");
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs().expect("Linux 3.5");
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: the program is valid and outlives the call, which copies it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    Errno::result(result).expect("a filter");
}

/// One instruction of a filter.
fn step(code: u32, if_true: u8, if_false: u8, operand: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("codes are short"), jt: if_true, jf: if_false, k: operand }
}

/// Raises the soft limit of open files, for a case that needs so many. The suite also runs with a low one.
pub(crate) fn want_descriptors(wanted: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted.min(hard)), hard).unwrap();
}

/// Prints through the buffer of the C library, which has no line buffering here: the output is no terminal.
pub(crate) fn print_in_c(text: &str) {
    let text = std::ffi::CString::new(text).expect("no zero byte");
    // SAFETY: both are strings that end with a zero byte, and the format takes one.
    unsafe { libc::printf(c"%s".as_ptr(), text.as_ptr()) };
}

/// Writes what C's buffers have.
pub(crate) fn flush_c() {
    // SAFETY: with null, fflush(3) flushes every stream that is open for writing.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}
