//! The segment of a shared object that is nothing but memory, and how it travels: as one descriptor.

use std::io;
use std::sync::Arc;

use nix::sys::stat::fstat;
use serde::Deserializer;
use serde::Serializer;
use serde::ser::Error as _;

use crate::ipc::segment::Head;
use crate::ipc::segment::Segment;
use crate::ipc::segment::View;
use crate::values::attach::SharedFd;
use crate::values::handle;

/// Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Region(Arc<Mapped>);

#[derive(Debug)]
struct Mapped {
    segment: Segment,
    file: SharedFd,
}

const FORKED: &str = "this is a forked copy of the process that has this memory; pass it to a task instead";

impl Region {
    /// New memory of `len` bytes, all zero.
    ///
    /// # Errors
    ///
    /// As for [`Segment::create`].
    pub(super) fn create(head: Head, len: usize) -> io::Result<Self> {
        let (segment, file) = Segment::create(head, len)?;
        Ok(Self(Arc::new(Mapped { segment, file: Arc::new(file) })))
    }

    pub(super) fn len(&self) -> usize {
        self.0.segment.bytes_len()
    }

    /// Access to the memory.
    ///
    /// # Panics
    ///
    /// In a forked copy of the process.
    #[inline]
    pub(super) fn view(&self) -> View<'_> {
        match self.0.segment.view() {
            Some(view) => view,
            None => panic!("{FORKED}"),
        }
    }

    /// # Errors
    ///
    /// No value is being encoded that is sent, or it carries too many descriptors; or this is a forked copy of the process.
    pub(super) fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.segment.view().is_none() {
            return Err(S::Error::custom(FORKED));
        }
        handle::serialize(&[&self.0.file], serializer)
    }

    /// The memory of a handle of type `T`.
    ///
    /// # Errors
    ///
    /// No value is being decoded that was received; or what came is no memory with this head.
    pub(super) fn deserialize<'de, T: 'static, D: Deserializer<'de>>(
        deserializer: D,
        head: Head,
    ) -> Result<Self, D::Error> {
        handle::deserialize::<T, Mapped, D, 1>(deserializer, |[file]| Mapped::open(file, head)).map(Self)
    }
}

impl Mapped {
    fn open(file: SharedFd, head: Head) -> io::Result<Self> {
        let segment = Segment::open(&file, head)?;
        if has_holes(&file)? {
            let text = "the memory has pages that were never allocated";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self { segment, file })
    }
}

/// Whether a file has pages that were never allocated, which take none of the sender's memory and would take this process's
/// when they are read. Not a defence: a process that has the memory may cut holes later.
fn has_holes(file: &SharedFd) -> io::Result<bool> {
    let status = fstat(file)?;
    // SEEK_HOLE would also find pages that are allocated and have not been written yet.
    Ok(status.st_blocks.saturating_mul(512) < status.st_size)
}
