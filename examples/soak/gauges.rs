//! What the system says: descriptors, memory and processes, of this process and of the helpers that fork for it.

use std::collections::HashSet;
use std::fs;
use std::process;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;

/// One line of `/proc/PID/stat`, as far as it is read here.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) state: char,
}

impl Process {
    /// The process, if it is there (a zombie is).
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may hold any character, brackets and blanks included.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        Some(Self { pid, state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
    }

    /// Whether it is a child of this process, or a child of such a child.
    pub(crate) fn is_ours(&self) -> bool {
        let own = process::id();
        self.parent == own || Self::find(self.parent).is_some_and(|parent| parent.parent == own)
    }
}

/// Every process that there is.
fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::find(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// All children of this process, and theirs.
pub(crate) fn descendants() -> Vec<Process> {
    let all = all();
    let children: HashSet<u32> =
        all.iter().filter(|child| child.parent == process::id()).map(|child| child.pid).collect();
    all.into_iter().filter(|found| found.parent == process::id() || children.contains(&found.parent)).collect()
}

/// What is looked at while nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gauges {
    pub(crate) descriptors: usize,
    pub(crate) resident_kib: u64,
    pub(crate) zombies: usize,
}

impl Gauges {
    /// Of this process and its helpers: those of its children that are no workers.
    pub(crate) fn read(workers: &[u32]) -> anyhow::Result<Self> {
        let descendants = descendants();
        let zombies = descendants.iter().filter(|process| process.state == 'Z').count();
        let (mut descriptors, mut resident_kib) = (0, 0);
        let helpers = descendants.iter().filter(|process| process.parent == process::id() && process.state != 'Z');
        let helpers = helpers.map(|process| process.pid).filter(|pid| !workers.contains(pid));
        for pid in helpers.chain([process::id()]) {
            descriptors += descriptor_count(pid)?;
            resident_kib += resident_kib_of(pid)?;
        }
        Ok(Self { descriptors, resident_kib, zombies })
    }
}

/// How many descriptors this process has open.
pub(crate) fn own_descriptor_count() -> anyhow::Result<usize> {
    descriptor_count(process::id())
}

fn descriptor_count(pid: u32) -> anyhow::Result<usize> {
    let count = fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("descriptors of {pid}"))?.count();
    // The one that reads the folder is in the folder.
    Ok(count - usize::from(pid == process::id()))
}

fn resident_kib_of(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Looks until `is_right` says so, for ten seconds at most; gives what was seen last.
pub(crate) fn look_until<T>(mut look: impl FnMut() -> T, is_right: impl Fn(&T) -> bool) -> T {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let seen = look();
        if is_right(&seen) || Instant::now() >= give_up {
            return seen;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
