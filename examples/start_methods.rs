//! Start methods compared: what a worker inherits, and how long it takes to start.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::fs;
use std::os::unix::process::parent_id;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use procpool::{Pool, StartMethod, forkserver};

static SET_BY_PARENT: AtomicU32 = AtomicU32::new(0);
static SET_BY_PRELOAD: AtomicU32 = AtomicU32::new(0);

/// Returns both statics as the worker sees them, its parent, and how many threads it has.
fn inspect(_: u32) -> anyhow::Result<(u32, u32, u32, usize)> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    Ok((SET_BY_PARENT.load(Relaxed), SET_BY_PRELOAD.load(Relaxed), parent_id(), threads))
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    forkserver::preload(|| SET_BY_PRELOAD.store(7, Relaxed))?;
    SET_BY_PARENT.store(42, Relaxed); // After init, so a worker that runs this program again does not get here.
    let me = std::process::id();
    // The first forkserver pool also starts the server; the second finds it running.
    for method in StartMethod::ALL.into_iter().chain([StartMethod::Forkserver]) {
        let began = Instant::now();
        let pool = Pool::builder().processes(1).start_method(method).build()?;
        let (by_parent, by_preload, parent, threads) = pool.apply((0,), inspect)?;
        println!("{method:>10}: first result after {:?}; {threads} thread, parent {parent}", began.elapsed());
        println!("            sees {by_parent} set by process {me} and {by_preload} set by the preload");
        let (expected, expected_parent) = match method {
            StartMethod::Fork => ((42, 0), me),
            StartMethod::Spawn => ((0, 0), me),
            StartMethod::Forkserver => ((0, 7), forkserver::pid().unwrap_or(0)),
        };
        assert_eq!(((by_parent, by_preload), parent, threads), (expected, expected_parent, 1));
    }
    Ok(())
}
