//! Claim: `map` takes a fraction of a microsecond per small item, for any number of items.
//!
//! Squares of a million numbers, in order, with default chunks; items per second. A square costs a nanosecond at most, so
//! nearly all of the time is transport: threads that share the memory win, and the ratio says by how much. The time per
//! item is the least that a task should take before processes are worth considering.
//!
//! - `procpool`: `Pool::map`;
//! - `rayon`: `par_iter().map().collect()`;
//! - `procspawn`: `Pool::spawn` for each chunk, of the size that suits it best.
//!
//! The second table is the processor time that the workers take for each item, with a time limit and without one: a limit
//! must cost nothing that tiny items would notice. From /proc/PID/schedstat, so it is not told where that is missing.

mod common {
    pub(crate) mod contest;
    pub(crate) mod procspawned;
    pub(crate) mod quick;
    pub(crate) mod table;
}

use std::fs;
use std::hint::black_box;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use common::contest::Contest;
use common::contest::Figures;
use common::procspawned;
use common::quick::sized;
use procpool::Pool;
use rayon::iter::IntoParallelRefIterator;
use rayon::iter::ParallelIterator;

/// Larger chunks are split into several messages; with smaller ones, calls cost more than items.
const PROCSPAWN_CHUNK: usize = 10_000;

fn main() -> anyhow::Result<()> {
    procpool::init();
    procspawn::init();

    let numbers: Vec<u64> = (0..sized(1_000_000, 20_000)).collect();
    let pool = Pool::new(2)?;
    let rayon_pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    let procspawn_pool = procspawn::Pool::new(2)?;

    Contest::new("map: items/s, more is better", [format!("map of {} squares, 2 workers", numbers.len())])
        .add("procpool", || timed(numbers.len(), || Ok(pool.map(numbers.iter().copied(), square)?)))
        .add("rayon", || {
            timed(numbers.len(), || {
                Ok(rayon_pool.install(|| numbers.par_iter().map(|&number| square(number)).collect()))
            })
        })
        .add("procspawn", || {
            timed(numbers.len(), || {
                let mut all = Vec::with_capacity(numbers.len());
                let chunks = numbers.chunks(PROCSPAWN_CHUNK).map(<[u64]>::to_vec);
                procspawned::one_by_one(&procspawn_pool, 32, chunks, squares, |chunk| all.extend(chunk))?;
                Ok(all)
            })
        })
        .run();

    let timed_pool = pool.timeout(Duration::from_secs(60));
    Contest::new("map: processor time of the workers in ns for each item, less is better", ["map of squares"])
        .add("timed", || service_time(&pool, numbers.len(), || Ok(timed_pool.map(numbers.iter().copied(), square)?)))
        .add("untimed", || service_time(&pool, numbers.len(), || Ok(pool.map(numbers.iter().copied(), square)?)))
        .run();
    Ok(())
}

/// The time that the pool's workers spend on a processor for each item.
fn service_time(
    pool: &Pool,
    items: usize,
    run: impl FnOnce() -> anyhow::Result<Vec<u64>>,
) -> anyhow::Result<Figures<1>> {
    let on_processor = || pool.pids().into_iter().map(processor_ns).sum::<anyhow::Result<u64>>();
    let before = on_processor()?;
    black_box(run()?);
    Ok([(on_processor()? - before) as f64 / items as f64])
}

fn processor_ns(pid: u32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    Ok(stat.split(' ').next().context("a line of numbers")?.parse()?)
}

fn square(number: u64) -> u64 {
    number * number
}

fn squares(numbers: Vec<u64>) -> Vec<u64> {
    numbers.into_iter().map(square).collect()
}

fn timed(items: usize, run: impl FnOnce() -> anyhow::Result<Vec<u64>>) -> anyhow::Result<Figures<1>> {
    let began = Instant::now();
    let squares = black_box(run()?);
    let took = began.elapsed();
    anyhow::ensure!(squares.len() == items, "{} of {items} results", squares.len());
    Ok([items as f64 / took.as_secs_f64()])
}
