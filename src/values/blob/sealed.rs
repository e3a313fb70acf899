//! A new file for one value: anonymous, and sealed against every change once it is written.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::SealFlag;
use nix::fcntl::fcntl;
use nix::fcntl::open;
use nix::sys::stat::Mode;
use start_methods::PrivateFd;

use super::footer::Footer;
use super::footer::LoanState;
use super::positioned::write_at;
use super::seals::constant;
use crate::sys::memfd;

/// A file with these bytes and a footer, that can never change.
///
/// # Errors
///
/// No file can be made: there is no descriptor, or not enough memory.
pub(super) fn new_file(bytes: &[u8]) -> io::Result<PrivateFd> {
    let fd = PrivateFd::adopt(anonymous_file()?)?;
    write_at(&fd, [bytes, &[]], 0)?;
    let len = bytes.len() as u64;
    Footer { offset: len, len, loan: LoanState::Given }.write(&fd)?;
    seal(&fd);
    Ok(fd)
}

/// Failure is ignored: the reader checks the seals, and copies a file that has none.
pub(super) fn seal(fd: &PrivateFd) {
    let _: Result<_, Errno> = fcntl(fd, FcntlArg::F_ADD_SEALS(constant() | SealFlag::F_SEAL_SEAL));
}

/// A memfd; or, where memfd_create(2) is refused, an unlinked file in `/dev/shm`, which cannot be sealed. Nothing else: the
/// receiver of a file on a disk would not know whether reading it waits for another process.
///
/// # Errors
///
/// EMFILE: no descriptor is left; otherwise the error of memfd_create(2) or open(2).
pub(super) fn anonymous_file() -> io::Result<OwnedFd> {
    memfd::new("procpool").or_else(|_| {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        Ok(open("/dev/shm", flags, Mode::S_IRUSR | Mode::S_IWUSR)?)
    })
}
