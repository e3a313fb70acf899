//! Panics of functions: message, location, thread and backtrace.
//!
//! Only the panic hook sees the location and the backtrace, so a worker installs a hook that chains to the previous one.
//! While an item runs on the worker's thread, the hook records the panic and prints nothing: the report travels to the
//! caller. Everywhere else, in threads that a task has started too, it calls the previous hook. A process that runs one
//! function, as a program its `main`, calls the previous hook too.
//!
//! Also called: panic hook, unwinding.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::io::Write;
use std::panic;
use std::panic::AssertUnwindSafe;
use std::panic::PanicHookInfo;
use std::panic::catch_unwind;

use crate::sys::payload;
use crate::transport::panic_record::PanicRecord;
use crate::transport::panic_record::cut_text;
use crate::values::codec;
use crate::values::codec::Coding;
use crate::worker::backtrace;

/// A panic message is cut at this length, so that the report fits one frame.
const MESSAGE_MAX: usize = 16 * 1024;
/// A backtrace is cut at this length, so that the report fits one frame.
const BACKTRACE_MAX: usize = 32 * 1024;

/// How many panics of one item are kept.
const RECORDS_MAX: usize = 8;
/// The messages of panics that cannot unwind, after which the process aborts. There is no stable way to ask.
const NO_UNWINDING: [&str; 2] = ["panic in a function that cannot unwind", "panic in a destructor during cleanup"];

/// A panic, as the hook sees it.
///
/// The hook runs inside the item and inside its time limit. Capturing a backtrace is quick; turning it into text looks up
/// symbols, which may take longer than the item itself. So that waits for [`report`](Self::report), and is not done at all
/// for a panic that the function catches.
pub(crate) struct Caught {
    pub(super) message: String,
    location: Option<String>,
    thread: Option<String>,
    backtrace: Option<Backtrace>,
    /// A value panicked while it was decoded or encoded, not the function.
    pub(super) during: Option<Coding>,
}

impl Caught {
    fn new(info: &PanicHookInfo<'_>) -> Self {
        Self {
            message: cut_text(payload::text(info.payload()), MESSAGE_MAX),
            location: info.location().map(ToString::to_string),
            thread: std::thread::current().name().map(ToOwned::to_owned),
            backtrace: Some(Backtrace::capture()),
            during: None,
        }
    }

    /// What is known of a panic that no hook has seen.
    fn unseen(message: String) -> Self {
        Self { message, location: None, thread: None, backtrace: None, during: None }
    }

    /// The panic as it is sent to the parent.
    pub(crate) fn report(&self) -> PanicRecord {
        let backtrace = self.backtrace.as_ref().and_then(backtrace::text);
        PanicRecord {
            message: self.message.clone(),
            location: self.location.clone(),
            thread: self.thread.clone(),
            backtrace: backtrace.map(|text| cut_text(text, BACKTRACE_MAX)),
        }
    }

    /// The message and the place.
    fn in_short(&self) -> String {
        let place = self.location.as_ref().map(|location| format!(", at {location}"));
        self.message.clone() + &place.unwrap_or_default()
    }

    /// The message, the place and the backtrace.
    pub(super) fn in_full(&self) -> String {
        let record = self.report();
        let backtrace = record.backtrace.map(|backtrace| format!("\n{backtrace}"));
        self.in_short() + &backtrace.unwrap_or_default()
    }

    /// The message and the place, and what panicked.
    pub(crate) fn in_words(&self) -> String {
        match self.during {
            Some(coding) => codec::panic_text(coding, &self.in_short()),
            None => format!("panic: {}", self.in_short()),
        }
    }
}

/// Reports a panic that the process will not survive to the parent.
pub(crate) type LastWords = Box<dyn Fn(&PanicRecord)>;

/// Whether an item is running on this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recording {
    Off,
    On,
    /// On, and there are records.
    Used,
}

thread_local! {
    static RECORDING: Cell<Recording> = const { Cell::new(Recording::Off) };
    /// The latest panics of the running item, those included that the function has caught itself.
    static RECORDS: RefCell<VecDeque<Caught>> = const { RefCell::new(VecDeque::new()) };
    static LAST_WORDS: RefCell<Option<LastWords>> = const { RefCell::new(None) };
}

