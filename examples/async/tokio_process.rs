//! tokio: processes beside a timer in `select!`, each awaited by its descriptor, which is readable when the process has
//! ended.
//!
//! The runtime is built after `init`, in a plain `main`: `#[tokio::main]` would start its threads before.

#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(unsafe_code, reason = "tokio asks for a promise about the descriptor, which a duplicate of our own keeps")]

use std::os::fd::AsFd;
use std::time::Duration;

use procpool::Data;
use procpool::process::{Process, ProcessError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for a process without blocking the thread.
async fn joined<V: Data>(process: &Process<V>) -> anyhow::Result<Result<V, ProcessError>> {
    let duplicate = process.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is the same open descriptor as long as it lives, and the `AsyncFd` owns it.
    let end = unsafe { AsyncFd::register_with_interest(duplicate, Interest::READABLE) }?;
    let _ended = end.readable().await?;
    // It has ended, so this returns in a moment.
    Ok(process.join())
}

fn slow_square(x: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(50));
    x * x
}

fn endless() {
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
    let (first, second) = (Process::spawn((6,), slow_square)?, Process::spawn((7,), slow_square)?);
    let (first, second) = tokio::try_join!(joined(&first), joined(&second))?;
    println!("{} and {}", first.as_ref().map_err(Clone::clone)?, second.as_ref().map_err(Clone::clone)?);
    assert_eq!((first?, second?), (36, 49));

    // A process that takes too long is ended by its drop.
    let process = Process::spawn((), endless)?;
    tokio::select! {
        ended = joined(&process) => anyhow::bail!("it has ended: {ended:?}"),
        () = tokio::time::sleep(Duration::from_millis(50)) => println!("{} takes too long", process.name()),
    }
    assert!(process.is_alive());
    drop(process);
    Ok(())
}
