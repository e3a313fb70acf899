//! Process information from the kernel, through a pidfd or /proc: the parent of a process, whether it has stopped, and
//! whether the information is still valid.
//!
//! # Invariants
//!
//! - What /proc reports for a process id counts only if a pidfd that was open before shows that the id has not been
//!   reused meanwhile.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::sys::calls;

/// Whether the process behind a pidfd has this id and this parent. An error means neither yes nor no: there may be no
/// free descriptor with which to read /proc.
pub(crate) fn is_child(pid: u32, pidfd: BorrowedFd<'_>, parent: u32) -> io::Result<bool> {
    // Only a pidfd can be signalled, or a directory of /proc, which has no ioctl. So after a successful signal 0, or one
    // that is refused for this user, the ioctl is answered by the kernel, and not by the driver of some other file.
    let signalled = match calls::pidfd_send_signal(pidfd, 0, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        result => result,
    };
    match signalled.and_then(|()| calls::pidfd_numbers(pidfd)) {
        Ok(numbers) => Ok(numbers == (pid, parent)),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        // An older kernel, or not a pidfd.
        Err(_) => is_child_by_proc(pid, pidfd, parent),
    }
}

fn is_child_by_proc(pid: u32, pidfd: BorrowedFd<'_>, parent: u32) -> io::Result<bool> {
    let stat = match Stat::of(pid) {
        Ok(stat) => stat,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(false),
        Err(error) => return Err(error),
    };
    // /proc first, then the pidfd: the process still has its id now, so it had it when /proc was read.
    Ok(stat.parent == parent && pid_behind(pidfd)? == Some(pid))
}

/// The id of the process behind a pidfd until it is reaped; `None` for any other descriptor.
fn pid_behind(pidfd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    // -1 once it is reaped.
    Ok(pid.and_then(|pid| pid.trim().parse().ok()))
}

/// Whether the process has not been reaped yet.
pub(crate) fn is_unreaped(pidfd: BorrowedFd<'_>) -> bool {
    !matches!(calls::pidfd_send_signal(pidfd, 0, 0), Err(error) if error.raw_os_error() == Some(libc::ESRCH))
}

/// Fields of the `stat` file of a thread or a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    state: u8,
    parent: u32,
}

impl Stat {
    /// Of a process. Its state is that of its main thread.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        Self::read(Path::new(&format!("/proc/{pid}/stat")))
    }

    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        Self::parse(&fs::read_to_string(path)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Pure. The name is in parentheses, and may contain any character.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        Some(Self { state: *fields.next()?.as_bytes().first()?, parent: fields.next()?.parse().ok()? })
    }

    pub(crate) fn is_child_of(self, parent: u32) -> bool {
        self.parent == parent
    }

    /// Stopped by a signal.
    pub(crate) fn is_stopped(self) -> bool {
        self.state == b'T'
    }

    /// Stopped by a signal or a tracer, or ended.
    pub(crate) fn is_stopped_or_ended(self) -> bool {
        matches!(self.state, b'T' | b't' | b'Z' | b'X')
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let stat = Stat::parse("17 (x) S 1 (y)) T 4711 17 17 0\n");
        assert_eq!(stat, Some(Stat { state: b'T', parent: 4711 }));
        for garbled in ["", "17 (sh", "17 (sh)", "17 (sh) S", "17 (sh) S x"] {
            assert_eq!(Stat::parse(garbled), None, "{garbled:?}");
        }
    }

    #[test]
    fn a_child_is_told_from_others() {
        for is_child in [is_child, is_child_by_proc] {
            tell_a_child_from_others(is_child);
        }
    }

    fn tell_a_child_from_others(is_child: fn(u32, BorrowedFd<'_>, u32) -> io::Result<bool>) {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (own, pid) = (std::process::id(), child.id());
        let [pidfd, of_own] = [pid, own].map(|pid| calls::pidfd_open(pid).unwrap());
        let directory = fs::File::open(format!("/proc/{pid}")).unwrap();

        assert!(!is_child(pid, directory.as_fd(), own).unwrap());
        assert!(is_child(pid, pidfd.as_fd(), own).unwrap());
        assert!(!is_child(pid, pidfd.as_fd(), pid).unwrap());
        assert!(!is_child(pid, of_own.as_fd(), own).unwrap());
        assert!(!is_child(1, pidfd.as_fd(), own).unwrap());

        child.kill().unwrap();
        // A zombie keeps its id.
        assert!(is_child(pid, pidfd.as_fd(), own).unwrap() && is_unreaped(pidfd.as_fd()));
        child.wait().unwrap();
        assert!(!is_child(pid, pidfd.as_fd(), own).unwrap() && !is_unreaped(pidfd.as_fd()));
    }

    #[test]
    fn one_that_has_stopped_is_told_from_one_that_sleeps() {
        use nix::sys::signal::Signal;
        use nix::sys::signal::kill;
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!Stat::of(child.id()).unwrap().is_stopped());
        kill(calls::pid_t(child.id()), Signal::SIGSTOP).unwrap();
        while !Stat::of(child.id()).unwrap().is_stopped() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
