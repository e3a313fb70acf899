//! Recycling: a task leaks memory, and workers that are replaced after a number of items return it to the system.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::fs;
use std::hint::black_box;

use procpool::Pool;

const ITEMS: usize = 200;

/// Leaks a mebibyte, as a faulty C library might, and returns the resident memory of its worker in mebibytes.
fn leak(_item: usize) -> anyhow::Result<usize> {
    black_box(vec![1u8; 1 << 20].leak());
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(resident.trim().trim_end_matches(" kB").parse::<usize>()? / 1024)
}

fn main() -> anyhow::Result<()> {
    procpool::init();

    let pool = Pool::new(1)?;
    let first_pids = pool.pids();
    let unbounded = pool.map(0..ITEMS, leak)?.into_iter().max().unwrap_or(0);
    println!("one worker for {ITEMS} items: grows to {unbounded} MiB");
    assert!(unbounded >= ITEMS && pool.pids() == first_pids);

    let pool = Pool::builder().processes(1).max_tasks_per_child(20).build()?;
    let bounded = pool.map(0..ITEMS, leak)?.into_iter().max().unwrap_or(0);
    println!("a new worker every 20 items: none grows beyond {bounded} MiB");
    assert!((20..100).contains(&bounded));
    pool.close();
    pool.join()?;
    Ok(())
}
