//! A matrix that workers fill and sum by rows, without sending a number: views of ndarray over shared memory.
//!
//!     cargo run --release -p procpool-ndarray-examples --example shared_array

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use ndarray::ArrayView1;
use ndarray::ArrayView2;
use procpool::Pool;
use procpool::Shared;
use procpool::SharedArray;
use procpool::SharedSlice;

const ROWS: usize = 2048;
const COLUMNS: usize = 4096;

/// Computes one row, and copies it into the matrix.
fn fill_row(matrix: &SharedArray<f64>, done: &Shared<AtomicU64>, row: usize) {
    let values: Vec<f64> = (0..COLUMNS).map(|column| (row * COLUMNS + column) as f64).collect();
    matrix.write(row * COLUMNS, &values);
    done.fetch_add(1, Relaxed);
}

/// Sums a row of what never changes: a view, without a copy.
fn sum_row(matrix: &SharedSlice<f64>, row: usize) -> anyhow::Result<f64> {
    Ok(ArrayView2::from_shape((ROWS, COLUMNS), matrix)?.row(row).sum())
}

/// Sums a row of what others may be writing: of a copy.
fn sum_copy(matrix: &SharedArray<f64>, row: usize) -> f64 {
    let mut values = vec![0.0; COLUMNS];
    matrix.read(row * COLUMNS, &mut values);
    ArrayView1::from(&values).sum()
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    // 64 MiB. Sending it to a task takes as long as sending a number.
    let matrix = SharedArray::<f64>::zeroed(ROWS * COLUMNS)?;
    let done = Shared::<AtomicU64>::new()?;
    pool.with(&(matrix.clone(), done.clone())).map(0..ROWS, |(matrix, done), row| fill_row(matrix, done, row))?;
    println!("{} rows are filled", done.load(Relaxed));

    let copied: f64 = pool.with(&matrix).map(0..ROWS, sum_copy)?.into_iter().sum();
    let frozen = matrix.freeze()?;
    drop(matrix);
    let viewed: f64 = pool.with(&frozen).map(0..ROWS, sum_row)?.into_iter().sum();
    assert!((copied - viewed).abs() < f64::EPSILON * viewed);

    // The columns, over the same memory, here.
    let view = ArrayView2::from_shape((ROWS, COLUMNS), &frozen)?;
    println!("sum {viewed:e}, of the last column {:e}", view.column(COLUMNS - 1).sum());
    Ok(())
}
