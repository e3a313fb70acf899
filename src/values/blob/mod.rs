//! Bytes too large for a frame: in an anonymous file that is passed by descriptor.
//!
//! ```text
//!   writer   the bytes, then the foot: how many there are, and whether the file is lent
//!   reader   asks the foot, and decodes the bytes where they lie, or in a copy
//! ```
//!
//! New pages are most of what a large value costs: the kernel must find, clear, map, and take them back. So what has been
//! used is used again, by way of a [`BlobCache`]: files, their mappings, and the memory of copies. Who may read what how:
//!
//! - *What a parent sends* comes from a [`Buffer`], which nobody but the parent can write, not even a worker that has the
//!   descriptor. A worker keeps it mapped, and decodes in place. The parent uses it again when the item has been
//!   answered; everybody else to whom it was sent is dead by then, or had it taken back before reading.
//! - *What a worker sends* it could change at any time, so it is copied with pread(2): whatever happens to the file
//!   meanwhile costs at most a wrong value. It is *lent*: the reader notes in the foot that it is done, and the worker
//!   looks for the note when it needs a file.
//! - *What is longer, or sent to all workers,* has a file of its own, sealed against every change. Anybody may map that:
//!   it can neither change nor vanish.

mod buffer;
mod cache;
mod mapping;
mod writer;

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use libc::off_t;
use nix::errno::Errno;
use nix::fcntl::SealFlag;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use nix::sys::uio::pread;
use nix::sys::uio::pwrite;
use start_methods::PrivateFd;

use self::buffer::Buffer;
pub(crate) use self::cache::BlobCache;
use self::mapping::Mapping;
pub(crate) use self::writer::Writer;

/// What fits a frame; more travels as a blob.
pub(crate) const INLINE_MAX: usize = 60 * 1024;

/// Longer values have a file of their own.
const REUSE_MAX: u64 = 16 << 20;

/// Shorter blobs are copied, whatever is promised of them: that takes less time than to map, to fault and to unmap.
const MAP_MIN: u64 = 256 * 1024;

/// Bytes that are not in a frame, in a file. Clones share the file.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    file: Arc<File>,
    len: u64,
}

#[derive(Debug)]
struct File {
    /// Taken by the drop only.
    held: Option<Held>,
    /// See [`Blob::note_answered`].
    is_answered: AtomicBool,
    cache: Option<Arc<BlobCache>>,
}

/// Whose a file is.
#[derive(Debug)]
enum Held {
    /// The last who closes it gives its memory back.
    Plain(Arc<PrivateFd>),
    /// Goes back to the cache.
    Buffer(Buffer),
    /// The writer's, who is told in the foot.
    Lent(PrivateFd, Foot),
}

/// What stands at the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Foot {
    /// Where it stands. There is room for so many bytes before it.
    offset: u64,
    /// How many bytes the value has.
    len: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody waits for the file.
    Given = 0,
    /// The writer waits for it.
    Lent = 1,
    /// The reader is done.
    Returned = 2,
}

impl Foot {
    const LEN: usize = 16;

