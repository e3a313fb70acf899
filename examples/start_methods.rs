//! What a worker inherits by each start method, and what its birth costs.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::fs;
use std::os::unix::process::parent_id;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use procpool::{Pool, StartMethod, forkserver};

static PARENT_SAID: AtomicU32 = AtomicU32::new(0);
static SERVER_SAID: AtomicU32 = AtomicU32::new(0);

/// Both statics as the worker sees them, its parent, and how many threads it has.
fn look(_: u32) -> anyhow::Result<(u32, u32, u32, usize)> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    Ok((PARENT_SAID.load(Relaxed), SERVER_SAID.load(Relaxed), parent_id(), threads))
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    forkserver::preload(|| SERVER_SAID.store(7, Relaxed))?;
    PARENT_SAID.store(42, Relaxed); // After init, so no second run of this program comes here.
    let me = std::process::id();
    // The first forkserver pool starts the server as well; the second finds it there.
    for method in StartMethod::ALL.into_iter().chain([StartMethod::Forkserver]) {
        let began = Instant::now();
        let pool = Pool::builder().processes(1).start_method(method).build()?;
        let (parent_said, server_said, parent, threads) = pool.apply((0,), look)?;
        println!("{method:>10}: first answer after {:?}; {threads} thread, parent {parent}", began.elapsed());
        println!("            it sees {parent_said} from process {me} and {server_said} from the preload");
        let (said, by) = match method {
            StartMethod::Fork => ((42, 0), me),
            StartMethod::Spawn => ((0, 0), me),
            StartMethod::Forkserver => ((0, 7), forkserver::pid().unwrap_or(0)),
        };
        assert_eq!(((parent_said, server_said), parent, threads), (said, by, 1));
    }
    Ok(())
}
