//! `PROCPOOL_TIMELINE`: the timeline of every pool of a program, written when the pool is over.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use crate::observe::timeline::Timeline;
use crate::worker;

const VARIABLE: &str = "PROCPOOL_TIMELINE";

/// How many runs are recorded.
pub(super) const RUNS: usize = 1_000_000;

/// How many slow items a report in text has.
const SLOWEST: usize = 10;

/// Where the timeline of one pool is written.
#[derive(Debug)]
pub(super) struct Autosave {
    path: PathBuf,
    is_saved: AtomicBool,
}

impl Autosave {
    /// What the environment asks for. Pools that are made in workers are not recorded.
    pub(super) fn from_env() -> Option<Self> {
        static POOLS: AtomicU32 = AtomicU32::new(0);
        let path = env::var_os(VARIABLE).filter(|path| !path.is_empty() && !worker::is_here())?;
        let number = POOLS.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Self { path: numbered(path.into(), number), is_saved: AtomicBool::new(false) })
    }

    /// Writes the timeline, once. An error is logged: it is not the program's.
    pub(super) fn save(&self, timeline: impl FnOnce() -> Timeline) {
        if self.is_saved.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.write(&timeline()) {
            log::error!("{VARIABLE}: {} could not be written: {error}", self.path.display());
        }
    }

    fn write(&self, timeline: &Timeline) -> io::Result<()> {
        match self.path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => timeline.write_svg(&self.path),
            Some("json") => timeline.write_trace(&self.path),
            _ => fs::write(&self.path, timeline.report(SLOWEST).to_string()),
        }
    }
}

/// `run.svg` for the first pool, `run-2.svg` for the second.
fn numbered(path: PathBuf, number: u32) -> PathBuf {
    if number == 1 {
        return path;
    }
    let mut name = OsString::from(path.file_stem().unwrap_or_default());
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pool_has_a_file_of_its_own() {
        let names = [1, 2, 3].map(|number| numbered("a/run.svg".into(), number));
        assert_eq!(names, ["a/run.svg", "a/run-2.svg", "a/run-3.svg"].map(PathBuf::from));
        assert_eq!(numbered("report".into(), 2), PathBuf::from("report-2"));
    }
}
