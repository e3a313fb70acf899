//! Waits until this process has one thread: the threads of a peer's pool end some time after the pool is dropped.

use std::fs;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

/// After this a fork is allowed, and no thread of a peer disturbs a measurement.
pub(crate) fn wait_for_one_thread() -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_dir("/proc/self/task")?.count() > 1 {
        anyhow::ensure!(Instant::now() < deadline, "threads of a peer are still running");
        sleep(Duration::from_micros(200));
    }
    Ok(())
}
