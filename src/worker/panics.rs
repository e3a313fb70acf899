//! What a worker sees of a panic: message, place, thread, backtrace.
//!
//! Only the panic hook sees the place and the backtrace, so the worker installs one that chains to the one before.
//! While a task runs on the worker's thread the hook records the panic, and keeps quiet: the report travels to the
//! caller. Everywhere else, threads that a task has started included, it lets the previous hook speak.

use std::any::Any;
use std::backtrace::Backtrace;
use std::backtrace::BacktraceStatus;
use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::io::Write;
use std::panic;
use std::panic::PanicHookInfo;

use crate::sys::payload;
use crate::transport::panic_record::PanicRecord;
use crate::transport::panic_record::cut_text;

/// A panic message is cut at this length, so that the report fits one frame.
const MESSAGE_MAX: usize = 16 * 1024;
/// A backtrace is cut at this length, so that the report fits one frame.
const BACKTRACE_MAX: usize = 32 * 1024;

/// Panics of one task that are remembered.
const RECORDS_MAX: usize = 8;
/// What core says when a panic cannot unwind, and the process is about to abort. There is no stable way to ask.
const NO_UNWINDING: [&str; 2] = ["panic in a function that cannot unwind", "panic in a destructor during cleanup"];

/// What the hook sees of a panic.
fn record_of(info: &PanicHookInfo<'_>) -> PanicRecord {
    let backtrace = Backtrace::capture();
    let captured = backtrace.status() == BacktraceStatus::Captured;
    PanicRecord {
        message: cut_text(payload::text(info.payload()), MESSAGE_MAX),
        location: info.location().map(ToString::to_string),
        thread: std::thread::current().name().map(ToOwned::to_owned),
        backtrace: captured.then(|| cut_text(backtrace.to_string(), BACKTRACE_MAX)),
    }
}

/// Tells the parent of a panic that the process will not survive.
pub(crate) type LastWords = Box<dyn Fn(&PanicRecord)>;

/// Whether a task is running on this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recording {
    Off,
    On,
    /// And there are records.
    Used,
}

thread_local! {
    static RECORDING: Cell<Recording> = const { Cell::new(Recording::Off) };
    /// The latest panics of the running task, those included that it has caught itself.
    static RECORDS: RefCell<VecDeque<PanicRecord>> = const { RefCell::new(VecDeque::new()) };
    static LAST_WORDS: RefCell<Option<LastWords>> = const { RefCell::new(None) };
}

/// Installs the hook, in front of the one that is there.
pub(crate) fn install_hook() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| match RECORDING.get() {
        Recording::Off => previous(info),
        Recording::On | Recording::Used => record(info),
    }));
}

/// Says how to report a panic of this thread's tasks when the process is about to abort.
pub(crate) fn set_last_words(last_words: LastWords) {
    LAST_WORDS.set(Some(last_words));
}

fn record(info: &PanicHookInfo<'_>) {
    let record = record_of(info);
    let fatal = cfg!(panic = "abort") || NO_UNWINDING.contains(&record.message.as_str());
    RECORDS.with_borrow_mut(|records| {
        if fatal {
            // When a panic cannot unwind, the one before it is the cause: it met a function that must not unwind, or a
            // `drop` that panicked. The process aborts when this hook returns.
            let cause = records.back().unwrap_or(&record);
            LAST_WORDS.with_borrow(|last_words| last_words.iter().for_each(|last_words| last_words(cause)));
        }
        if records.len() == RECORDS_MAX {
            records.pop_front();
        }
        records.push_back(record);
    });
    RECORDING.set(Recording::Used);
}

/// Runs `f`, which catches its own panics, and completes what it caught with what the hook has seen.
pub(crate) fn recorded<R>(f: impl FnOnce() -> Result<R, Box<dyn Any + Send>>) -> Result<R, PanicRecord> {
    RECORDING.set(Recording::On);
    let result = f();
    let records = match RECORDING.replace(Recording::Off) {
        Recording::Used => RECORDS.take(),
        Recording::Off | Recording::On => VecDeque::new(),
    };
    result.map_err(|payload| {
        let message = cut_text(payload::into_text(payload), MESSAGE_MAX);
        // The task may have caught other panics before, and in a `drop` even after the one that ended it. No record at
        // all: it has installed a hook of its own, or called `resume_unwind`, which runs no hook.
        let record = records.into_iter().rev().find(|record| record.message == message);
        record.unwrap_or(PanicRecord { message, location: None, thread: None, backtrace: None })
    })
}

/// Says aloud what the hook has kept quiet about because a task was on the stack: a panic that was not the task's.
pub(crate) fn tell_last() {
    if let Some(record) = RECORDS.take().pop_back() {
        let (message, place) = (&record.message, record.place());
        // There is nobody left to tell if that fails.
        drop(writeln!(
            io::stderr(),
            "a worker panicked in code that is no task's, a bug in procpool: {message}{place}"
        ));
    }
}

/// The next of several tasks begins that run under one [`recorded`]: what the last one has caught itself is not its.
#[inline]
pub(crate) fn begin_again() {
    if RECORDING.get() == Recording::Used {
        RECORDS.take();
        RECORDING.set(Recording::On);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn a_payload_that_panics_when_dropped_is_a_report_like_any_other() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let record = recorded::<()>(|| catch_unwind(AssertUnwindSafe(|| panic::resume_unwind(Box::new(Bomb)))));
        assert_eq!(record.unwrap_err().message, "Box<dyn Any>");
    }
}
