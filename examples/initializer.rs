//! An initializer: runs once in each worker before its first task. If it fails, calls return its error.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::collections::BTreeSet;
use std::process;
use std::sync::OnceLock;

use anyhow::{Context, ensure};
use procpool::{Pool, PoolError, TaskError};

/// Stands for a database connection, or a library that needs setup.
static TABLE: OnceLock<Vec<u64>> = OnceLock::new();

fn set_up(name: &'static str, size: u64) -> anyhow::Result<()> {
    ensure!(size > 0, "table {name} is empty");
    ensure!(TABLE.set((0..size).map(|n| n * n).collect()).is_ok(), "table {name} is there already");
    Ok(())
}

fn look_up(index: usize) -> anyhow::Result<(u64, u32)> {
    let square = TABLE.get().and_then(|table| table.get(index)).context("not in the table")?;
    Ok((*square, process::id()))
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::builder().processes(2).initializer(("squares", 1000u64), set_up).build()?;
    let answers = pool.map(0..1000usize, look_up)?;
    let workers: BTreeSet<u32> = answers.iter().map(|answer| answer.1).collect();
    println!("30 squared is {}, computed by one of the workers {workers:?}", answers[30].0);
    assert_eq!(answers[30].0, 900);
    assert!(TABLE.get().is_none(), "the parent has no table");

    let broken = Pool::builder().processes(2).initializer(("nothing", 0u64), set_up).build()?;
    let Err(error) = broken.apply((1usize,), look_up) else { panic!("no worker can have started") };
    println!("{error}");
    assert!(matches!(&error, TaskError::Refused(PoolError::Broken { .. })));
    assert!(error.to_string().contains("table nothing is empty"));
    Ok(())
}
