//! What an answer means: a value, or the error that the caller gets instead.

use crate::error::Failure;
use crate::error::Origin;
use crate::error::Panic;
use crate::error::Side;
use crate::error::TaskError;
use crate::transport::frame::AnswerKind;
use crate::transport::panic_record::PanicRecord;
use crate::transport::panic_record::cut_start;
use crate::values::message;
use crate::values::parcel::Parcel;
use crate::work::function::Completion;

/// Error texts are cut at this length, and say so.
pub(crate) const TEXT_MAX: usize = 64 * 1024;

/// The value, or the error, that an answer of the process `pid` brings which travelled by itself.
///
/// # Errors
///
/// The message says why the text of the error cannot be read.
pub(crate) fn settle(kind: AnswerKind, parcel: Parcel, pid: u32) -> Result<Result<Parcel, TaskError>, String> {
    if kind == AnswerKind::Completion(Completion::Value) {
        return Ok(Ok(parcel));
    }
    let start = parcel.read_start(TEXT_MAX).map_err(|error| error.to_string())?;
    Ok(Err(match start.len() as u64 == parcel.len() {
        // A report of a panic is no text.
        true => error_of(kind, &start, pid),
        false => error_of(kind, cut_start(&start, parcel.len()).as_bytes(), pid),
    }))
}

/// The error that an answer brings which is no value. Its origin is set where it is read.
pub(crate) fn error_of(kind: AnswerKind, bytes: &[u8], pid: u32) -> TaskError {
    let message = || String::from_utf8_lossy(bytes).into_owned();
    let origin = Origin::default();
    match kind {
        AnswerKind::Completion(Completion::Value) => unreachable!("a value is no error"),
        AnswerKind::Completion(Completion::Failed) => TaskError::Failed(Failure { message: message(), pid, origin }),
        AnswerKind::Completion(Completion::NotDecoded(side)) => TaskError::Decode { side, message: message(), origin },
        AnswerKind::Completion(Completion::NotEncoded) => {
            TaskError::Encode { side: Side::Result, message: message(), origin }
        }
        AnswerKind::FunctionNotFound => TaskError::FunctionNotFound { message: message(), origin },
        AnswerKind::Panicked => TaskError::Panicked(match message::parse::<PanicRecord>(bytes) {
            Ok(record) => panic_of(record, pid),
            Err(error) => {
                let message = format!("the report of this panic is not readable: {error}");
                Panic { message, location: None, thread: None, backtrace: None, pid, origin }
            }
        }),
    }
}

/// A panic of the process `pid`, for the caller.
pub(crate) fn panic_of(record: PanicRecord, pid: u32) -> Panic {
    let PanicRecord { message, location, thread, backtrace } = record;
    Panic { message, location, thread, backtrace, pid, origin: Origin::default() }
}

/// What the caller is told where this process had no descriptor for a value.
pub(crate) const NO_DESCRIPTOR: &str =
    "it needs more descriptors than are free in this process; raise the limit of open files (ulimit -n)";
