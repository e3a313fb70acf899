//! Backtraces of panics, reduced to the frames of the task.
//!
//! A panic in a task has about sixty frames, of which a few are the task's: above them is the machinery of panics, below
//! them this crate, the fork server and `main`. The names of symbols tell them apart. Where that finds nothing, as in a
//! program without symbols, all frames are kept.
//!
//! Also called: short backtrace, stack trace.

use std::backtrace::Backtrace;
use std::backtrace::BacktraceStatus;
use std::env;

/// The standard library's frame between a panic and its handler: this and the frames above are not the task's.
const HANDLER: &str = "__rust_end_short_backtrace";
/// Frames between the handler and the place of the panic.
const MACHINERY: [&str; 9] = [
    "rust_begin_unwind",
    "__rustc::",
    "core::panicking::",
    "std::panicking::",
    "core::option::expect_failed",
    "core::option::unwrap_failed",
    "core::result::unwrap_failed",
    "std::panic::panic_any",
    "core::slice::index::",
];
/// The code of this crate that calls tasks, and that decodes and encodes values.
const ENTRIES: [&str; 2] = ["procpool::work::", "procpool::values::"];
/// What calls a closure through its function pointer.
const ADAPTER: &str = "core::ops::function::Fn";

const NOTE: &str = "note: only the frames of the task are shown; RUST_BACKTRACE=full shows all\n";

/// The backtrace as text, if the environment asked for one. This looks up symbols, which may take a second the first time.
pub(super) fn text(backtrace: &Backtrace) -> Option<String> {
    if backtrace.status() != BacktraceStatus::Captured {
        return None;
    }
    let all = backtrace.to_string();
    Some(if wants_all() { all } else { trimmed(&all).unwrap_or(all) })
}

/// Whether every frame is wanted. The variables are those that decide whether there is a backtrace.
fn wants_all() -> bool {
    let setting = env::var_os("RUST_LIB_BACKTRACE").or_else(|| env::var_os("RUST_BACKTRACE"));
    setting.is_some_and(|setting| setting == "full")
}

/// One frame: `symbol`, and the lines that say where it is.
struct Frame<'a> {
    symbol: &'a str,
    place: Vec<&'a str>,
}

impl Frame<'_> {
    fn is_machinery(&self) -> bool {
        MACHINERY.iter().any(|name| self.symbol.trim_start_matches('<').starts_with(name))
    }

    fn is_entry(&self) -> bool {
        ENTRIES.iter().any(|name| self.symbol.contains(name))
    }

    fn is_adapter(&self) -> bool {
        self.symbol.starts_with(ADAPTER)
    }
}

/// The frames of the task; `None` if they cannot be told from the others.
fn trimmed(text: &str) -> Option<String> {
    let frames = frames_of(text);
    let handler = frames.iter().position(|frame| frame.symbol.contains(HANDLER))?;
    let inner = &frames[handler + 1..];
    let first = inner.iter().position(|frame| !frame.is_machinery())?;
    let inner = &inner[first..];
    let mut end = inner.iter().position(Frame::is_entry)?;
    while end > 0 && inner[end - 1].is_adapter() {
        end -= 1;
    }
    (end > 0).then(|| print(&inner[..end]))
}

/// Splits the text that [`Backtrace`] prints: `"  3: symbol"`, and then perhaps `"        at file:line:column"`.
fn frames_of(text: &str) -> Vec<Frame<'_>> {
    let mut frames: Vec<Frame<'_>> = Vec::new();
    for line in text.lines() {
        match line.trim_start().split_once(": ") {
            Some((number, symbol)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                frames.push(Frame { symbol, place: Vec::new() });
            }
            _ => frames.last_mut().into_iter().for_each(|frame| frame.place.push(line)),
        }
    }
    frames
}

fn print(frames: &[Frame<'_>]) -> String {
    let mut text = String::new();
    for (number, frame) in frames.iter().enumerate() {
        text += &format!("{number:>4}: {}\n", frame.symbol);
        frame.place.iter().for_each(|line| text += &format!("{line}\n"));
    }
    text + NOTE
}

#[cfg(test)]
mod tests {
    use super::*;

    const PANIC: &str = "   0: procpool::worker::panics::record\n   1: std::panicking::panic_with_hook\n             at \
                         /rustc/std/src/panicking.rs:833:13\n   2: std::sys::backtrace::__rust_end_short_backtrace::<F>\n   \
                         3: __rustc::rust_begin_unwind\n   4: core::panicking::panic_fmt\n";
    const TASK: &str = "   5: demo::inner\n             at ./src/main.rs:2:38\n   6: demo::main::{{closure}}\n";
    const WORKER: &str = "   7: core::ops::function::FnOnce::call_once\n   8: <(A,) as procpool::work::task::Args>::call\n  \
                          9: procpool::work::function::TaskGlue<S,M>::run\n  10: demo::main\n";

    #[test]
    fn the_frames_of_the_task_are_left() {
        let text = trimmed(&[PANIC, TASK, WORKER].concat()).unwrap();
        let frames = "   0: demo::inner\n             at ./src/main.rs:2:38\n   1: demo::main::{{closure}}\n";
        assert_eq!(text, format!("{frames}{NOTE}"));
    }

    #[test]
    fn what_cannot_be_told_apart_is_kept() {
        let unnamed = "   0: <unknown>\n   1: <unknown>\n";
        for text in ["", unnamed, PANIC, TASK, WORKER, &[PANIC, TASK].concat(), &[PANIC, WORKER].concat()] {
            assert_eq!(trimmed(text), None, "{text}");
        }
    }
}
