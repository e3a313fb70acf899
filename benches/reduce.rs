//! Claim: a reduction in the workers takes a fraction of `map` and a sum here: items travel in chunks, and results not one by
//! one.
//!
//! The sum of ten million squares, in milliseconds. Every number travels to a worker, where threads find it in memory: so
//! the ratio to rayon is the price of copying. A square and an addition cost about a nanosecond.
//!
//! - `fold`: `Pool::fold`;
//! - `map_chunks`: `Pool::map_chunks`, with the sum of its results here;
//! - `map and sum`: `Pool::map`, with the sum of its results here;
//! - `rayon`: `into_par_iter().map().sum()`;
//! - `one thread`: an iterator.

mod common {
    pub(crate) mod contest;
    pub(crate) mod quick;
    pub(crate) mod table;
}

use std::hint::black_box;
use std::time::Instant;

use common::contest::Contest;
use common::contest::Figures;
use common::quick::sized;
use procpool::Pool;
use rayon::iter::IntoParallelIterator;
use rayon::iter::ParallelIterator;

fn square(x: u64) -> u64 {
    black_box(x).wrapping_mul(x)
}

fn add_square(sum: u64, x: u64) -> u64 {
    sum.wrapping_add(square(x))
}

fn sum_squares(chunk: Vec<u64>) -> u64 {
    chunk.into_iter().fold(0, add_square)
}

fn main() -> anyhow::Result<()> {
    procpool::init();

    let items: u64 = sized(10_000_000, 20_000);
    let expected = (0..items).fold(0, add_square);
    let pool = Pool::new(2)?;
    let rayon_pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;

    Contest::new("reduce: ms, less is better", [format!("sum of {items} squares, 2 workers")])
        .add("fold", || timed(expected, || Ok(pool.fold(0..items, 0, add_square, u64::wrapping_add)?)))
        .add("map_chunks", || {
            timed(expected, || Ok(pool.map_chunks(0..items, sum_squares)?.into_iter().fold(0, u64::wrapping_add)))
        })
        .add("map and sum", || {
            timed(expected, || Ok(pool.map(0..items, square)?.into_iter().fold(0, u64::wrapping_add)))
        })
        .add("rayon", || {
            timed(expected, || {
                let squares = (0..items).into_par_iter().map(square);
                Ok(rayon_pool.install(|| squares.reduce(|| 0, u64::wrapping_add)))
            })
        })
        .add("one thread", || timed(expected, || Ok((0..items).fold(0, add_square))))
        .run();
    Ok(())
}

fn timed(expected: u64, run: impl FnOnce() -> anyhow::Result<u64>) -> anyhow::Result<Figures<1>> {
    let began = Instant::now();
    let sum = run()?;
    let took = began.elapsed();
    anyhow::ensure!(sum == expected, "{sum} is not {expected}");
    Ok([took.as_secs_f64() * 1e3])
}
