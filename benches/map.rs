//! Claim: `map` takes a fraction of a microsecond per small item, for any number of items.
//!
//! Squares of a million numbers, in order, with default chunks; items per second. A square costs a nanosecond at most, so
//! nearly all of the time is transport: threads that share the memory win, and the ratio says by how much. The time per
//! item is the least that a task should take before processes are worth considering.
//!
//! - `procpool`: `Pool::map`;
//! - `rayon`: `par_iter().map().collect()`;
//! - `procspawn`: `Pool::spawn` for each chunk, of the size that suits it best.

mod common {
    pub(crate) mod contest;
    pub(crate) mod procspawned;
    pub(crate) mod quick;
    pub(crate) mod table;
}

use std::hint::black_box;
use std::time::Instant;

use common::contest::Contest;
use common::contest::Figures;
use common::procspawned;
use common::quick::sized;
use rayon::iter::IntoParallelRefIterator;
use rayon::iter::ParallelIterator;

/// Larger chunks are split into several messages; with smaller ones, calls cost more than items.
const PROCSPAWN_CHUNK: usize = 10_000;

fn main() -> anyhow::Result<()> {
    procpool::init();
    procspawn::init();

    let numbers: Vec<u64> = (0..sized(1_000_000, 20_000)).collect();
    let pool = procpool::Pool::new(2)?;
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
    Ok(())
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
