//! The watchdog: a thread that ends the program when nothing has happened for too long.

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

/// Longer than anything here takes on a busy machine.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks on until it is over. Does not return from a hang: there is nobody left who could be told.
pub(crate) fn watch_until(over: &AtomicBool, name: &str, pool: &Pool, tally: &Tally) {
    let (mut seen, mut since) = (0, Instant::now());
    while !over.load(SeqCst) {
        let progress = tally.progress.load(SeqCst);
        if progress != seen {
            (seen, since) = (progress, Instant::now());
        }
        if since.elapsed() > SILENCE_MAX {
            println!("{name}: hangs 1: nothing has happened for {SILENCE_MAX:?}");
            dump(pool, tally);
            process::exit(1);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Says all there is to know about why nothing happens.
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
    // The last thing, since it takes the pool's lock, which may be what everybody waits for.
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
