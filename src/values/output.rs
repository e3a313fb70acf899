//! The sink of the encoder: a vector, which overflows into a file when a value becomes too large for a frame.
//!
//! A small value is only appended to the vector. When a value becomes too large for a frame, its bytes so far are
//! written into a new [`Blob`], and so are those that follow: large pieces directly from the value, small ones through
//! the vector. So each byte of a large value is copied once, and the vector never holds more than a frame or two.
//!
//! Also called: out-of-band data, spill to file.

use std::io;
use std::sync::Arc;

use crate::values::attach::AttachError;
use crate::values::attach::Carried;
use crate::values::attach::FDS_MAX;
use crate::values::blob::Blob;
use crate::values::blob::BlobCache;
use crate::values::blob::INLINE_MAX;
use crate::values::blob::Writer;
use crate::values::parcel::Parcel;

/// How many bytes of a value are gathered in the vector before they are written. More than a frame holds.
const GATHER: usize = 64 * 1024;
const _: () = assert!(GATHER > INLINE_MAX);

/// Writing to the file has failed; [`Output::roll_back`] or [`Output::take_blob`] returns the reason.
#[derive(Debug)]
pub(crate) struct Full;

/// Encoded values, back to back. The last one may be large.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    /// Where the last value begins in `bytes`.
    start: usize,
    /// The first part of the last value, if it is large.
    overflow: Option<Overflow>,
    /// The descriptors that the last value carries.
    carried: Carried,
    /// Files for reuse.
    cache: Option<Arc<BlobCache>>,
    /// Makes room for the descriptor of a value that is kept in memory, when it is sent.
    room: Option<Arc<BlobCache>>,
}

#[derive(Debug)]
struct Overflow {
    file: io::Result<Writer>,
    len: u64,
}

impl Output {
    /// An output whose files come from `cache`, and return to it.
    pub(crate) fn with_cache(cache: Arc<BlobCache>) -> Self {
        Self { cache: Some(cache), ..Self::default() }
    }

    /// An output each of whose large values has a file of its own. `cache` only keeps the descriptors that are closed when
    /// there is none for such a file.
    pub(crate) fn with_own_files(cache: Arc<BlobCache>) -> Self {
        Self { room: Some(cache), ..Self::default() }
    }

    /// From now on files come from `cache`, and return to it; or they are new, if there is none.
    pub(crate) fn use_cache(&mut self, cache: Option<&Arc<BlobCache>>) {
        if self.cache.as_ref().map(Arc::as_ptr) != cache.map(Arc::as_ptr) {
            self.cache = cache.cloned();
        }
    }

