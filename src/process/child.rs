//! The life of a started process: it learns its name, receives its arguments, runs its function, sends the outcome, and
//! leaves with the exit code that the outcome stands for.

use std::io;
use std::io::Write;
use std::rc::Rc;

use start_methods::Birth;
use start_methods::Socket;

use super::message::Outcome;
use super::message::Setup;
use crate::error::Side;
use crate::sys::failpoint::failpoint;
use crate::sys::identity;
use crate::sys::owner_process::OwnerProcess;
use crate::transport::first_call::BootCall;
use crate::transport::frame::AnswerKind;
use crate::transport::record::broken;
use crate::values::attach;
use crate::values::attach::Source;
use crate::values::message::parse;
use crate::values::output::Output;
use crate::work::function::Completion;
use crate::work::function::ResolvedFunction;
use crate::worker;
use crate::worker::functions::write_panic;
use crate::worker::panics;
use crate::worker::panics::Echo;

/// The exit code of a process whose function returned an error, or whose values could not travel.
const EXIT_FAILED: u8 = 1;
/// The exit code of a process whose function panicked, as of a program whose `main` does.
const EXIT_PANICKED: u8 = 101;
/// The exit code of a process whose parent broke the protocol: a bug in procpool.
const EXIT_PROTOCOL: u8 = 114;

/// Runs a process from its birth to its exit code.
pub(super) fn main(birth: Birth) -> u8 {
    match run(birth) {
        Ok(code) => code,
        Err(error) => {
            log::error!("a process leaves: {error}");
            EXIT_PROTOCOL
        }
    }
}

fn run(birth: Birth) -> io::Result<u8> {
    let setup: Setup = parse(&birth.payload).map_err(broken)?;
    identity::begin(setup.born);
    let owner = OwnerProcess::here();
    let control = Rc::new(birth.control);
    panics::install_hook(Echo::Previous);
    panics::set_last_words(worker::last_words(Rc::clone(&control)));
    let mut out = Output::default();
    failpoint!("before_run");
    let kind = call(setup.call, &control, &mut out);
    // Before anything is sent or printed.
    owner.kill_copy();
    failpoint!("after_run");
    let outcome = Outcome::new(kind, &mut out);
    print(&outcome);
    // A parent that has closed the socket does not ask for the outcome.
    let kind = outcome.send(&control).unwrap_or(kind);
    failpoint!("after_answer");
    Ok(match kind {
        AnswerKind::Completion(Completion::Value) => 0,
        AnswerKind::Panicked => EXIT_PANICKED,
        AnswerKind::Completion(_) | AnswerKind::FunctionNotFound => EXIT_FAILED,
    })
}

/// Runs the function, and leaves the bytes of the outcome in `out`.
fn call(mut call: BootCall, control: &Socket, out: &mut Output) -> AnswerKind {
    let mut fail = |kind, text: String| {
        out.append_encoded(text.as_bytes());
        kind
    };
    let function = match ResolvedFunction::find(&call.definition) {
        Ok(function) => function,
        Err(text) => return fail(AnswerKind::FunctionNotFound, text),
    };
    let (args, carried) = match call.receive_args(control) {
        Ok(received) => received,
        Err(text) => return fail(AnswerKind::Completion(Completion::NotDecoded(Side::Argument)), text),
    };
    let delivery = attach::deliver(carried, Source::Parent);
    let ended = panics::caught(|| function.call(&(), &args, out));
    drop(delivery);
    ended.map_or_else(|panic| write_panic(&panic, out), AnswerKind::Completion)
}

/// Prints an error, which would be lost if no thread asked for it. A panic is printed by the hook of the program.
fn print(outcome: &Outcome) {
    if outcome.kind() != AnswerKind::Panicked
        && let Some(error) = outcome.error()
    {
        // Where standard error is closed, the parent is told all the same.
        drop(writeln!(io::stderr(), "{}: {error}", identity::here().name()));
    }
}
