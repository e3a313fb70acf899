//! Processes as `/proc` shows them. Everything here may race with the end of a process, which then is simply absent.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// The fields of `/proc/PID/stat` that the tests use.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) state: char,
    pub(crate) comm: String,
}

impl Process {
    /// The process, if it exists; zombies do.
    pub(crate) fn find(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may contain any character, parentheses and spaces included.
        let (before, after) = (stat.find('(')?, stat.rfind(')')?);
        let mut fields = stat[after + 1..].split_whitespace();
        Some(Process {
            pid,
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            comm: stat[before + 1..after].to_owned(),
        })
    }

    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Whether the process has ended: it is gone, or a zombie that its parent has not reaped.
pub(crate) fn ended(pid: u32) -> bool {
    Process::find(pid).is_none_or(|process| process.is_zombie())
}

/// The children of `pid`, zombies included.
pub(crate) fn children(pid: u32) -> Vec<Process> {
    all().into_iter().filter(|process| process.parent == pid).collect()
}

/// All descendants of `pid`.
pub(crate) fn descendants(pid: u32) -> Vec<Process> {
    let all = all();
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// The number of threads of this process.
pub(crate) fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// The descriptors of a process and their targets, in order.
pub(crate) fn descriptors(pid: u32) -> Vec<(i32, String)> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let own_view = fs::read_dir(&folder);
    let mut found: Vec<(i32, String)> = own_view
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?.display().to_string()))
        })
        // The folder also lists the descriptor that is reading it.
        .filter(|(_, target)| !is_own_view(target, pid))
        .collect();
    found.sort();
    found
}

fn is_own_view(target: &str, pid: u32) -> bool {
    Path::new(target) == Path::new(&format!("/proc/{pid}/fd"))
}

/// Prints everything that may explain why a process does not end.
pub(crate) fn dump(process: &Process, out: &mut impl Write) {
    let Process { pid, parent, group, state, comm } = process;
    let fd_count = descriptors(*pid).len();
    let _ = writeln!(out, "-- pid {pid} ({comm}) parent {parent} group {group} state {state} descriptors {fd_count}");
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for thread in threads.flatten() {
        let folder = thread.path();
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default().trim().replace('\n', " | ");
        let state = read("status").split(" | ").find(|line| line.starts_with("State:")).map(str::to_owned);
        let _ = writeln!(
            out,
            "   thread {} ({}) {} wchan {} syscall {}\n      stack {}",
            thread.file_name().to_string_lossy(),
            read("comm"),
            state.unwrap_or_default(),
            read("wchan"),
            read("syscall"),
            read("stack"),
        );
    }
}

fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.flatten().filter_map(|entry| Process::find(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The names of the threads of this process.
pub(crate) fn thread_names() -> Vec<String> {
    let threads = fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}
