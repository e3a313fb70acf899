//! Values too large for a frame: bytes in an anonymous file that travels as a descriptor.
//!
//! ```text
//!   writer   the bytes, then the footer: how many there are, and whether the file is lent
//!   reader   reads the footer, and decodes the bytes in place, or in a copy
//! ```
//!
//! Most of the cost of a large value is new pages: the kernel must find, clear, map and free them. So a [`BlobCache`]
//! keeps for reuse what has been used: files, their mappings, and the memory of copies. The rules of access:
//!
//! - *What a parent sends* is in a [buffer](buffer::Buffer), which only the parent can write, not even a worker that has
//!   the descriptor. A worker keeps it mapped, and decodes in place. The parent reuses it when the item has been
//!   answered: by then every other worker to which it was sent is dead, or had it taken back before it read it.
//! - *What a worker sends* could be changed by the worker at any time, so it is copied with pread(2): whatever happens
//!   to the file meanwhile costs a wrong value at most. The file is *lent*: the reader marks the open file when it is
//!   done, and the worker checks for the mark when it needs a file.
//! - *What is longer, or sent to all workers,* has a file of its own, sealed against every change. Any process may map
//!   it: it can neither change nor vanish.
//!
//! A value in a file holds a descriptor. Values beyond the [quota](quota) are kept in memory.
//!
//! Also called: out-of-band data, zero-copy, memfd, file sealing, shared memory.

mod buffer;
mod bytes;
mod cache;
mod constant;
mod file;
mod footer;
mod limits;
mod mapping;
mod positioned;
mod quota;
mod reserve;
mod sealed;
mod seals;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use self::bytes::Bytes;
pub(crate) use self::cache::BlobCache;
pub(crate) use self::cache::Kept;
pub(crate) use self::constant::ConstantFile;
pub(crate) use self::constant::FileId;
pub(crate) use self::file::Blob;
pub(crate) use self::file::BlobFd;
pub(crate) use self::limits::IDLE_TIME;
pub(crate) use self::limits::INLINE_MAX;
pub(crate) use self::quota::descriptors_max;
pub(crate) use self::writer::Writer;
