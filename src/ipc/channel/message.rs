//! Messages as bytes: encoded before any latch is taken, decoded after it is released.

use std::cell::Cell;
use std::sync::Arc;

use start_methods::PrivateFd;

use super::error::NotSent;
use super::error::RecvError;
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
pub(super) enum Encoded<'a> {
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
    let result = codec::encode(value, &mut output).map_err(NotSent::Encode).and_then(|()| {
        if output.len() <= inline_max as u64 {
            return send(&Encoded::Inline(output.bytes()));
        }
        let blob = output.take_blob().map_err(|error| NotSent::Encode(format!("no file takes its bytes: {error}")))?;
        send(&Encoded::File(blob))
    });
    // Ignored: see above.
    let _: Result<(), _> = OUTPUT.try_with(|kept| kept.set(output));
    result
}

/// A message as it has arrived.
#[derive(Debug)]
pub(super) enum Arrived {
    Inline(Vec<u8>),
    /// What should be a file with a value.
    File(PrivateFd),
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
            Arrived::Inline(bytes) => {
                let value = codec::decode(&bytes);
                // While the thread ends, its memory for messages may be gone.
                let _: Result<(), _> = INPUT.try_with(|kept| kept.set(bytes));
                value.map_err(|message| RecvError::Decode { message })
            }
            Arrived::File(fd) => decode_file(fd, cache),
            Arrived::TableFull => {
                let message = "the descriptor table of this process is full (EMFILE)".to_owned();
                Err(RecvError::Decode { message })
            }
        }
    }
}

fn decode_file<T: Data>(fd: PrivateFd, cache: &Arc<BlobCache>) -> Result<T, RecvError> {
    let bytes = Blob::receive(fd, cache).and_then(|blob| blob.read());
    let bytes = bytes.map_err(|error| RecvError::Decode { message: format!("its bytes cannot be read: {error}") })?;
    codec::decode(&bytes).map_err(|message| RecvError::Decode { message })
}
