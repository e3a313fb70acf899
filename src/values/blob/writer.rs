//! Writes a value into a file.
//!
//! A new file is written with pwritev(2) and not through a mapping: through a mapping, the kernel would take a fault for
//! each page and clear it before it is overwritten, which takes twice the time. And when memory runs out, a mapping
//! raises SIGBUS where a write returns an error.

use std::io;
use std::sync::Arc;

use start_methods::PrivateFd;

use super::buffer::Buffer;
use super::bytes::Memory;
use super::cache::BlobCache;
use super::cache::Loan;
use super::cache::Reusable;
use super::file::Blob;
use super::file::Held;
use super::footer::Footer;
use super::footer::LoanState;
use super::limits::REUSE_MAX;
use super::positioned::write_at;
use super::quota::Slot;
use super::sealed::anonymous_file;
use super::sealed::seal;
use crate::sys::failpoint::failpoint;
use crate::sys::failpoint::fault;
use crate::sys::file_size;
use crate::sys::table_full::is_table_full;

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: Destination,
    len: u64,
    cache: Option<Arc<BlobCache>>,
    slot: Option<Slot>,
}

#[derive(Debug)]
enum Destination {
    /// It grows as it is written. A reused file has this capacity already, a new one has none.
    Plain {
        fd: Arc<PrivateFd>,
        capacity: u64,
    },
    Buffer(Buffer),
    /// Values hold as many descriptors as they may.
    Memory(Vec<u8>),
}

impl Destination {
    fn new_file() -> io::Result<Self> {
        Ok(Destination::Plain { fd: Arc::new(PrivateFd::adopt(anonymous_file()?)?), capacity: 0 })
    }
}

impl Writer {
    /// A writer for a value of at least `len` bytes. It writes into a file of the cache if there is one, and into memory if
    /// there is no descriptor for a file.
    ///
    /// # Errors
    ///
    /// No anonymous file can be made.
    pub(crate) fn new(cache: Option<&Arc<BlobCache>>, len: u64) -> io::Result<Self> {
        fault!("blob");
        let slot = Slot::take(len);
        let file = match cache.and_then(|cache| cache.take(len)) {
            Some(Reusable::Buffer(buffer)) => Destination::Buffer(buffer),
            Some(Reusable::Loan(Loan { fd, capacity })) => Destination::Plain { fd, capacity },
            None if slot.is_none() => Destination::Memory(Vec::new()),
            None => match Destination::new_file() {
                Err(error) if is_table_full(&error) => Destination::Memory(Vec::new()),
                file => file?,
            },
        };
        Ok(Self { file, len: 0, cache: cache.cloned(), slot })
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
        if matches!(self.file, Destination::Memory(_)) && self.len <= REUSE_MAX && self.len + more > REUSE_MAX {
            self.leave_memory();
        }
        match &mut self.file {
            Destination::Plain { fd, .. } => write_at(&**fd, parts, self.len)?,
            Destination::Buffer(buffer) => {
                let start = buffer_place(self.len);
                buffer.write(start, parts[0]);
                buffer.write(start + parts[0].len(), parts[1]);
            }
            Destination::Memory(bytes) => {
                // As a file, which it will be when it is sent.
                file_size::check(self.len + more + Footer::LEN as u64)?;
                bytes.try_reserve(parts[0].len() + parts[1].len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
                parts.iter().for_each(|part| bytes.extend_from_slice(part));
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
            Destination::Memory(_) => unreachable!("a buffer is replaced by a file"),
        }
        if let Some(cache) = &self.cache {
            cache.put_buffer(buffer);
        }
        Ok(())
    }

    /// Moves a value that has become very long from memory into a file, if there is a descriptor for such values.
    fn leave_memory(&mut self) {
        let Destination::Memory(bytes) = &self.file else { return };
        let Some(slot) = Slot::take(REUSE_MAX + 1) else { return };
        let moved = Destination::new_file().and_then(|file| match &file {
            Destination::Plain { fd, .. } => write_at(&**fd, [bytes, &[]], 0).map(|()| file),
            _ => unreachable!("it is new"),
        });
        // Without a file, the value stays where it is.
        if let Ok(file) = moved {
            (self.file, self.slot) = (file, Some(slot));
        }
    }

    /// The blob that was written.
    ///
    /// # Errors
    ///
    /// There is not enough memory for the footer.
    pub(crate) fn finish(self) -> io::Result<Blob> {
        let Self { file, len, cache, slot } = self;
        let held = match file {
            Destination::Buffer(mut buffer) => {
                buffer.finish(buffer_place(len));
                Held::Buffer(buffer)
            }
            Destination::Plain { fd, capacity } => finish_plain(fd, capacity.max(len), len, cache.as_deref())?,
            Destination::Memory(mut bytes) => {
                bytes.shrink_to_fit();
                return Ok(Blob::new(Held::Memory(Arc::new(Memory(bytes))), len, cache, None));
            }
        };
        Ok(Blob::new(held, len, cache, slot))
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

/// An offset in a buffer. No buffer is longer than [`REUSE_MAX`].
fn buffer_place(place: u64) -> usize {
    usize::try_from(place).expect("a buffer is in memory")
}
