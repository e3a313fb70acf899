//! The bytes of a blob that has been read: mapped, or copied into memory that is reused.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::cache::BlobCache;
use super::mapping::Mapping;

/// The bytes of a blob, in place or as a copy.
#[derive(Debug)]
pub(crate) struct Bytes(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    /// A file of its own.
    Mapped(Mapping),
    /// The first bytes of a buffer, whose mapping is kept for the next value.
    Viewed(Arc<Mapping>, usize),
    Copied(CopiedBytes),
    /// The blob is in memory.
    Kept(Arc<Memory>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Mapped(mapping) => mapping.bytes(),
            Kind::Viewed(mapping, len) => &mapping.bytes()[..*len],
            Kind::Copied(copy) => &copy.memory[..copy.len],
            Kind::Kept(memory) => &memory.0,
        }
    }
}

/// The bytes of a blob without a file.
pub(super) struct Memory(pub(super) Vec<u8>);

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.0.len())
    }
}

/// Bytes at the beginning of memory that returns to the cache.
#[derive(Debug)]
pub(super) struct CopiedBytes {
    pub(super) len: usize,
    pub(super) memory: Vec<u8>,
    pub(super) cache: Option<Arc<BlobCache>>,
}

impl Drop for CopiedBytes {
    fn drop(&mut self) {
        if let Some(cache) = &self.cache {
            cache.put_memory(std::mem::take(&mut self.memory));
        }
    }
}
