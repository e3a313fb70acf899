//! A blob: one large value, in a file or in memory, as its sender and its receiver have it.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use nix::sys::stat::fstat;
use parking_lot::Mutex;
use start_methods::PrivateFd;

use super::buffer::Buffer;
use super::bytes::Bytes;
use super::bytes::CopiedBytes;
use super::bytes::Kind;
use super::bytes::Memory;
use super::cache;
use super::cache::BlobCache;
use super::footer;
use super::footer::Footer;
use super::footer::LoanState;
use super::limits::MAP_MIN;
use super::limits::REUSE_MAX;
use super::mapping;
use super::mapping::Mapping;
use super::positioned::read_at;
use super::quota::Slot;
use super::sealed::new_file;

/// Bytes that are not in a frame. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(super) file: Arc<BlobFile>,
    len: u64,
}

#[derive(Debug)]
pub(super) struct BlobFile {
    /// `None` only while it is dropped.
    pub(super) held: Option<Held>,
    /// See [`Blob::mark_answered`].
    is_answered: AtomicBool,
    cache: Option<Arc<BlobCache>>,
    /// Held as long as the descriptor.
    _slot: Option<Slot>,
}

/// What happens to a file when the last clone of its blob is dropped.
#[derive(Debug)]
pub(super) enum Held {
    /// It is closed. The last process that closes it frees its memory.
    Plain(Arc<PrivateFd>),
    /// It goes back to the cache.
    Buffer(Buffer),
    /// It belongs to its writer, which is told so by a mark on the open file.
    Lent(PrivateFd),
    /// There is no file.
    Memory(Arc<Memory>),
    /// A file that holds a descriptor too many, until it has been copied.
    Excess(Excess),
}

