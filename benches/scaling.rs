//! Claim: more workers than processors cost no throughput, an endless input needs no memory, and what waits or works
//! beside a call does not make it dearer.
//!
//! Tasks per second of `imap_unordered`, one item at a time, with 1 to 64 workers. With more workers than processors the
//! best possible result is no loss, so the last lines are ratios to the pool of two. All pools exist at the same time, and
//! all but one are idle. `rayon` is `ThreadPool::spawn` with a channel, on the same number of threads.
//!
//! Before that, a long `imap` in a pool of two, and how much it raised this process's peak resident memory. The growth must
//! not depend on the number of items: half a million, or ten million with `PROCPOOL_BENCH_FULL=1`. And before that, calls
//! beside few and beside many others.

mod common {
    pub(crate) mod contest;
    pub(crate) mod crowds;
    pub(crate) mod ours;
    pub(crate) mod quick;
    pub(crate) mod rate;
    pub(crate) mod table;
    pub(crate) mod threads;
}

use std::env;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use anyhow::Context;
use common::contest::Contest;
use common::crowds;
use common::ours;
use common::quick::sized;
use common::rate::Rate;
use common::table::print_aligned;
use common::threads;
use procpool::Pool;

const WORKERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

fn main() -> anyhow::Result<()> {
    procpool::init();
    crowds::measure()?;
    long_imap()?;

    let mut ours = Vec::new();
    let mut rayon = Vec::new();
    for workers in WORKERS {
        let pool = Pool::new(workers)?;
        ours.push(Rate::new(move |items| ours::one_by_one(&pool, items)));
        let pool = threads::thread_pool(workers)?;
        rayon.push(Rate::new(move |items| {
            threads::one_by_one(&pool, items);
            Ok(())
        }));
    }
    let rows = WORKERS.map(|workers| format!("{workers} workers"));
    let medians = Contest::new("scaling: imap_unordered of u64, tasks/s, more is better", rows)
        .add("procpool", || all_rates(&mut ours))
        .add("rayon", || all_rates(&mut rayon))
        .run();

    let ratios = medians.map(|median| format!("{:.2}", median / medians[1]));
    print_aligned(&[
        ["workers".to_owned()].into_iter().chain(WORKERS.map(|workers| workers.to_string())).collect(),
        ["ours/ours with 2".to_owned()].into_iter().chain(ratios).collect(),
    ]);
    Ok(())
}

fn identity(item: u64) -> u64 {
    black_box(item)
}

fn all_rates<F: FnMut(u64) -> anyhow::Result<()>>(rates: &mut [Rate<F>]) -> anyhow::Result<[f64; WORKERS.len()]> {
    let mut figures = [f64::NAN; WORKERS.len()];
    for (figure, rate) in figures.iter_mut().zip(rates) {
        *figure = rate.per_second()?;
    }
    Ok(figures)
}

fn long_imap() -> anyhow::Result<()> {
    let is_full = env::var_os("PROCPOOL_BENCH_FULL").is_some_and(|value| value == "1");
    let items = if is_full { 10_000_000 } else { sized(500_000, 20_000) };
    let pool = Pool::new(2)?;
    black_box(pool.map(0..1000, identity)?);
    // Resets the peak (VmHWM).
    fs::write("/proc/self/clear_refs", "5")?;
    let resident = status_kib("VmRSS:")?;
    let began = Instant::now();
    for item in pool.imap(0..items, identity) {
        black_box(item?);
    }
    let rate = items as f64 / began.elapsed().as_secs_f64();
    let growth = status_kib("VmHWM:")? - resident;
    pool.close();
    pool.join()?;
    print_aligned(&[
        vec!["scaling: memory of a long imap".to_owned(), "tasks/s".to_owned(), "growth of the peak, KiB".to_owned()],
        vec![format!("{items} items, 2 workers"), format!("{rate:.0}"), growth.to_string()],
    ]);
    Ok(())
}

/// The value of a line of /proc/self/status, in KiB.
fn status_kib(name: &str) -> anyhow::Result<i64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(value.trim_end_matches("kB").trim().parse()?)
}