    /// Two numbers of eight bytes.
    fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8] = self.state as u8;
        bytes
    }

    /// The foot of a file of this size.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    fn read(fd: impl AsFd, size: u64) -> io::Result<Self> {
        let not_ours = || io::Error::new(io::ErrorKind::InvalidData, "the file of a large value has no end of ours");
        let offset = size.checked_sub(Self::LEN as u64).ok_or_else(not_ours)?;
        let mut numbers = [[0; 8]; 2];
        read_at(fd, numbers.as_flattened_mut(), offset)?;
        let [len, state] = numbers.map(u64::from_le_bytes);
        let state = match state {
            0 => State::Given,
            1 => State::Lent,
            2 => State::Returned,
            _ => return Err(not_ours()),
        };
        if len > offset { Err(not_ours()) } else { Ok(Self { offset, len, state }) }
    }

    /// Notes that the reader is done.
    fn note_returned(self, fd: impl AsFd) -> io::Result<()> {
        let place = self.offset + 8;
        // To write beyond this limit is to die of SIGXFSZ.
        if getrlimit(Resource::RLIMIT_FSIZE)?.0 <= place {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        pwrite(fd, &[State::Returned as u8], offset_of(place)?)?;
        Ok(())
    }

    fn write(self, fd: impl AsFd) -> io::Result<()> {
        match pwrite(fd, &self.to_bytes(), offset_of(self.offset)?)? {
            Self::LEN => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

impl Blob {
    /// What another process sent. It is read by way of this cache.
    ///
    /// # Errors
    ///
    /// It is not a regular file, so reading it might block; or no writer of ours has finished it.
    pub(crate) fn receive(fd: PrivateFd, cache: &Arc<BlobCache>) -> io::Result<Self> {
        let status = fstat(&fd)?;
        if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the descriptor of a large value is not a file"));
        }
        let size = u64::try_from(status.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
        let foot = Foot::read(&fd, size)?;
        let held = match foot.state {
            // Nobody else would lend one, and what it is noted in is memory.
            State::Lent if foot.offset <= REUSE_MAX && mapping::is_in_memory(&fd) => Held::Lent(fd, foot),
            _ => Held::Plain(Arc::new(fd)),
        };
        Ok(Self::new(held, foot.len, Some(Arc::clone(cache))))
    }

    fn new(held: Held, len: u64, cache: Option<Arc<BlobCache>>) -> Self {
        let file = File { held: Some(held), is_answered: AtomicBool::new(false), cache };
        Self { file: Arc::new(file), len }
    }

    /// The worker that was the last to get it has answered, so it has read it. Whoever got it before is dead, or had it
    /// taken back before it began to read. From here on nobody reads it any more, and the file may get other bytes.
    pub(crate) fn note_answered(&self) {
        // Relaxed: the drop of the last reference comes after it for whoever drops that.
        self.file.is_answered.store(true, Ordering::Relaxed);
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// There is not enough memory, or the file became shorter.
    pub(crate) fn read(&self) -> io::Result<Bytes> {
        if self.len >= MAP_MIN {
            if let Some(mapping) = self.file.cache.as_ref().and_then(|cache| cache.view(self, self.len)) {
                let len = usize::try_from(self.len).expect("it is mapped");
                return Ok(Bytes(Kind::Viewed(mapping, len)));
            }
            if let Some(mapping) = Mapping::of_constant(self, self.len) {
                return Ok(Bytes(Kind::Mapped(mapping)));
            }
        }
        let len = usize::try_from(self.len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut copy = Copy { len, memory: Vec::new(), cache: self.file.cache.clone() };
        copy.memory = match &self.file.cache {
            Some(cache) => cache.memory(len)?,
            None => cache::zeros(len)?,
        };
        read_at(self, &mut copy.memory[..len], 0)?;
        Ok(Bytes(Kind::Copied(copy)))
    }

    /// A copy of the first bytes, `max` at most.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub(crate) fn read_start(&self, max: usize) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len).map_or(max, |len| len.min(max));
        let mut start = cache::zeros(len)?;
        read_at(self, &mut start, 0)?;
        Ok(start)
    }
}

impl AsFd for Blob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.file.held.as_ref().expect("it is taken by the drop only") {
            Held::Plain(fd) => fd.as_fd(),
            Held::Lent(fd, _) => fd.as_fd(),
            Held::Buffer(buffer) => buffer.as_fd(),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A forked copy of this process has the file's number, and neither its mapping nor a word in what becomes of it.
        if self.cache.as_ref().is_some_and(|cache| !cache.is_here()) {
            return;
        }
        match self.held.take() {
            Some(Held::Buffer(buffer)) => {
                // One that was not sent, or to a worker that may be reading it in its last moments, is not used again.
                if let Some(cache) = self.cache.as_ref().filter(|_| *self.is_answered.get_mut()) {
                    cache.put_buffer(buffer);
                }
            }
            Some(Held::Lent(fd, foot)) => {
                // If that fails, the writer has one file less to use again.
                let _: io::Result<()> = foot.note_returned(fd);
            }
            Some(Held::Plain(_)) | None => {}
        }
    }
}

/// Fills `bytes` from `offset` on.
fn read_at(fd: impl AsFd, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match pread(&fd, &mut bytes[done..], offset_of(offset + done as u64)?) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn offset_of(place: u64) -> io::Result<off_t> {
    off_t::try_from(place).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The seals of a file whose bytes cannot change any more. F_SEAL_WRITE is refused while anybody has a writable mapping
/// of the file, and allows none later; with F_SEAL_GROW nothing can be allocated behind the end.
fn constant() -> SealFlag {
    SealFlag::F_SEAL_WRITE | fixed()
}

/// The seals of a file that stays as long as it is.
fn fixed() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// F_SEAL_FUTURE_WRITE (Linux 5.1).
const FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE);

/// The bytes of a blob, where they lie or as a copy.
#[derive(Debug)]
pub(crate) struct Bytes(Kind);

#[derive(Debug)]
enum Kind {
    Mapped(Mapping),
    /// So many bytes of it; it is kept for the next value.
    Viewed(Arc<Mapping>, usize),
    Copied(Copy),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Mapped(mapping) => mapping.bytes(),
            Kind::Viewed(mapping, len) => &mapping.bytes()[..*len],
            Kind::Copied(copy) => &copy.memory[..copy.len],
        }
    }
}

/// The bytes of a blob at the beginning of memory that is used again.
#[derive(Debug)]
struct Copy {
    len: usize,
    memory: Vec<u8>,
    cache: Option<Arc<BlobCache>>,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(cache) = &self.cache {
            cache.put_memory(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests;
