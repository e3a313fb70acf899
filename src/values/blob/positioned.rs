//! Positioned I/O: reads and writes at an offset, in full. The file's own offset is shared with other processes.

use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;

use libc::off_t;
use nix::errno::Errno;
use nix::sys::uio::pread;
use nix::sys::uio::pwritev;

use crate::sys::file_size;

/// Fills `bytes` from `offset` on.
///
/// # Errors
///
/// `UnexpectedEof` if the file is too short; otherwise the error of pread(2).
pub(super) fn read_at(fd: impl AsFd, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match pread(&fd, &mut bytes[done..], file_offset(offset + done as u64)?) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Writes the parts, back to back, from `offset` on.
///
/// # Errors
///
/// `FileTooLarge` if they end beyond this process's file size limit; otherwise the error of pwritev(2): there is not enough
/// memory, for instance.
pub(super) fn write_at(fd: impl AsFd, parts: [&[u8]; 2], mut offset: u64) -> io::Result<()> {
    file_size::check(offset + parts.iter().map(|part| part.len() as u64).sum::<u64>())?;
    let mut parts = &mut parts.map(IoSlice::new)[..];
    // Advancing by nothing removes empty parts, for which a write of zero bytes would be an error below.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match pwritev(&fd, parts, file_offset(offset)?) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                offset += count as u64;
                IoSlice::advance_slices(&mut parts, count);
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// An offset as the system calls take it.
///
/// # Errors
///
/// `InvalidData` if no file is that long.
pub(super) fn file_offset(offset: u64) -> io::Result<off_t> {
    off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidData.into())
}
