//! Leak check of one case, in its own process: children, threads, descriptors and shared mappings.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use std::time::Instant;

use crate::harness::processes;

/// A joined thread may stay in `/proc` for a moment.
const THREADS_GRACE: Duration = Duration::from_secs(2);

/// The state of this process before the case runs.
#[derive(Debug)]
pub(crate) struct Audit {
    thread_count: usize,
    descriptors: Vec<(i32, String)>,
    mappings: BTreeMap<String, usize>,
}

impl Audit {
    pub(crate) fn begin() -> Audit {
        Audit {
            thread_count: processes::thread_count(),
            descriptors: processes::descriptors(std::process::id()),
            mappings: shared_mappings(),
        }
    }

    /// Compares the present state with the one before the case.
    ///
    /// # Panics
    ///
    /// If they differ, with a list of what is new and what is missing.
    pub(crate) fn finish(self) {
        let mut wrong = Vec::new();
        for child in processes::children(std::process::id()) {
            wrong.push(format!("a child is left: {child:?}"));
        }
        let give_up = Instant::now() + THREADS_GRACE;
        while processes::thread_count() != self.thread_count && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(1));
        }
        if processes::thread_count() != self.thread_count {
            wrong.push(format!("{} threads, but there were {}", processes::thread_count(), self.thread_count));
        }
        let descriptors = processes::descriptors(std::process::id());
        for (fd, target) in descriptors.iter().filter(|now| !self.descriptors.contains(now)) {
            wrong.push(format!("descriptor {fd} is left: {target}"));
        }
        for (fd, target) in self.descriptors.iter().filter(|before| !descriptors.contains(before)) {
            wrong.push(format!("descriptor {fd} is gone: {target}"));
        }
        for (mapping, count) in shared_mappings() {
            let before = self.mappings.get(&mapping).copied().unwrap_or(0);
            if count > before {
                wrong.push(format!("{count} mappings of {mapping}, but there were {before}"));
            }
        }
        assert!(wrong.is_empty(), "the case left traces:\n{}", wrong.join("\n"));
    }
}

/// Counts the shared mappings and the mappings of memfds, by name.
fn shared_mappings() -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for line in fs::read_to_string("/proc/self/maps").expect("/proc is mounted").lines() {
        let mut fields = line.split_whitespace();
        let (permissions, name) = (fields.nth(1).unwrap_or(""), fields.nth(3).unwrap_or("anonymous"));
        if permissions.ends_with('s') || name.contains("memfd:") {
            *found.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    found
}
