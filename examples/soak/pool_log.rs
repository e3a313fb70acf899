//! What the pool says through `log`. A worker that the pool kills because it broke the protocol is replaced, and its
//! items run elsewhere: nothing but a line here tells of it.

use std::mem;
use std::process;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;

use log::LevelFilter;
use log::Log;
use log::Metadata;

/// What there is to hear when a worker is killed before it has run its initializer.
const EARLY_DEATH: &str = "ended before it was ready: signal: 9 (SIGKILL)";
/// Lines that are kept.
const LINES_MAX: usize = 20;

/// What was said during one soak.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Workers that were killed before they were ready.
    pub(crate) early_deaths: u64,
    /// All other lines.
    pub(crate) warnings: u64,
    /// The first of those.
    pub(crate) lines: Vec<String>,
}

struct Listener {
    /// The copies that fork makes have a pool's log too, and nobody to read it.
    pid: OnceLock<u32>,
    heard: Mutex<Heard>,
}

static LISTENER: Listener =
    Listener { pid: OnceLock::new(), heard: Mutex::new(Heard { early_deaths: 0, warnings: 0, lines: Vec::new() }) };

impl Listener {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.pid.get() != Some(&process::id()) {
            return;
        }
        let text = record.args().to_string();
        let mut heard = self.heard();
        if text.contains(EARLY_DEATH) {
            heard.early_deaths += 1;
            return;
        }
        heard.warnings += 1;
        if heard.lines.len() < LINES_MAX {
            heard.lines.push(format!("the pool says: {text}"));
        }
    }

    fn flush(&self) {}
}

/// Hears every pool from here on.
pub(crate) fn listen() {
    let pid = LISTENER.pid.get_or_init(process::id);
    assert_eq!(*pid, process::id(), "the listener was inherited");
    if log::set_logger(&LISTENER).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// What was said since the last call.
pub(crate) fn take() -> Heard {
    mem::take(&mut LISTENER.heard())
}
