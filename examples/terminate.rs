//! Terminating work that does not end by itself, which a thread pool cannot do.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::hint;
use std::time::{Duration, Instant};

use procpool::{Pool, TaskError};

fn endless(_: u32) -> u32 {
    loop {
        hint::spin_loop();
    }
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    assert_eq!(pool.apply((20u32, 22), |a, b| a + b)?, 42);

    let stuck = pool.map_async(0..100u32, endless);
    assert!(stuck.get_timeout(Duration::from_millis(200))?.is_none());
    println!("workers {:?} are busy for ever; the deadline has passed", pool.pids());

    let began = Instant::now();
    pool.terminate();
    println!("they are gone after {:?}", began.elapsed());
    assert!(pool.pids().is_empty());
    assert!(began.elapsed() < Duration::from_secs(5));

    // Every handle resolves, and a call that comes too late returns an error.
    assert!(matches!(stuck.get(), Err(TaskError::Terminated)));
    let late = pool.apply((1u32, 2), |a, b| a + b);
    println!("afterwards: {}", late.as_ref().err().map(ToString::to_string).unwrap_or_default());
    assert!(matches!(late, Err(TaskError::Refused(_))));
    pool.join()?;
    Ok(())
}
