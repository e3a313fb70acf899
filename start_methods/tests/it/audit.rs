//! The descriptors, threads and children of a process, compared before and after a case.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use std::time::Instant;

use start_methods::forkserver;

/// A snapshot taken at the beginning of a case.
pub(crate) struct Audit {
    fds: BTreeMap<i32, String>,
}

impl Audit {
    pub(crate) fn begin() -> Self {
        Self { fds: fds() }
    }

    /// Asserts that no child, zombie, thread or descriptor is left.
    pub(crate) fn end(self) {
        forkserver::stop();
        // The kernel may still list a thread for a moment after it was joined.
        let deadline = Instant::now() + Duration::from_secs(1);
        while threads() > 1 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(threads(), 1, "threads are left");
        assert_eq!(children(), "", "children are left");
        assert_eq!(fds(), self.fds, "descriptors were leaked or closed");
    }
}

/// The open descriptors, and the files they refer to.
pub(crate) fn fds() -> BTreeMap<i32, String> {
    let directory = fs::read_dir("/proc/self/fd").unwrap();
    let numbers: Vec<i32> =
        directory.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    numbers
        .into_iter()
        // The directory itself is closed by now: its link cannot be read.
        .filter_map(|number| {
            let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
            Some((number, target.to_string_lossy().into_owned()))
        })
        .collect()
}

/// The process ids of all children, dead ones included.
pub(crate) fn children() -> String {
    let mut all = String::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path().join("children");
        all += &fs::read_to_string(path).unwrap_or_default();
    }
    all
}

pub(crate) fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}