/// What becomes of the panics of functions, besides that they are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// Nothing: the caller of the item is told.
    Silent,
    /// The hook that was there is called, which prints them.
    Previous,
}

/// Installs the hook in front of the current one.
pub(crate) fn install_hook(echo: Echo) {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| match RECORDING.get() {
        Recording::Off => previous(info),
        Recording::On | Recording::Used => {
            record(info);
            if echo == Echo::Previous {
                // In a process that was forked in a worker, the previous hook is this one again: it must not record.
                let recording = RECORDING.replace(Recording::Off);
                previous(info);
                RECORDING.set(recording);
            }
        }
    }));
}

/// As [`install_hook`], but only the first time, for threads of this process.
#[cfg(feature = "threads")]
pub(crate) fn install_hook_once() {
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    INSTALLED.call_once(|| install_hook(Echo::Silent));
}

/// Sets how a panic of this thread's items is reported when the process is about to abort.
pub(crate) fn set_last_words(last_words: LastWords) {
    LAST_WORDS.set(Some(last_words));
}

fn record(info: &PanicHookInfo<'_>) {
    let record = Caught::new(info);
    let fatal = cfg!(panic = "abort") || NO_UNWINDING.contains(&record.message.as_str());
    RECORDS.with_borrow_mut(|records| {
        if fatal {
            // If this panic cannot unwind, the one before it is the cause: it reached a function that must not unwind, or a
            // `drop` panicked. The process aborts when this hook returns.
            let cause = records.back().unwrap_or(&record).report();
            LAST_WORDS.with_borrow(|last_words| last_words.iter().for_each(|last_words| last_words(&cause)));
        }
        if records.len() == RECORDS_MAX {
            records.pop_front();
        }
        records.push_back(record);
    });
    RECORDING.set(Recording::Used);
}

/// Runs `f`, and catches a panic.
///
/// Unwind safety: what a panic leaves behind in a context or in statics is for the user to judge, as it is with threads.
pub(crate) fn caught<R>(f: impl FnOnce() -> R) -> Result<R, Box<Caught>> {
    recorded(|| catch_unwind(AssertUnwindSafe(f)))
}

/// Runs `f`, which catches its own panics, and adds to a caught panic what the hook has recorded of it.
pub(crate) fn recorded<R>(f: impl FnOnce() -> Result<R, Box<dyn Any + Send>>) -> Result<R, Box<Caught>> {
    RECORDING.set(Recording::On);
    let result = f();
    let records = match RECORDING.replace(Recording::Off) {
        Recording::Used => RECORDS.take(),
        Recording::Off | Recording::On => VecDeque::new(),
    };
    result.map_err(|payload| {
        let message = cut_text(payload::into_text(payload), MESSAGE_MAX);
        // The function may have caught other panics before, and in a `drop` even after the one that ended it. There is no
        // record if it has installed its own hook, or called `resume_unwind`, which runs no hook.
        let record = records.into_iter().rev().find(|record| record.message == message);
        Box::new(Caught { during: codec::panicked(), ..record.unwrap_or_else(|| Caught::unseen(message)) })
    })
}

/// Prints the last panic, a bug in procpool: the hook recorded it because a function was on the stack.
pub(crate) fn print_last() {
    if let Some(record) = RECORDS.take().pop_back() {
        // If that fails, there is no other way to report it.
        drop(writeln!(io::stderr(), "a worker panicked outside of any task, a bug in procpool: {}", record.in_short()));
    }
}

/// Forgets the panics that the previous item has caught, before the next item begins under the same [`recorded`].
#[inline]
pub(crate) fn forget_caught() {
    if RECORDING.get() == Recording::Used {
        RECORDS.take();
        RECORDING.set(Recording::On);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_panics_when_dropped_is_a_report_like_any_other() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let record = caught::<()>(|| panic::resume_unwind(Box::new(Bomb)));
        assert!(record.is_err_and(|panic| panic.message == "Box<dyn Any>"));
    }
}
