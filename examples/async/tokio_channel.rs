//! tokio: messages from worker processes as futures. No reactor of this crate: `AsyncFd` takes the descriptor of an end.

#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(unsafe_code, reason = "tokio asks for a promise about the descriptor, which a duplicate of our own keeps")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use procpool::channel::{self, Receiver, RecvError, SendError, Sender};
use procpool::{Data, Pool};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a duplicate: a reactor takes a descriptor once, and clones of an end share theirs.
fn registered(end: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let duplicate = end.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is the same open descriptor as long as it lives, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(duplicate, Interest::READABLE) }?)
}

/// Receives in async code.
struct AsyncReceiver<T> {
    rx: Receiver<T>,
    readable: AsyncFd<OwnedFd>,
}

impl<T: Data> AsyncReceiver<T> {
    fn new(rx: Receiver<T>) -> io::Result<Self> {
        let readable = registered(&rx)?;
        Ok(Self { rx, readable })
    }

    /// The next message. If the future is dropped, nothing is lost: what it has not returned was not taken.
    async fn recv(&self) -> Result<T, RecvError> {
        loop {
            if let Some(message) = self.rx.try_recv()? {
                return Ok(message);
            }
            if self.rx.arm() {
                // There is none, and the descriptor becomes readable when there may be one.
                if let Ok(mut readable) = self.readable.readable().await {
                    readable.clear_ready();
                }
            }
        }
    }
}

/// Sends in async code.
struct AsyncSender<T> {
    tx: Sender<T>,
    readable: AsyncFd<OwnedFd>,
}

impl<T: Data> AsyncSender<T> {
    fn new(tx: Sender<T>) -> io::Result<Self> {
        let readable = registered(&tx)?;
        Ok(Self { tx, readable })
    }

    /// Sends when there is room.
    async fn send(&self, mut message: T) -> Result<(), SendError<T>> {
        loop {
            match self.tx.try_send(message) {
                Err(SendError::Full(back)) => message = back,
                result => return result,
            }
            // Readable also for a sender: it is how receivers tell that there is room.
            if self.tx.arm()
                && let Ok(mut readable) = self.readable.readable().await
            {
                readable.clear_ready();
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let pool = Pool::new(2)?;

    // Progress from workers, beside a timer that must not stand still.
    let (tx, rx) = channel::bounded::<(u32, u32)>(2)?;
    let squares = pool.with(&tx).map_async(0..20u32, |tx, number| {
        std::thread::sleep(Duration::from_millis(5));
        tx.send((number, number * number)).map(|()| number * number).unwrap_or(0)
    });
    drop(tx); // Then the end comes when the last task is done.
    let rx = AsyncReceiver::new(rx)?;
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    let (mut received, mut ticked) = (0, 0);
    loop {
        tokio::select! {
            message = rx.recv() => match message {
                Ok((number, square)) => {
                    assert_eq!(square, number * number);
                    received += 1;
                }
                Err(RecvError::Disconnected) => break,
                Err(error) => return Err(error.into()),
            },
            _ = ticks.tick() => ticked += 1,
        }
    }
    let squares: Vec<u32> = squares.await?;
    println!("{received} messages, {ticked} ticks, the last square is {}", squares[19]);
    assert!(received == 20 && ticked > 0);

    // To a worker that is slow: the future waits for room, and no thread does.
    let (tx, rx) = channel::bounded::<u64>(1)?;
    let sum = pool.apply_async((rx,), |rx: Receiver<u64>| {
        rx.iter().flatten().inspect(|_| std::thread::sleep(Duration::from_millis(2))).sum::<u64>()
    });
    let tx = AsyncSender::new(tx)?;
    for number in 0..20 {
        tx.send(number).await?;
    }
    drop(tx);
    let sum = sum.await?;
    println!("the worker received {sum}");
    assert_eq!(sum, 190);
    Ok(())
}
