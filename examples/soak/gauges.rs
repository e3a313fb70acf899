//! Gauges: descriptors, memory and processes of this process and of the helpers that fork for it, from `/proc`.

use std::collections::HashSet;
use std::fs;
use std::process;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;

/// The fields of `/proc/PID/stat` that are used here.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) state: char,
}

impl Process {
    /// The process, if it exists; zombies do.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may contain any character, parentheses and spaces included.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        Some(Self { pid, state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
    }

    /// Whether it is a child or grandchild of this process.
    pub(crate) fn is_ours(&self) -> bool {
        let own = process::id();
        self.parent == own || Self::find(self.parent).is_some_and(|parent| parent.parent == own)
    }
}

/// All processes of the system.
fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::find(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The children and grandchildren of this process.
pub(crate) fn descendants() -> Vec<Process> {
    let all = all();
    let children: HashSet<u32> =
        all.iter().filter(|child| child.parent == process::id()).map(|child| child.pid).collect();
    all.into_iter().filter(|found| found.parent == process::id() || children.contains(&found.parent)).collect()
}

/// The readings at a quiet point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gauges {
    pub(crate) descriptors: usize,
    pub(crate) resident_kib: u64,
    pub(crate) zombies: usize,
}

impl Gauges {
    /// Reads this process and its helpers: its children that are not workers.
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
    // The folder also lists the descriptor that is reading it.
    Ok(count - usize::from(pid == process::id()))
}

fn resident_kib_of(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Polls until `is_right`, for ten seconds at most. Returns the last reading.
pub(crate) fn poll_until<T>(mut read: impl FnMut() -> T, is_right: impl Fn(&T) -> bool) -> T {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let seen = read();
        if is_right(&seen) || Instant::now() >= give_up {
            return seen;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
