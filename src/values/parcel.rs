//! A parcel: one encoded value that travels by itself, because it is too large for a frame or carries descriptors.
//!
//! ```text
//!   small, carries nothing    in a frame, among others    no parcel
//!   small, carries            its bytes in the frame      its descriptors beside the frame
//!   large                     its bytes in a file         the file beside the frame, then its descriptors
//! ```

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;
use start_methods::PrivateFd;

use crate::values::attach::Carried;
use crate::values::attach::SharedFd;
use crate::values::blob::Blob;
use crate::values::blob::BlobCache;
use crate::values::blob::BlobFd;
use crate::values::blob::Bytes;

/// One value, encoded. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    body: Body,
    carried: Carried,
}

#[derive(Clone, Debug)]
enum Body {
    Inline(Arc<[u8]>),
    File(Blob),
}

/// The descriptors of a parcel, to be sent: the file first, if there is one.
#[derive(Debug)]
pub(crate) struct ParcelFds<'a> {
    file: Option<BlobFd<'a>>,
    carried: &'a Carried,
}

/// The descriptors that came with a value.
#[derive(Debug, Default)]
pub(crate) struct ReceivedFds {
    pub(crate) file: Option<PrivateFd>,
    pub(crate) carried: Vec<PrivateFd>,
}

/// What came beside the frame of a parcel.
#[derive(Debug)]
pub(crate) struct Arrived {
    file: Option<Blob>,
    carried: Carried,
}

/// The bytes of a parcel.
#[derive(Debug)]
pub(crate) enum ParcelBytes {
    Inline(Arc<[u8]>),
    File(Bytes),
}

/// Where the bytes of a parcel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BodyPlace {
    /// In the frame, or the record.
    Frame,
    /// In the file that is the first of its descriptors.
    File,
}

impl Parcel {
    pub(crate) fn inline(bytes: impl Into<Arc<[u8]>>, carried: Carried) -> Self {
        Self { body: Body::Inline(bytes.into()), carried }
    }

    pub(crate) fn file(blob: Blob, carried: Carried) -> Self {
        Self { body: Body::File(blob), carried }
    }

    pub(crate) fn place(&self) -> BodyPlace {
        match &self.body {
            Body::Inline(_) => BodyPlace::Frame,
            Body::File(_) => BodyPlace::File,
        }
    }

    /// The bytes that travel in the frame; none if they are in the file.
    pub(crate) fn frame_bytes(&self) -> &[u8] {
        match &self.body {
            Body::Inline(bytes) => bytes,
            Body::File(_) => &[],
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match &self.body {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::File(blob) => blob.len(),
        }
    }

    pub(crate) fn carried(&self) -> &Carried {
        &self.carried
    }

    /// The descriptors, to be sent. If the bytes are in memory and too many for a frame, they are written into a new file.
    ///
    /// # Errors
    ///
    /// No file can be made: there is no descriptor, or not enough memory.
    pub(crate) fn fds(&self) -> io::Result<ParcelFds<'_>> {
        let file = match &self.body {
            Body::Inline(_) => None,
            Body::File(blob) => Some(blob.to_fd()?),
        };
        Ok(ParcelFds { file, carried: &self.carried })
    }

    /// The bytes.
    ///
    /// # Errors
    ///
    /// See [`Blob::read`].
    pub(crate) fn read(&self) -> io::Result<ParcelBytes> {
        Ok(match &self.body {
            Body::Inline(bytes) => ParcelBytes::Inline(Arc::clone(bytes)),
            Body::File(blob) => ParcelBytes::File(blob.read()?),
        })
    }

    /// The bytes, and what the value carries, of which this keeps nothing.
    ///
    /// # Errors
    ///
    /// See [`Blob::read`].
    pub(crate) fn open(self) -> io::Result<(ParcelBytes, Carried)> {
        Ok((self.read()?, self.carried))
    }

    /// A copy of the first bytes, at most `max`.
    ///
    /// # Errors
    ///
    /// See [`Blob::read_start`].
    pub(crate) fn read_start(&self, max: usize) -> io::Result<Vec<u8>> {
        match &self.body {
            Body::Inline(bytes) => Ok(bytes[..bytes.len().min(max)].to_vec()),
            Body::File(blob) => blob.read_start(max),
        }
    }

