//! A blob: a file that holds one large value, as its sender and its receiver have it.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use start_methods::PrivateFd;

use super::buffer::Buffer;
use super::bytes::Bytes;
use super::bytes::CopiedBytes;
use super::bytes::Kind;
use super::cache;
use super::cache::BlobCache;
use super::footer::Footer;
use super::footer::LoanState;
use super::limits::MAP_MIN;
use super::limits::REUSE_MAX;
use super::mapping;
use super::mapping::Mapping;
use super::positioned::read_at;

/// Bytes in a file rather than in a frame. Clones share the file.
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
}

/// What happens to a file when the last clone of its blob is dropped.
#[derive(Debug)]
pub(super) enum Held {
    /// It is closed. The last process that closes it frees its memory.
    Plain(Arc<PrivateFd>),
    /// It goes back to the cache.
    Buffer(Buffer),
    /// It belongs to its writer, which is told so in the footer.
    Lent(PrivateFd, Footer),
}

impl Blob {
    /// A file that another process has sent. Mappings and memory for reading it come from `cache`.
    ///
    /// # Errors
    ///
    /// `InvalidData` if it is not a regular file, so that reading it might block, or if it has no footer of this crate;
    /// otherwise the error of fstat(2) or pread(2).
    pub(crate) fn receive(fd: PrivateFd, cache: &Arc<BlobCache>) -> io::Result<Self> {
        let status = fstat(&fd)?;
        if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the descriptor of a large value is not a file"));
        }
        let size = u64::try_from(status.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
        let footer = Footer::read(&fd, size)?;
        let held = match footer.loan {
            // This crate lends nothing longer, and nothing that is not in memory: other claims of a loan are ignored.
            LoanState::Lent if footer.offset <= REUSE_MAX && mapping::is_in_memory(&fd) => Held::Lent(fd, footer),
            _ => Held::Plain(Arc::new(fd)),
        };
        Ok(Self::new(held, footer.len, Some(Arc::clone(cache))))
    }

    pub(super) fn new(held: Held, len: u64, cache: Option<Arc<BlobCache>>) -> Self {
        let file = BlobFile { held: Some(held), is_answered: AtomicBool::new(false), cache };
        Self { file: Arc::new(file), len }
    }

    /// The last worker to which this was sent has answered, so it has read it. Every worker that got it before is dead,
    /// or had it taken back before it began to read. From here on no process reads the file, and it may be overwritten.
    pub(crate) fn mark_answered(&self) {
        // Relaxed: the flag is read by the drop of the last reference, and the count of references orders that after this.
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
    /// `OutOfMemory`; `UnexpectedEof` if the file became shorter; otherwise the error of pread(2).
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
        let memory = match &self.file.cache {
            Some(cache) => cache.memory(len)?,
            None => cache::zeros(len)?,
        };
        let mut copy = CopiedBytes { len, memory, cache: self.file.cache.clone() };
        read_at(self, &mut copy.memory[..len], 0)?;
        Ok(Bytes(Kind::Copied(copy)))
    }

    /// A copy of the first bytes, at most `max`.
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
            Some(Held::Lent(fd, footer)) => {
                // If that fails, the writer has one file less to reuse.
                let _: io::Result<()> = footer.mark_returned(fd);
            }
            Some(Held::Plain(_)) | None => {}
        }
    }
}
