//! tokio: results of a pool in `select!`, beside a timer, and within a time limit that stops the workers.
//!
//! The runtime is built after `init`, in a plain `main`: `#[tokio::main]` would start its threads before.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::time::Duration;

use futures_util::StreamExt;
use procpool::{Pool, TaskError};

fn slow_square(x: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(30));
    x * x
}

fn endless(_: u8) -> u64 {
    loop {
        std::hint::spin_loop();
    }
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let pool = Pool::new(2)?;

    // Results and ticks, as they come. The input is infinite: no more is drawn than the window takes.
    let mut squares = pool.imap(0u64.., slow_square).into_stream();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let (mut sum, mut results, mut ticked) = (0, 0, 0);
    while results < 10 {
        tokio::select! {
            Some(square) = squares.next() => {
                sum += square?;
                results += 1;
            }
            _ = ticks.tick() => ticked += 1,
        }
    }
    println!("the sum of 10 squares is {sum}, after {ticked} ticks");
    assert_eq!(sum, 285);
    assert!(ticked > 0, "no thread of the runtime is blocked");
    drop(squares);

    // A time limit drops the future, which kills the worker: the processor is free again.
    let before = pool.pids();
    let endless = pool.apply_async((0,), endless).cancel_on_drop();
    let limited = tokio::time::timeout(Duration::from_millis(100), endless).await;
    assert!(limited.is_err());
    println!("given up; the next call gives {}", pool.apply_async((6u64, 7), |a, b| a * b).await?);
    tokio::time::timeout(Duration::from_secs(60), async {
        while pool.pids() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await?;

    // An error is a value, as everywhere.
    let error = pool.apply_async((1u32, 0u32), |a, b| a / b).await;
    assert!(matches!(error, Err(TaskError::Panicked(_))));

    pool.close();
    // `join` blocks, so it has a thread of its own.
    tokio::task::spawn_blocking(move || pool.join()).await??;
    Ok(())
}
