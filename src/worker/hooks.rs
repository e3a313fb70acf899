//! The functions that a worker runs besides its items: its initializer and its finalizer.

use std::io;

use start_methods::Socket;

use super::panics;
use crate::transport::control::REPORT_TEXT_MAX;
use crate::transport::control::Report;
use crate::transport::first_call::BootCall;
use crate::transport::panic_record::cut_start;
use crate::transport::panic_record::cut_text;
use crate::transport::worker_link::report;
use crate::values::attach;
use crate::values::attach::Carried;
use crate::values::attach::Source;
use crate::values::output::Output;
use crate::values::output::no_room;
use crate::values::parcel::ParcelBytes;
use crate::work::function::Completion;
use crate::work::function::Definition;
use crate::work::function::ResolvedFunction;

/// A hook whose arguments have arrived, or the reason why they have not.
pub(super) struct ReadyHook {
    definition: Definition,
    args: Result<(ParcelBytes, Carried), String>,
}

impl ReadyHook {
    /// Receives what the setup does not have of the hook. In the order in which the parent sends it.
    pub(super) fn receive(mut hook: BootCall, control: &Socket) -> Self {
        let args = hook.receive_args(control);
        Self { definition: hook.definition, args }
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
        let (args, carried) = self.args?;
        let _delivery = attach::deliver(carried, Source::Parent);
        let mut out = Output::default();
        match panics::caught(|| function.call(&(), &args, &mut out)) {
            Ok(Completion::Value) => Ok(()),
            Ok(_) => Err(text_of(out)),
            Err(panic) => Err(panic.in_words()),
        }
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
