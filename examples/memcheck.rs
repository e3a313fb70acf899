//! A pool under valgrind, whose memcheck then follows the workers: for tasks that call code in C.
//!
//! ```sh
//! cargo build --example memcheck
//! valgrind --error-exitcode=1 target/debug/examples/memcheck
//! ```
//!
//! valgrind follows a fork by itself. Where it has no pidfds, only [`StartMethod::Fork`] works, and `build` says so for
//! the other two.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;

/// Stands for a function of a library that is to be checked.
fn sum(bytes: Vec<u8>) -> u64 {
    bytes.into_iter().map(u64::from).sum()
}

fn end_at_once(_: u8) {
    std::process::abort();
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::builder().processes(2).start_method(StartMethod::Fork).build()?;
    let sums = pool.map((1..=10u8).map(|len| vec![len; 1000]), sum)?;
    println!("{sums:?}");
    assert_eq!(sums.iter().sum::<u64>(), 55_000);

    // A worker that dies is replaced here too.
    let died = pool.apply((1u8,), end_at_once);
    assert!(matches!(died, Err(TaskError::WorkerDied { .. })), "{died:?}");
    assert_eq!(pool.apply((vec![7u8; 10],), sum)?, 70);
    pool.close();
    pool.join()?;
    println!("done");
    Ok(())
}