    /// Drops all values and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.begin();
    }

    /// Begins a value. An unfinished large one is dropped, and so is what the last one carried.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.start = self.bytes.len();
        if self.overflow.is_some() || self.carries() {
            self.roll_back();
        }
    }

    /// The last value carries these descriptors.
    #[inline]
    pub(crate) fn carry(&mut self, carried: Carried) {
        if !carried.is_empty() {
            self.carried = carried;
        }
    }

    /// Whether the last value carries descriptors.
    #[inline]
    pub(crate) fn carries(&self) -> bool {
        !self.carried.is_empty()
    }

    /// Removes the descriptors that the last value carries.
    #[inline]
    pub(crate) fn take_carried(&mut self) -> Carried {
        std::mem::take(&mut self.carried)
    }

    /// How many descriptors the last value carries.
    pub(crate) fn carried_len(&self) -> usize {
        self.carried.len()
    }

    #[inline]
    pub(crate) fn push(&mut self, byte: u8) -> Result<(), Full> {
        if self.bytes.len() == self.bytes.capacity() {
            return self.make_room_for(&[byte]);
        }
        self.bytes.push(byte);
        Ok(())
    }

    #[inline]
    pub(crate) fn extend(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let room = self.bytes.capacity() - self.bytes.len();
        if room < bytes.len() {
            return self.make_room_for(bytes);
        }
        match short(bytes) {
            // Most pieces are numbers. Copying a fixed length takes less time than a call of memcpy.
            Some(padded) if room >= SHORT => {
                let end = self.bytes.len() + bytes.len();
                self.bytes.extend_from_slice(&padded);
                self.bytes.truncate(end);
            }
            _ => self.bytes.extend_from_slice(bytes),
        }
        Ok(())
    }

    /// As [`extend`](Self::extend), for a length that is known at compile time.
    #[inline]
    pub(crate) fn extend_array<const N: usize>(&mut self, bytes: [u8; N]) -> Result<(), Full> {
        if self.bytes.capacity() - self.bytes.len() < N {
            return self.make_room_for(&bytes);
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    /// Appends a tag, and behind it bytes of a length that is known at compile time.
    ///
    /// Two stores: in one array of both, the load that copies it would wait for both to leave the store buffer.
    #[inline]
    pub(crate) fn extend_tagged<const N: usize>(&mut self, tag: u8, bytes: [u8; N]) -> Result<(), Full> {
        if self.bytes.capacity() - self.bytes.len() < 1 + N {
            self.make_room_for(&[tag])?;
            return self.make_room_for(&bytes);
        }
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    /// Appends a head, which can be [patched](Self::patch) until something else than [`extend_run`](Self::extend_run) is
    /// called. There is room for `room` bytes behind it. Returns where it begins.
    #[inline]
    pub(crate) fn begin_run<const N: usize>(&mut self, head: [u8; N], room: usize) -> Result<usize, Full> {
        if self.bytes.capacity() - self.bytes.len() < N + room {
            self.make_room_for_run(N + room)?;
        }
        self.bytes.extend_from_slice(&head);
        Ok(self.bytes.len() - N)
    }

    #[cold]
    fn make_room_for_run(&mut self, len: usize) -> Result<(), Full> {
        if self.bytes.len() - self.start + len > GATHER {
            self.overflow_with(&[])?;
        }
        self.bytes.reserve(len);
        Ok(())
    }

    /// Appends to a run that has begun; returns false if there is no room, so that it must end first.
    #[inline]
    pub(crate) fn extend_run(&mut self, bytes: &[u8]) -> bool {
        let fits = self.bytes.capacity() - self.bytes.len() >= bytes.len();
        if fits {
            self.bytes.extend_from_slice(bytes);
        }
        fits
    }

    /// Overwrites bytes of the head of a run.
    #[inline]
    pub(crate) fn patch<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.bytes[at..at + N].copy_from_slice(&bytes);
    }

    /// Appends bytes for which the vector has no capacity: grows it, or empties it into the file.
    #[cold]
    fn make_room_for(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if self.bytes.len() - self.start + bytes.len() > GATHER {
            return self.overflow_with(bytes);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes the bytes of the last value that are in the vector, and then `bytes`, into the file.
    fn overflow_with(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let gathered = &self.bytes[self.start..];
        let len = gathered.len() as u64 + bytes.len() as u64;
        let begun = || Overflow { file: Writer::new(self.cache.as_ref(), len), len: 0 };
        let overflow = self.overflow.get_or_insert_with(begun);
        overflow.len += len;
        if let Ok(file) = &mut overflow.file
            && let Err(error) = file.write([gathered, bytes])
        {
            overflow.file = Err(error);
        }
        self.bytes.truncate(self.start);
        overflow.file.as_ref().map(|_| ()).map_err(|_| Full)
    }

    /// Appends bytes that need no encoding as a value: a text, or a value that is encoded already.
    pub(crate) fn append_encoded(&mut self, bytes: &[u8]) {
        self.begin();
        // An error is reported by `take_blob`.
        let _: Result<(), Full> = self.extend(bytes);
    }

    /// Removes the last value. Returns why writing it to a file has failed, if it has.
    pub(crate) fn roll_back(&mut self) -> Option<io::Error> {
        self.bytes.truncate(self.start);
        self.carried = Carried::default();
        self.overflow.take().and_then(|overflow| overflow.file.err())
    }

    /// The length of the last value.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        let overflowed = self.overflow.as_ref().map_or(0, |overflow| overflow.len);
        overflowed + (self.bytes.len() - self.start) as u64
    }

    /// Whether the last value fits a frame among others: it is not large, and carries no descriptors.
    pub(crate) fn fits_a_frame(&self) -> bool {
        self.len() <= INLINE_MAX as u64 && !self.carries()
    }

    /// The bytes of all values. None may be large.
    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.overflow.is_none(), "a large value is a blob");
        &mut self.bytes
    }

    /// As [`bytes`](Self::bytes).
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(self.bytes())
    }

    /// Removes the last value and returns it as one that travels by itself. Other values stay.
    ///
    /// # Errors
    ///
    /// The message says why it cannot travel. The value is removed all the same.
    pub(crate) fn take_parcel(&mut self) -> Result<Parcel, String> {
        let carried = self.take_carried();
        if self.len() <= INLINE_MAX as u64 {
            return Ok(Parcel::inline(self.bytes.split_off(self.start), carried));
        }
        if carried.len() == FDS_MAX {
            self.roll_back();
            return Err(AttachError::TooMany.to_string());
        }
        let blob = self.take_blob().map_err(|error| no_room(&error))?;
        Ok(Parcel::file(blob, carried))
    }

    /// Removes the last value and returns it as a file, whatever its length. Other values stay.
    ///
    /// # Errors
    ///
    /// Writing to the file has failed. The value is removed all the same.
    pub(crate) fn take_blob(&mut self) -> io::Result<Blob> {
        // An error is kept in the overflow, and returned below.
        let _: Result<(), Full> = self.overflow_with(&[]);
        let overflow = self.overflow.take().expect("it was made a line ago");
        let blob = overflow.file?.finish()?;
        Ok(match &self.room {
            Some(cache) => blob.with_room_of(cache),
            None => blob,
        })
    }
}

