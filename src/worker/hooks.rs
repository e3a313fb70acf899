//! The functions that a worker runs besides its items: its initializer and its finalizer.

use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use start_methods::Socket;

use super::functions::read_attached;
use super::panics;
use crate::transport::control::Hook;
use crate::transport::control::REPORT_TEXT_MAX;
use crate::transport::control::Report;
use crate::transport::panic_record::cut_start;
use crate::transport::panic_record::cut_text;
use crate::transport::worker_link::Beside;
use crate::transport::worker_link::receive_arguments;
use crate::transport::worker_link::report;
use crate::values::attach;
use crate::values::attach::Source;
use crate::values::blob::BlobCache;
use crate::values::output::Output;
use crate::values::output::no_room;
use crate::values::parcel::ReceivedFds;
use crate::work::function::Completion;
use crate::work::function::Definition;
use crate::work::function::ResolvedFunction;

/// A hook whose arguments have arrived.
pub(super) struct ReadyHook {
    definition: Definition,
    args: Arguments,
}

enum Arguments {
    Inline(Vec<u8>),
    Attached(Vec<u8>, Option<ReceivedFds>),
}

impl ReadyHook {
    /// Receives what the setup does not have of the hook. In the order in which the parent sends it.
    ///
    /// # Errors
    ///
    /// The parent is gone, or has sent something else.
    pub(super) fn receive(hook: Hook, control: &Socket) -> io::Result<Self> {
        let args = match hook.args {
            Some(args) => Arguments::Inline(args),
            None => {
                let (bytes, beside) = receive_arguments(control)?;
                match beside {
                    Beside::Fds(fds) => Arguments::Attached(bytes, Some(fds)),
                    Beside::Missing | Beside::ParentGone => Arguments::Attached(bytes, None),
                }
            }
        };
        Ok(Self { definition: hook.definition, args })
    }

    /// Runs it.
    ///
    /// # Errors
    ///
    /// It failed or panicked, or its function or arguments could not be used: in words, short enough for a report.
    pub(super) fn run(self) -> Result<(), String> {
        self.call().map_err(|message| cut_text(message, REPORT_TEXT_MAX))
    }

    fn call(self) -> Result<(), String> {
        let function = ResolvedFunction::find(&self.definition)?;
        match self.args {
            Arguments::Inline(args) => call(&function, &args),
            Arguments::Attached(bytes, beside) => {
                let (opened, carried) = read_attached(&bytes, beside, &BlobCache::of_worker())?;
                let _delivery = attach::deliver(carried, Source::Parent);
                call(&function, &opened)
            }
        }
    }
}

fn call(function: &ResolvedFunction, args: &[u8]) -> Result<(), String> {
    let mut out = Output::default();
    let completion = panics::recorded(|| catch_unwind(AssertUnwindSafe(|| function.call(&(), args, &mut out))));
    match completion {
        Ok(Completion::Value) => Ok(()),
        Ok(_) => Err(text_of(out)),
        Err(panic) => Err(panic.in_words()),
    }
}

/// The beginning of a text, however long it is.
fn text_of(mut text: Output) -> String {
    if text.fits_a_frame() {
        return String::from_utf8_lossy(&text.into_bytes()).into_owned();
    }
    let start = text.take_blob().and_then(|blob| Ok((blob.read_start(REPORT_TEXT_MAX)?, blob.len())));
    start.map_or_else(|error| no_room(&error), |(start, len)| cut_start(&start, len))
}

/// Runs the finalizer of a worker that was told to leave. The parent is told before, so that it can limit the time.
///
/// # Errors
///
/// The parent cannot be told: it is gone.
pub(super) fn finalize(finalizer: ReadyHook, control: &Socket) -> io::Result<()> {
    report(control, &Report::Finalizing, &[])?;
    match finalizer.run() {
        Ok(()) => Ok(()),
        Err(message) => report(control, &Report::FinalizerFailed { message }, &[]),
    }
}
