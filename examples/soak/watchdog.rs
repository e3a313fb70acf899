//! The watchdog: a thread that ends the program if there is no progress for too long.

use std::fs;
use std::process;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use procpool::Pool;

use crate::gauges;
use crate::tally::Fate;
use crate::tally::Tally;

/// Longer than any step takes on a busy machine.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Watches until the soak is over. On a hang it ends the process, as no other thread could act on it.
pub(crate) fn watch_until(over: &AtomicBool, name: &str, pool: &Pool, tally: &Tally) {
    let (mut seen, mut since) = (0, Instant::now());
    while !over.load(SeqCst) {
        let progress = tally.progress.load(SeqCst);
        if progress != seen {
            (seen, since) = (progress, Instant::now());
        }
        if since.elapsed() > SILENCE_MAX {
            println!("{name}: hangs 1: no progress for {SILENCE_MAX:?}");
            dump(pool, tally);
            process::exit(1);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Prints everything that may explain the hang.
fn dump(pool: &Pool, tally: &Tally) {
    let waiting: Vec<u32> = (0..tally.tasks()).filter(|&index| tally.fate(index) == Fate::None).collect();
    eprintln!("{} items without an outcome, the first: {:?}", waiting.len(), &waiting[..waiting.len().min(20)]);
    for complaint in tally.take_complaints() {
        eprintln!("{complaint}");
    }
    dump_process(process::id());
    for process in gauges::descendants() {
        eprintln!("pid {} state {} parent {}", process.pid, process.state, process.parent);
        dump_process(process.pid);
    }
    // This comes last, since it takes the pool's lock, which may be what all threads wait for.
    eprintln!("the pool's workers: {:?}", pool.pids());
}

fn dump_process(pid: u32) {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default().trim().to_owned();
        eprintln!(
            "   {pid} thread {} ({}) wchan {} syscall {}",
            thread.file_name().to_string_lossy(),
            read("comm"),
            read("wchan"),
            read("syscall")
        );
    }
}
