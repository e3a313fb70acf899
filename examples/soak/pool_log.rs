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

use crate::injector::Fault;

/// The log line for a worker that was killed before its initializer ran.
const EARLY_DEATH: &str = "ended before it was ready: killed by SIGKILL";
/// The same, when the server that should have reported its status is dead as well.
const EARLY_DEATH_BESIDE_ITS_SERVER: &str = "ended before it was ready: exit status unknown";
/// Maximum lines that are kept.
const LINES_MAX: usize = 20;

/// The log of one soak.
#[derive(Debug, Default)]
pub(crate) struct PoolLog {
    /// Workers that were killed before they were ready.
    pub(crate) early_deaths: u64,
    /// Lines about what was injected: servers and templates that died, and starts that failed for want of descriptors.
    pub(crate) injected: u64,
    /// All other lines.
    pub(crate) warnings: u64,
    /// The first of these lines.
    pub(crate) lines: Vec<String>,
}

struct Logger {
    /// This process, since forked copies have this logger too and their lines are not read; and texts that are expected.
    setting: OnceLock<Setting>,
    log: Mutex<PoolLog>,
}

#[derive(Debug)]
struct Setting {
    pid: u32,
    early_deaths: Vec<&'static str>,
    expected: Vec<&'static str>,
}

static LOGGER: Logger = Logger {
    setting: OnceLock::new(),
    log: Mutex::new(PoolLog { early_deaths: 0, injected: 0, warnings: 0, lines: Vec::new() }),
};

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
        let Some(setting) = self.setting.get().filter(|setting| setting.pid == process::id()) else { return };
        let text = record.args().to_string();
        let mut log = self.lock();
        if setting.early_deaths.iter().any(|expected| text.contains(expected)) {
            log.early_deaths += 1;
            return;
        }
        if setting.expected.iter().any(|expected| text.contains(expected)) {
            log.injected += 1;
            return;
        }
        log.warnings += 1;
        if log.lines.len() < LINES_MAX {
            log.lines.push(format!("log of the pool: {text}"));
        }
    }

    fn flush(&self) {}
}

/// What the pool logs about a fault.
fn texts_about(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::Stops => &[],
        Fault::Servers => &["the fork server is replaced", "a fork server is killed", "the template process is lost"],
        Fault::Descriptors => &["Too many open files"],
    }
}

/// Collects the log of every pool from here on.
pub(crate) fn install(faults: &[Fault]) {
    let expected = faults.iter().flat_map(|&fault| texts_about(fault)).copied().collect();
    let mut early_deaths = vec![EARLY_DEATH];
    early_deaths.extend(faults.contains(&Fault::Servers).then_some(EARLY_DEATH_BESIDE_ITS_SERVER));
    LOGGER.setting.set(Setting { pid: process::id(), early_deaths, expected }).expect("the logger is installed once");
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// What was logged since the last call.
pub(crate) fn take() -> PoolLog {
    mem::take(&mut LOGGER.lock())
}
