//! Writes a value into a file.
//!
//! A new file is written with pwritev(2) and not through a mapping: through a mapping, the kernel would take a fault for
//! each page and clear it before it is overwritten, which takes twice the time. And when memory runs out, a mapping
//! raises SIGBUS where a write returns an error.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::SealFlag;
use nix::fcntl::fcntl;
use nix::fcntl::open;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::stat::Mode;
use start_methods::PrivateFd;

use super::buffer::Buffer;
use super::cache::BlobCache;
use super::cache::Loan;
use super::cache::Reusable;
use super::file::Blob;
use super::file::Held;
use super::footer::Footer;
use super::footer::LoanState;
use super::limits::REUSE_MAX;
use super::positioned::write_at;
use super::seals::constant;
use crate::sys::failpoint::failpoint;
use crate::sys::failpoint::fault;

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: Destination,
    len: u64,
    cache: Option<Arc<BlobCache>>,
}

#[derive(Debug)]
enum Destination {
    /// It grows as it is written. A reused file has this capacity already, a new one has none.
    Plain {
        fd: Arc<PrivateFd>,
        capacity: u64,
    },
    Buffer(Buffer),
}

impl Destination {
    fn new_file() -> io::Result<Self> {
        Ok(Destination::Plain { fd: Arc::new(PrivateFd::adopt(anonymous_file()?)?), capacity: 0 })
    }
}

impl Writer {
    /// A writer for a value of at least `len` bytes. It writes into a file of the cache if there is one.
    ///
    /// # Errors
    ///
    /// No anonymous file can be made: no descriptor is left, for instance.
    pub(crate) fn new(cache: Option<&Arc<BlobCache>>, len: u64) -> io::Result<Self> {
        fault!("blob");
        let file = match cache.and_then(|cache| cache.take(len)) {
            Some(Reusable::Buffer(buffer)) => Destination::Buffer(buffer),
            Some(Reusable::Loan(Loan { fd, capacity })) => Destination::Plain { fd, capacity },
            None => Destination::new_file()?,
        };
        Ok(Self { file, len: 0, cache: cache.cloned() })
    }

    /// Appends the parts, back to back.
    ///
    /// # Errors
    ///
    /// There is not enough memory, or no new file can be made.
    pub(crate) fn write(&mut self, parts: [&[u8]; 2]) -> io::Result<()> {
        let more = parts.map(<[u8]>::len).iter().sum::<usize>() as u64;
        if let Destination::Buffer(buffer) = &self.file
            && (buffer.capacity() as u64) < self.len + more
        {
            self.replace_buffer(self.len + more)?;
        }
        match &mut self.file {
            Destination::Plain { fd, .. } => write_at(&**fd, parts, self.len)?,
            Destination::Buffer(buffer) => {
                let start = buffer_place(self.len);
                buffer.write(start, parts[0]);
                buffer.write(start + parts[0].len(), parts[1]);
            }
        }
        self.len += more;
        failpoint!("mid_blob");
        Ok(())
    }

    /// Moves the value from a buffer into which `len` bytes do not fit to one into which they do, or to a new file.
    fn replace_buffer(&mut self, len: u64) -> io::Result<()> {
        let larger = self.cache.as_ref().and_then(|cache| cache.take_largest(len));
        let larger = larger.map_or_else(Destination::new_file, |buffer| Ok(Destination::Buffer(buffer)))?;
        let Destination::Buffer(buffer) = std::mem::replace(&mut self.file, larger) else {
            unreachable!("only a buffer is too short")
        };
        let written = buffer.start(buffer_place(self.len));
        match &mut self.file {
            Destination::Plain { fd, .. } => write_at(&**fd, [written, &[]], 0)?,
            Destination::Buffer(larger) => larger.write(0, written),
        }
        if let Some(cache) = &self.cache {
            cache.put_buffer(buffer);
        }
        Ok(())
    }

    /// The blob that was written.
    ///
    /// # Errors
    ///
    /// There is not enough memory for the footer.
    pub(crate) fn finish(self) -> io::Result<Blob> {
        let Self { file, len, cache } = self;
        let held = match file {
            Destination::Buffer(mut buffer) => {
                buffer.finish(buffer_place(len));
                Held::Buffer(buffer)
            }
            Destination::Plain { fd, capacity } => finish_plain(fd, capacity.max(len), len, cache.as_deref())?,
        };
        Ok(Blob::new(held, len, cache))
    }
}

/// Lends the file, turns it into a buffer, or seals it for ever. The footer is written at `offset`.
fn finish_plain(fd: Arc<PrivateFd>, offset: u64, len: u64, cache: Option<&BlobCache>) -> io::Result<Held> {
    let reuse = cache.filter(|_| len <= REUSE_MAX);
    let is_lent = reuse.is_some_and(BlobCache::may_lend);
    let loan = if is_lent { LoanState::Lent } else { LoanState::Given };
    Footer { offset, len, loan }.write(&*fd)?;
    match reuse {
        Some(cache) if is_lent => cache.put_loan(Loan { fd: Arc::clone(&fd), capacity: offset }),
        Some(cache) if cache.has_buffers() => {
            if let Some(buffer) = Buffer::of_file(&fd, buffer_place(offset)) {
                return Ok(Held::Buffer(buffer));
            }
            seal(&fd);
        }
        _ => seal(&fd),
    }
    Ok(Held::Plain(fd))
}

/// Failure is ignored: the reader checks the seals, and copies a file that has none.
fn seal(fd: &PrivateFd) {
    let _: Result<_, Errno> = fcntl(fd, FcntlArg::F_ADD_SEALS(constant() | SealFlag::F_SEAL_SEAL));
}

/// An offset in a buffer. No buffer is longer than [`REUSE_MAX`].
fn buffer_place(place: u64) -> usize {
    usize::try_from(place).expect("a buffer is in memory")
}

/// A memfd; or, where memfd_create(2) is refused, an unlinked temporary file, which has no seals.
fn anonymous_file() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Never executable, where the kernel supports that flag (6.3).
    let memfd = match memfd_create("procpool", flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create("procpool", flags),
        made => made,
    };
    memfd.or_else(|_| {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let open_in = |folder: &std::path::Path| open(folder, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let fd = open_in("/dev/shm".as_ref()).or_else(|_| open_in(&std::env::temp_dir()))?;
        Ok(fd)
    })
}
