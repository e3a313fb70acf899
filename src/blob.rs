//! Bytes too large for a frame: written once into an anonymous file, passed by descriptor.
//!
//! The file is a memfd, or an unlinked temporary file where memfd_create(2) is refused. The reader copies it out with
//! pread(2) and never maps it, so whatever the writer does to it meanwhile, truncation included, costs at most a
//! wrong value: no SIGBUS, and no reference into memory that somebody else may change.

use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use libc::off_t;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use nix::sys::uio::pread;
use start_methods::PrivateFd;

/// What fits a frame; more travels as a blob.
pub(crate) const INLINE_MAX: usize = 60 * 1024;

/// An anonymous file full of bytes. Clones share the file.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    fd: Arc<PrivateFd>,
    len: u64,
}

impl Blob {
    /// A new file that holds `bytes`.
    pub(crate) fn write(bytes: &[u8]) -> io::Result<Self> {
        let mut file = File::from(anonymous_file()?);
        file.write_all(bytes)?;
        let fd = PrivateFd::adopt(OwnedFd::from(file))?;
        Ok(Self { fd: Arc::new(fd), len: bytes.len() as u64 })
    }

    /// What another process sent.
    ///
    /// # Errors
    ///
    /// It is not a regular file, so reading it might block.
    pub(crate) fn receive(fd: PrivateFd) -> io::Result<Self> {
        let status = fstat(&fd)?;
        if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the descriptor of a large value is not a file"));
        }
        let len = u64::try_from(status.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self { fd: Arc::new(fd), len })
    }

    /// A copy of the first bytes, `max` at most.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub(crate) fn read_start(&self, max: usize) -> io::Result<Vec<u8>> {
        let len = self.len.min(max as u64);
        Self { fd: Arc::clone(&self.fd), len }.read()
    }

    /// A copy of the bytes.
    ///
    /// # Errors
    ///
    /// There is not enough memory, or the file became shorter.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.resize(len, 0);
        let mut done = 0;
        while done < len {
            let offset = off_t::try_from(done).map_err(|_| io::ErrorKind::OutOfMemory)?;
            match pread(&self.fd, &mut bytes[done..], offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(bytes)
    }
}

impl AsFd for Blob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn anonymous_file() -> io::Result<OwnedFd> {
    memfd_create("procpool", MFdFlags::MFD_CLOEXEC).or_else(|_| {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let open_in = |folder: &std::path::Path| open(folder, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let fd = open_in("/dev/shm".as_ref()).or_else(|_| open_in(&std::env::temp_dir()))?;
        Ok(fd)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_gives_back_its_bytes() {
        let bytes: Vec<u8> = (0..200_000u32).map(|x| x.to_le_bytes()[0]).collect();
        assert_eq!(Blob::write(&bytes).unwrap().read().unwrap(), bytes);
    }

    #[test]
    fn a_pipe_is_not_a_blob() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let error = Blob::receive(PrivateFd::adopt(reader.into()).unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_blob_that_became_shorter_is_an_error() {
        let blob = Blob::write(&[7; 100]).unwrap();
        File::from(blob.as_fd().try_clone_to_owned().unwrap()).set_len(50).unwrap();
        assert_eq!(blob.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