const SHORT: usize = 8;

/// Two to eight bytes, padded with zeros. Read byte by byte, because most have just been written one by one: a wider
/// load would wait until those stores have left the store buffer.
#[inline]
fn short(bytes: &[u8]) -> Option<[u8; SHORT]> {
    match bytes.len() {
        SHORT => bytes.first_chunk().copied(),
        2..SHORT => Some(bytes.iter().rev().fold(0, |padded, &byte| padded << 8 | u64::from(byte)).to_le_bytes()),
        _ => None,
    }
}

/// The message for a value that is too large for a frame and could not be written to a file.
pub(crate) fn no_room(error: &io::Error) -> String {
    format!("its bytes are too many for a frame, and no anonymous file takes them: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index % 251).to_le_bytes()[0]).collect()
    }

    #[test]
    fn pieces_of_every_length_stand_one_behind_the_other() {
        let mut output = Output::default();
        let mut expected = Vec::new();
        for len in (0..=20).chain((0..=20).rev()) {
            let piece = value(200).split_off(expected.len() % 100)[..len].to_vec();
            output.extend(&piece).unwrap();
            expected.extend(piece);
            assert_eq!(*output.bytes(), expected);
        }
    }

    #[test]
    fn small_values_stand_one_behind_the_other() {
        let mut output = Output::default();
        for byte in 0..100 {
            output.begin();
            output.push(byte).unwrap();
            output.extend(&[byte; 3]).unwrap();
            assert_eq!(output.len(), 4);
        }
        assert_eq!(output.bytes().len(), 400);
    }

    #[test]
    fn a_value_is_the_same_in_pieces_of_every_size() {
        for len in [0, 1, INLINE_MAX, GATHER - 1, GATHER, GATHER + 1, 200_000, 1 << 20] {
            let value = value(len);
            for piece in [1, 7, 4096, 100_000, 1 << 20] {
                let mut output = Output::default();
                output.extend(b"before").unwrap();
                output.begin();
                for piece in value.chunks(piece) {
                    match piece {
                        [byte] => output.push(*byte).unwrap(),
                        piece => output.extend(piece).unwrap(),
                    }
                }
                assert_eq!(output.len(), len as u64);
                let blob = output.take_blob().unwrap();
                assert!(*blob.read().unwrap() == value[..], "{len} bytes by {piece} came back changed");
                assert_eq!(output.bytes(), b"before");
                assert!(output.bytes().capacity() <= 4 * GATHER, "the vector holds what should be in the file");
            }
        }
    }

    #[test]
    fn a_value_that_is_taken_back_leaves_those_before_it() {
        for len in [1, GATHER, 1 << 20] {
            let mut output = Output::default();
            output.extend(b"before").unwrap();
            output.begin();
            value(len).chunks(1000).for_each(|piece| output.extend(piece).unwrap());
            assert!(output.roll_back().is_none());
            assert_eq!(output.len(), 0);
            output.extend(b" and after").unwrap();
            assert_eq!(output.bytes(), b"before and after");
        }
    }
}
