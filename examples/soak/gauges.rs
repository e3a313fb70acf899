//! Gauges: descriptors, memory and processes of this process and of the helpers that fork for it, from `/proc`.

use std::collections::HashSet;
use std::fs;
use std::process;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;

/// The beginning of the names of this soak's workers. No other process of the system has it.
pub(crate) fn worker_name() -> String {
    format!("soak{}", process::id())
}

/// The fields of `/proc/PID/stat` that are used here.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) parent: u32,
    pub(crate) state: char,
}

impl Process {
    /// The process, if it exists; zombies do.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may contain any character, parentheses and spaces included.
        let (start, fields) = stat.rsplit_once(')')?;
        let (_, name) = start.split_once('(')?;
        let mut fields = fields.split_whitespace();
        Some(Self {
            pid,
            name: name.to_owned(),
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
        })
    }

    /// Whether it is a child of this process.
    pub(crate) fn is_child(&self) -> bool {
        self.parent == process::id()
    }

    /// Whether it is a child or grandchild of this process, or a worker whose server has died.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_child() || Self::find(self.parent).is_some_and(|parent| parent.is_child()) || self.is_named()
    }

    /// Whether it has the name of a worker of this soak, followed by its number.
    fn is_named(&self) -> bool {
        self.name.strip_prefix(&worker_name()).is_some_and(|rest| rest.starts_with('-'))
    }
}

/// All processes of the system.
fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::find(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The children and grandchildren of this process, and workers whose server has died. (Those that have ended are not
/// this process's to reap.)
pub(crate) fn descendants() -> Vec<Process> {
    let all = all();
    let children: HashSet<u32> = all.iter().filter(|child| child.is_child()).map(|child| child.pid).collect();
    let is_ours = |found: &Process| {
        found.is_child() || children.contains(&found.parent) || found.is_named() && found.state != 'Z'
    };
    all.into_iter().filter(is_ours).collect()
}

/// The readings at a quiet point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gauges {
    pub(crate) descriptors: usize,
    pub(crate) resident_kib: u64,
    pub(crate) zombies: usize,
}

/// Whose descriptors and memory count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Those of this process and its helpers.
    All,
    /// Those of this process: its helper is a copy of it, made at any time.
    Own,
}

impl Gauges {
    /// Reads this process and its helpers: its children that are not workers.
    pub(crate) fn read(workers: &[u32], counted: Counted) -> anyhow::Result<Self> {
        let descendants = descendants();
        let zombies = descendants.iter().filter(|process| process.state == 'Z').count();
        let (mut descriptors, mut resident_kib) = (0, 0);
        let helpers = descendants.iter().filter(|process| process.parent == process::id() && process.state != 'Z');
        let helpers = helpers.map(|process| process.pid).filter(|pid| !workers.contains(pid));
        let helpers = helpers.filter(|_| counted == Counted::All);
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
