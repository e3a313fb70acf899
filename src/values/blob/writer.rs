//! A value on its way into a file.
//!
//! A new file is written by write(2) and not through a mapping. The kernel would clear each page before it is
//! overwritten, and take a fault for each: twice the time. It could also be SIGBUS when memory runs out, where write(2)
//! has an error.

use std::io;
use std::io::IoSlice;
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
use nix::sys::uio::pwritev;
use start_methods::PrivateFd;

use super::Blob;
use super::BlobCache;
use super::Buffer;
use super::Foot;
use super::Held;
use super::REUSE_MAX;
use super::State;
use super::cache::Kept;
use super::cache::Loan;
use super::constant;
use super::offset_of;
use crate::sys::failpoint::failpoint;
use crate::sys::failpoint::fault;

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    len: u64,
    cache: Option<Arc<BlobCache>>,
}

#[derive(Debug)]
enum File {
    /// It becomes longer as it is written. An old one has had room for so many bytes.
    Plain {
        fd: Arc<PrivateFd>,
        room: u64,
    },
    Buffer(Buffer),
}

impl File {
    fn new() -> io::Result<Self> {
        Ok(File::Plain { fd: Arc::new(PrivateFd::adopt(anonymous_file()?)?), room: 0 })
    }
}

impl Writer {
    /// For a value of this length at least: into an old file, if the cache has any.
    ///
    /// # Errors
    ///
    /// There is no descriptor left, or no place for anonymous files.
    pub(crate) fn new(cache: Option<&Arc<BlobCache>>, len: u64) -> io::Result<Self> {
        fault!("blob");
        let file = match cache.and_then(|cache| cache.take(len)) {
            Some(Kept::Buffer(buffer)) => File::Buffer(buffer),
            Some(Kept::Loan(Loan { fd, capacity })) => File::Plain { fd, room: capacity },
            None => File::new()?,
        };
        Ok(Self { file, len: 0, cache: cache.cloned() })
    }

    /// Appends the parts, one behind the other.
    ///
    /// # Errors
    ///
    /// There is not enough memory.
    pub(crate) fn write(&mut self, parts: [&[u8]; 2]) -> io::Result<()> {
        let more = parts.map(<[u8]>::len).iter().sum::<usize>() as u64;
        if let File::Buffer(buffer) = &self.file
            && (buffer.capacity() as u64) < self.len + more
        {
            self.move_on(self.len + more)?;
        }
        match &mut self.file {
            File::Plain { fd, .. } => write_at(fd, parts, self.len)?,
            File::Buffer(buffer) => {
                let start = buffer_place(self.len);
                buffer.write(start, parts[0]);
                buffer.write(start + parts[0].len(), parts[1]);
            }
        }
        self.len += more;
        failpoint!("mid_blob");
        Ok(())
    }

    /// The buffer has no room for so many bytes: goes on in another with what there is, or in a new file.
    fn move_on(&mut self, len: u64) -> io::Result<()> {
        let larger = self.cache.as_ref().and_then(|cache| cache.take_largest(len));
        let larger = larger.map_or_else(File::new, |buffer| Ok(File::Buffer(buffer)))?;
        let File::Buffer(buffer) = std::mem::replace(&mut self.file, larger) else { unreachable!("asked of a buffer") };
        let there = buffer.start(buffer_place(self.len));
        match &mut self.file {
            File::Plain { fd, .. } => write_at(fd, [there, &[]], 0)?,
            File::Buffer(larger) => larger.write(0, there),
        }
        if let Some(cache) = &self.cache {
            cache.put_buffer(buffer);
        }
        Ok(())
    }

    /// What was written.
    ///
    /// # Errors
    ///
    /// There is not enough memory.
    pub(crate) fn finish(self) -> io::Result<Blob> {
        let Self { file, len, cache } = self;
        let held = match file {
            File::Buffer(mut buffer) => {
                buffer.finish(buffer_place(len));
                Held::Buffer(buffer)
            }
            File::Plain { fd, room } => finish_plain(fd, room.max(len), len, cache.as_deref())?,
        };
        Ok(Blob::new(held, len, cache))
    }
}

/// Lends the file, makes a buffer of it, or seals it for good.
fn finish_plain(fd: Arc<PrivateFd>, offset: u64, len: u64, cache: Option<&BlobCache>) -> io::Result<Held> {
    let reuse = cache.filter(|_| len <= REUSE_MAX);
    let is_lent = reuse.is_some_and(BlobCache::may_lend);
    let state = if is_lent { State::Lent } else { State::Given };
    Foot { offset, len, state }.write(&*fd)?;
    match reuse {
        Some(cache) if is_lent => cache.note_loan(Loan { fd: Arc::clone(&fd), capacity: offset }),
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

/// A file that cannot be sealed will be copied by its reader, who asks.
fn seal(fd: &PrivateFd) {
    let _: Result<_, Errno> = fcntl(fd, FcntlArg::F_ADD_SEALS(constant() | SealFlag::F_SEAL_SEAL));
}

/// A place in a buffer, none of which is longer than [`REUSE_MAX`].
fn buffer_place(place: u64) -> usize {
    usize::try_from(place).expect("a buffer is in memory")
}

/// Writes the parts from `offset` on.
fn write_at(fd: &PrivateFd, parts: [&[u8]; 2], mut offset: u64) -> io::Result<()> {
    let mut parts = &mut parts.map(IoSlice::new)[..];
    // Parts of nothing are advanced over as well, and not written.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match pwritev(fd, parts, offset_of(offset)?) {
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

/// A memfd, or an unlinked temporary file, which has no seals, where memfd_create(2) is refused.
fn anonymous_file() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Never executable, where the kernel knows that flag (6.3).
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
