//! The footer of a file: the length of the value, and whether the writer waits for the file.

use std::io;
use std::os::fd::AsFd;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::uio::pwrite;

use super::positioned::file_offset;
use super::positioned::read_at;

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
    /// It did, and the reader is done.
    Returned = 2,
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
            2 => LoanState::Returned,
            _ => return Err(not_ours()),
        };
        if len > offset { Err(not_ours()) } else { Ok(Self { offset, len, loan }) }
    }

    /// Marks that the reader is done.
    ///
    /// # Errors
    ///
    /// `FileTooLarge` if the footer is beyond this process's file size limit; otherwise the error of pwrite(2).
    pub(super) fn mark_returned(self, fd: impl AsFd) -> io::Result<()> {
        let place = self.offset + 8;
        // A write beyond this limit would raise SIGXFSZ, which kills.
        if getrlimit(Resource::RLIMIT_FSIZE)?.0 <= place {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        pwrite(fd, &[LoanState::Returned as u8], file_offset(place)?)?;
        Ok(())
    }

    /// Writes the footer.
    ///
    /// # Errors
    ///
    /// The error of pwrite(2), or `WriteZero` if it was not written in full.
    pub(super) fn write(self, fd: impl AsFd) -> io::Result<()> {
        match pwrite(fd, &self.to_bytes(), file_offset(self.offset)?)? {
            Self::LEN => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}