    /// Whether it holds a descriptor too many; see [`Blob::is_excess`].
    pub(crate) fn is_excess(&self) -> bool {
        matches!(&self.body, Body::File(blob) if blob.is_excess())
    }

    /// Gives a descriptor back that is one too many; see [`Blob::settle`].
    pub(crate) fn settle(self) {
        if let Body::File(blob) = self.body {
            blob.settle();
        }
    }

    /// The last worker to which it was sent has answered; see [`Blob::mark_answered`].
    pub(crate) fn mark_answered(&self) {
        if let Body::File(blob) = &self.body {
            blob.mark_answered();
        }
    }
}

impl Arrived {
    /// What another process has sent beside a frame.
    ///
    /// # Errors
    ///
    /// See [`Blob::receive`].
    pub(crate) fn receive(fds: ReceivedFds, cache: &Arc<BlobCache>) -> io::Result<Self> {
        let file = fds.file.map(|file| Blob::receive(file, cache)).transpose()?;
        let carried = fds.carried.into_iter().map(|fd| Arc::new(fd) as SharedFd).collect();
        Ok(Self { file, carried: Carried::new(carried) })
    }

    /// As this is, but with the bytes of the file in memory.
    pub(crate) fn without_file(self) -> Self {
        Self { file: self.file.map(Blob::without_file), ..self }
    }

    /// How many descriptors the value carries.
    pub(crate) fn carried_len(&self) -> usize {
        self.carried.len()
    }

    /// The parcel whose frame has these bytes.
    ///
    /// # Errors
    ///
    /// The message says why the sender is no process of this build.
    pub(crate) fn into_parcel(self, frame_bytes: &[u8]) -> Result<Parcel, String> {
        let body = match self.file {
            None if self.carried.is_empty() => return Err("nothing is attached".to_owned()),
            None => Body::Inline(frame_bytes.into()),
            Some(file) if frame_bytes.is_empty() => Body::File(file),
            Some(_) => return Err("bytes both in the frame and attached".to_owned()),
        };
        Ok(Parcel { body, carried: self.carried })
    }
}

impl ParcelFds<'_> {
    pub(crate) fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.file.iter().map(AsFd::as_fd).chain(self.carried.borrowed()).collect()
    }
}

impl BodyPlace {
    /// As one byte.
    pub(crate) fn code(self) -> u8 {
        match self {
            BodyPlace::Frame => 0,
            BodyPlace::File => 1,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [BodyPlace::Frame, BodyPlace::File].into_iter().find(|place| place.code() == code)
    }
}

impl ReceivedFds {
    /// The descriptors of a message, of which the first is the file if the bytes are in one; `None` if it has none.
    pub(crate) fn split(mut fds: Vec<PrivateFd>, place: BodyPlace) -> Option<Self> {
        if fds.is_empty() {
            return None;
        }
        let file = match place {
            BodyPlace::Frame => None,
            BodyPlace::File => Some(fds.remove(0)),
        };
        Some(Self { file, carried: fds })
    }
}

/// What a value is told whose file, or whose descriptors, did not come with it.
pub(crate) const MISSING: &str = "its bytes or its descriptors did not arrive: a process had no descriptor or no memory \
                                  for them; raise the limits of open files and memory (ulimit -n, ulimit -v)";

/// The bytes of a value that travelled by itself, which are in the frame or in a file, and what it carries.
///
/// # Errors
///
/// The message says why it cannot be read; [`MISSING`] if nothing came with it.
pub(crate) fn open_received(
    frame_bytes: &[u8],
    received: Option<ReceivedFds>,
    cache: &Arc<BlobCache>,
) -> Result<(ParcelBytes, Carried), String> {
    let arrived = Arrived::receive(received.ok_or(MISSING)?, cache).map_err(|error| error.to_string())?;
    arrived.into_parcel(frame_bytes)?.open().map_err(|error| error.to_string())
}

impl Deref for ParcelBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            ParcelBytes::Inline(bytes) => bytes,
            ParcelBytes::File(bytes) => bytes,
        }
    }
}
