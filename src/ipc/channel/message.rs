//! Messages as bytes: encoded before any latch is taken, decoded after it is released.

use std::cell::Cell;
use std::sync::Arc;

use start_methods::PrivateFd;

use super::error::NotSent;
use super::error::RecvError;
use crate::values::attach;
use crate::values::attach::AttachError;
use crate::values::attach::Carried;
use crate::values::attach::Delivery;
use crate::values::attach::FDS_MAX;
use crate::values::attach::SharedFd;
use crate::values::attach::Source;
use crate::values::blob::Blob;
use crate::values::blob::BlobCache;
use crate::values::codec;
use crate::values::output::Output;
use crate::work::task::Data;

thread_local! {
    /// The memory of the last message, for the next one. Taken while it is in use: a `Serialize` may itself send.
    static OUTPUT: Cell<Output> = Cell::new(Output::default());
    static INPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A message as it travels.
#[derive(Debug)]
pub(super) struct Encoded<'a> {
    pub(super) bytes: EncodedBytes<'a>,
    /// Its descriptors.
    pub(super) carried: Carried,
}

#[derive(Debug)]
pub(super) enum EncodedBytes<'a> {
    Inline(&'a [u8]),
    File(Blob),
}

/// Encodes `value` and passes it to `send`: in a file, of this cache if there is one, if it is longer than `inline_max`.
///
/// # Errors
///
/// [`NotSent::Encode`], or the error of `send`.
#[inline]
pub(super) fn encode<T: Data>(
    value: &T,
    inline_max: usize,
    cache: Option<&Arc<BlobCache>>,
    send: impl FnOnce(&Encoded<'_>) -> Result<(), NotSent>,
) -> Result<(), NotSent> {
    // While the thread ends, its memory for messages may be gone.
    let mut output = OUTPUT.try_with(Cell::take).unwrap_or_default();
    output.clear();
    output.use_cache(cache);
    let result = codec::encode(value, &mut output)
        .map_err(NotSent::Encode)
        .and_then(|()| as_it_travels(&mut output, inline_max))
        .and_then(|encoded| send(&encoded));
    // Not kept until the next message: the ends of channels may be among them.
    output.clear();
    // Ignored: see above.
    let _: Result<(), _> = OUTPUT.try_with(|kept| kept.set(output));
    result
}

#[inline]
fn as_it_travels(output: &mut Output, inline_max: usize) -> Result<Encoded<'_>, NotSent> {
    let carried = output.take_carried();
    if output.len() <= inline_max as u64 {
        return Ok(Encoded { bytes: EncodedBytes::Inline(output.bytes()), carried });
    }
    if carried.len() == FDS_MAX {
        return Err(NotSent::Encode(AttachError::TooMany.to_string()));
    }
    let blob = output.take_blob().map_err(|error| NotSent::Encode(format!("no file takes its bytes: {error}")))?;
    Ok(Encoded { bytes: EncodedBytes::File(blob), carried })
}

/// A message as it has arrived.
#[derive(Debug)]
pub(super) enum Arrived {
    Inline(Vec<u8>),
    /// The bytes of the value begin here, and it carries descriptors.
    Carrying(Vec<u8>, usize, Vec<PrivateFd>),
    /// What should be a file with a value, and what the value carries.
    File(PrivateFd, Vec<PrivateFd>),
    /// The descriptor table of this process is full.
    TableFull,
}

/// Empty memory for a message that arrives.
#[inline]
pub(super) fn memory() -> Vec<u8> {
    let mut memory = INPUT.try_with(Cell::take).unwrap_or_default();
    memory.clear();
    memory
}

impl Arrived {
    /// The value. The memory for reading a file comes from `cache`.
    ///
    /// # Errors
    ///
    /// [`RecvError::Decode`].
    #[inline]
    pub(super) fn decode<T: Data>(self, cache: &Arc<BlobCache>) -> Result<T, RecvError> {
        match self {
            Arrived::Inline(bytes) => decode_inline(bytes, 0),
            Arrived::Carrying(bytes, start, fds) => {
                let _delivery = deliver(fds);
                decode_inline(bytes, start)
            }
            Arrived::File(file, fds) => {
                let _delivery = deliver(fds);
                decode_file(file, cache)
            }
            Arrived::TableFull => {
                let message = "the descriptor table of this process is full (EMFILE)".to_owned();
                Err(RecvError::Decode { message })
            }
        }
    }
}

/// The other end may be any process that was sent one.
fn deliver(fds: Vec<PrivateFd>) -> Delivery {
    let fds = fds.into_iter().map(|fd| Arc::new(fd) as SharedFd).collect();
    attach::deliver(Carried::new(fds), Source::Other)
}

#[inline]
fn decode_inline<T: Data>(bytes: Vec<u8>, start: usize) -> Result<T, RecvError> {
    let value = codec::decode(&bytes[start..]);
    // While the thread ends, its memory for messages may be gone.
    let _: Result<(), _> = INPUT.try_with(|kept| kept.set(bytes));
    value.map_err(|message| RecvError::Decode { message })
}

fn decode_file<T: Data>(fd: PrivateFd, cache: &Arc<BlobCache>) -> Result<T, RecvError> {
    let bytes = Blob::receive(fd, cache).and_then(|blob| blob.read());
    let bytes = bytes.map_err(|error| RecvError::Decode { message: format!("its bytes cannot be read: {error}") })?;
    codec::decode(&bytes).map_err(|message| RecvError::Decode { message })
}