/// Where the bytes of a blob are.
enum Place<'a> {
    File(BorrowedFd<'a>),
    Memory(&'a Arc<Memory>),
    Excess(&'a Excess),
}

/// A blob whose file holds a descriptor too many, until it has been copied: then that in memory.
#[derive(Debug)]
pub(super) struct Excess(Mutex<Blob>);

/// The file of a blob, to be sent.
#[derive(Debug)]
pub(crate) enum BlobFd<'a> {
    Held(BorrowedFd<'a>),
    /// Made for a blob in memory. It is closed when it has been sent.
    Made(MadeFile),
}

/// A file for one sending. The fields are dropped in this order: room is restored when the descriptor is closed.
#[derive(Debug)]
pub(crate) struct MadeFile {
    fd: PrivateFd,
    _restore: RestoreRoom,
}

/// Restores the room for descriptors that was made.
#[derive(Debug)]
struct RestoreRoom(Option<Arc<BlobCache>>);

impl Drop for RestoreRoom {
    fn drop(&mut self) {
        if let Some(cache) = &self.0 {
            cache.restore_room();
        }
    }
}

impl Blob {
    /// A file that another process has sent. Mappings and memory for reading it come from `cache`. If values hold as many
    /// descriptors as they may, this one is in [excess](Self::is_excess); if even those are too many, its bytes are copied
    /// into memory.
    ///
    /// # Errors
    ///
    /// `InvalidData` if it is not a file in memory, so that reading it might wait for another process, or if it has no footer
    /// of this crate; otherwise the error of fstat(2) or pread(2).
    pub(crate) fn receive(fd: PrivateFd, cache: &Arc<BlobCache>) -> io::Result<Self> {
        // First: this asks the kernel only. The calls below ask the owner of the file, which of a file in memory is the
        // kernel too, and of another may be a process that does not answer.
        if !mapping::has_seals(&fd) {
            let text = "the descriptor of a large value is not a file in memory";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let status = fstat(&fd)?;
        let size = u64::try_from(status.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
        let footer = Footer::read(&fd, size)?;
        let held = match footer.loan {
            // This crate lends nothing longer, and nothing that is not in memory: other claims of a loan are ignored.
            LoanState::Lent if footer.offset <= REUSE_MAX && mapping::is_in_memory(&fd) => Held::Lent(fd),
            _ => Held::Plain(Arc::new(fd)),
        };
        let new = |held, slot| Self::new(held, footer.len, Some(Arc::clone(cache)), slot);
        Ok(match Slot::take(footer.len) {
            Some(slot) => new(held, Some(slot)),
            None => match Slot::take_for_a_moment() {
                Some(slot) => new(held, Some(slot)).in_excess(),
                None => new(held, None).without_file(),
            },
        })
    }

    pub(super) fn new(held: Held, len: u64, cache: Option<Arc<BlobCache>>, slot: Option<Slot>) -> Self {
        let file = BlobFile { held: Some(held), is_answered: AtomicBool::new(false), cache, _slot: slot };
        Self { file: Arc::new(file), len }
    }

    /// Lets a new blob whose bytes are in memory use the descriptors that `cache` keeps for a full table.
    pub(crate) fn with_room_of(mut self, cache: &Arc<BlobCache>) -> Self {
        if let Some(file) = Arc::get_mut(&mut self.file)
            && matches!(file.held, Some(Held::Memory(_)))
        {
            file.cache = Some(Arc::clone(cache));
        }
        self
    }

    /// The bytes in memory, without a descriptor; as they are if there is not enough memory.
    pub(crate) fn without_file(self) -> Self {
        if let Place::Excess(excess) = self.file.place() {
            return excess.settled();
        }
        match self.copy() {
            Ok(Some(bytes)) => {
                Self::new(Held::Memory(Arc::new(Memory(bytes))), self.len, self.file.cache.clone(), None)
            }
            // Reading it again will tell why it cannot be read.
            Ok(None) | Err(_) => self,
        }
    }

    /// The same, whose descriptor is one too many.
    pub(super) fn in_excess(self) -> Self {
        let (len, cache) = (self.len, self.file.cache.clone());
        Self::new(Held::Excess(Excess(Mutex::new(self))), len, cache, None)
    }

    /// Whether its descriptor is one too many, so that it should be [settled](Self::settle) soon.
    pub(crate) fn is_excess(&self) -> bool {
        matches!(self.file.held, Some(Held::Excess(_)))
    }

    /// Copies the bytes of one in excess into memory and gives its descriptor back, if it is still wanted.
    pub(crate) fn settle(self) {
        if let Place::Excess(excess) = self.file.place()
            && Arc::strong_count(&self.file) > 1
        {
            drop(excess.settled());
        }
    }

    /// A copy of all bytes, unless they are in memory.
    fn copy(&self) -> io::Result<Option<Vec<u8>>> {
        let Place::File(fd) = self.file.place() else { return Ok(None) };
        let mut bytes = cache::zeros(usize::try_from(self.len).map_err(|_| io::ErrorKind::OutOfMemory)?)?;
        read_at(fd, &mut bytes, 0)?;
        Ok(Some(bytes))
    }

    /// The file, to be sent. If the bytes are in memory, they are written into a new one.
    ///
    /// # Errors
    ///
    /// No file can be made: there is no descriptor, or not enough memory.
    pub(crate) fn to_fd(&self) -> io::Result<BlobFd<'_>> {
        match self.file.place() {
            Place::File(fd) => Ok(BlobFd::Held(fd)),
            Place::Memory(memory) => self.make_file(&memory.0).map(BlobFd::Made),
            Place::Excess(_) => self.make_file(&self.read()?).map(BlobFd::Made),
        }
    }

    fn make_file(&self, bytes: &[u8]) -> io::Result<MadeFile> {
        let mut restore = RestoreRoom(None);
        loop {
            match new_file(bytes) {
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    let Some(cache) = self.file.cache.as_ref().filter(|cache| cache.make_room()) else {
                        return Err(error);
                    };
                    restore = RestoreRoom(Some(Arc::clone(cache)));
                }
                made => return Ok(MadeFile { fd: made?, _restore: restore }),
            }
        }
    }

    /// The last worker to which this was sent has answered, so it has read it. Every worker that got it before is dead,
    /// or had it taken back before it began to read. From here on no process reads the file, and it may be overwritten.
    pub(crate) fn mark_answered(&self) {
        // Relaxed: the flag is read by the drop of the last reference, and the count of references orders that after this.
        self.file.is_answered.store(true, Ordering::Relaxed);
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`; `UnexpectedEof` if the file became shorter; otherwise the error of pread(2).
    pub(crate) fn read(&self) -> io::Result<Bytes> {
        let fd = match self.file.place() {
            Place::File(fd) => fd,
            Place::Memory(memory) => return Ok(Bytes(Kind::Kept(Arc::clone(memory)))),
            Place::Excess(excess) => return excess.settled().read(),
        };
        if self.len >= MAP_MIN {
            if let Some(mapping) = self.file.cache.as_ref().and_then(|cache| cache.view(fd, self.len)) {
                let len = usize::try_from(self.len).expect("it is mapped");
                return Ok(Bytes(Kind::Viewed(mapping, len)));
            }
            if let Some(mapping) = Mapping::of_constant(fd, self.len) {
                return Ok(Bytes(Kind::Mapped(mapping)));
            }
        }
        let len = usize::try_from(self.len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let memory = match &self.file.cache {
            Some(cache) => cache.memory(len)?,
            None => cache::zeros(len)?,
        };
        let mut copy = CopiedBytes { len, memory, cache: self.file.cache.clone() };
        read_at(fd, &mut copy.memory[..len], 0)?;
        Ok(Bytes(Kind::Copied(copy)))
    }

    /// A copy of the first bytes, at most `max`.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    pub(crate) fn read_start(&self, max: usize) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len).map_or(max, |len| len.min(max));
        let fd = match self.file.place() {
            Place::File(fd) => fd,
            Place::Memory(memory) => return Ok(memory.0[..len].to_vec()),
            Place::Excess(excess) => {
                let blob = excess.0.lock().clone();
                return blob.read_start(max);
            }
        };
        let mut start = cache::zeros(len)?;
        read_at(fd, &mut start, 0)?;
        Ok(start)
    }
}

impl Excess {
    /// The blob in memory; with its file if there is not enough memory. The lock is the blob's own: only threads that want
    /// the same value wait for the copy.
    fn settled(&self) -> Blob {
        let mut blob = self.0.lock();
        *blob = blob.clone().without_file();
        blob.clone()
    }
}

impl AsFd for BlobFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            BlobFd::Held(fd) => *fd,
            BlobFd::Made(file) => file.fd.as_fd(),
        }
    }
}

#[cfg(test)]
impl AsFd for Blob {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.file.place() {
            Place::File(fd) => fd,
            Place::Memory(_) | Place::Excess(_) => panic!("it has no file of its own"),
        }
    }
}

impl BlobFile {
    fn place(&self) -> Place<'_> {
        match self.held.as_ref().expect("it is taken by the drop only") {
            Held::Plain(fd) => Place::File(fd.as_fd()),
            Held::Lent(fd) => Place::File(fd.as_fd()),
            Held::Buffer(buffer) => Place::File(buffer.as_fd()),
            Held::Memory(memory) => Place::Memory(memory),
            Held::Excess(excess) => Place::Excess(excess),
        }
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        // A forked copy of this process has the number of the descriptor, but not the mapping: the file is the original's
        // to reuse or to return.
        if self.cache.as_ref().is_some_and(|cache| !cache.is_here()) {
            return;
        }
        match self.held.take() {
            Some(Held::Buffer(buffer)) => {
                // Not reused unless it was answered: it was never sent, or was sent to a worker that is being killed and
                // may still be reading it.
                if let Some(cache) = self.cache.as_ref().filter(|_| *self.is_answered.get_mut()) {
                    cache.put_buffer(buffer);
                }
            }
            Some(Held::Lent(fd)) => {
                // If that fails, the writer has one file less to reuse.
                let _: io::Result<()> = footer::mark_returned(fd);
            }
            Some(Held::Plain(_) | Held::Memory(_) | Held::Excess(_)) | None => {}
        }
    }
}
