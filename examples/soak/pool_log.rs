//! The pool's log, collected through `log`.
//!
//! A worker that the pool kills because it broke the protocol is replaced, and its items run elsewhere: only a line
//! in the log reports it.

use std::mem;
use std::process;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;

use log::LevelFilter;
use log::Log;
use log::Metadata;

/// The log line for a worker that was killed before its initializer ran.
const EARLY_DEATH: &str = "ended before it was ready: killed by SIGKILL";
/// Maximum lines that are kept.
const LINES_MAX: usize = 20;

/// The log of one soak.
#[derive(Debug, Default)]
pub(crate) struct PoolLog {
    /// Workers that were killed before they were ready.
    pub(crate) early_deaths: u64,
    /// All other lines.
    pub(crate) warnings: u64,
    /// The first of these lines.
    pub(crate) lines: Vec<String>,
}

struct Logger {
    /// Forked copies have this logger too, and their lines are not read.
    pid: OnceLock<u32>,
    log: Mutex<PoolLog>,
}

static LOGGER: Logger =
    Logger { pid: OnceLock::new(), log: Mutex::new(PoolLog { early_deaths: 0, warnings: 0, lines: Vec::new() }) };

impl Logger {
    fn lock(&self) -> MutexGuard<'_, PoolLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.pid.get() != Some(&process::id()) {
            return;
        }
        let text = record.args().to_string();
        let mut log = self.lock();
        if text.contains(EARLY_DEATH) {
            log.early_deaths += 1;
            return;
        }
        log.warnings += 1;
        if log.lines.len() < LINES_MAX {
            log.lines.push(format!("log of the pool: {text}"));
        }
    }

    fn flush(&self) {}
}

/// Collects the log of every pool from here on.
pub(crate) fn install() {
    let pid = LOGGER.pid.get_or_init(process::id);
    assert_eq!(*pid, process::id(), "the logger was inherited");
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// What was logged since the last call.
pub(crate) fn take() -> PoolLog {
    mem::take(&mut LOGGER.lock())
}
