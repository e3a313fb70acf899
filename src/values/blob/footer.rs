//! The footer of a file: the length of the value, and whether the writer waits for the file; and the mark of a file for
//! which it waits no longer.
//!
//! The mark is a status flag of the open file, which the two processes share: O_NONBLOCK, which means nothing for a file in
//! memory. Unlike a byte in the file, it can be set where RLIMIT_FSIZE forbids the write, and without waiting for the lock
//! of the file, which another process may hold for as long as it likes.

use std::io;
use std::os::fd::AsFd;

use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;

use super::positioned::read_at;
use super::positioned::write_at;

/// The last bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    /// Where the footer begins, which is also the capacity of the file.
    pub(super) offset: u64,
    /// The length of the value.
    pub(super) len: u64,
    pub(super) loan: LoanState,
}

/// Whether the writer waits for its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoanState {
    /// It does not.
    Given = 0,
    /// It does.
    Lent = 1,
}

impl Footer {
    pub(super) const LEN: usize = 16;

    /// Two numbers of eight bytes: the length and the state of the loan.
    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8] = self.loan as u8;
        bytes
    }

    /// The footer of a file of this size.
    ///
    /// # Errors
    ///
    /// `InvalidData` if there is none; otherwise the error of pread(2).
    pub(super) fn read(fd: impl AsFd, size: u64) -> io::Result<Self> {
        let not_ours = || io::Error::new(io::ErrorKind::InvalidData, "the file of a large value has no end of ours");
        let offset = size.checked_sub(Self::LEN as u64).ok_or_else(not_ours)?;
        let mut numbers = [[0; 8]; 2];
        read_at(fd, numbers.as_flattened_mut(), offset)?;
        let [len, loan] = numbers.map(u64::from_le_bytes);
        let loan = match loan {
            0 => LoanState::Given,
            1 => LoanState::Lent,
            _ => return Err(not_ours()),
        };
        if len > offset { Err(not_ours()) } else { Ok(Self { offset, len, loan }) }
    }

    /// Writes the footer.
    ///
    /// # Errors
    ///
    /// The error of pwritev(2), or `FileTooLarge` if it ends beyond this process's file size limit.
    pub(super) fn write(self, fd: impl AsFd) -> io::Result<()> {
        write_at(fd, [&self.to_bytes(), &[]], self.offset)
    }
}

/// Marks an open file as returned: its reader is done.
///
/// # Errors
///
/// The error of fcntl(2).
pub(super) fn mark_returned(fd: impl AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Removes the mark, before the file is lent again.
///
/// # Errors
///
/// The error of fcntl(2).
pub(super) fn unmark_returned(fd: impl AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}

/// Whether an open file has been marked as returned.
pub(super) fn is_marked_returned(fd: impl AsFd) -> bool {
    fcntl(fd, FcntlArg::F_GETFL).is_ok_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK))
}
