//! Two tasks that talk: one worker produces blocks of numbers, the other consumes them. The parent only introduces them.
//!
//! Tasks that wait for each other must run at the same time, so the pool needs a worker for each. Where that cannot be
//! promised, give each its own [`Process`](procpool::process::Process).

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use procpool::Pool;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::Sender;

const BLOCKS: u32 = 1000;
const LENGTH: usize = 512;

fn produce(blocks: Sender<Vec<f64>>) -> anyhow::Result<u32> {
    for block in 0..BLOCKS {
        // Waits while four blocks are unread: the consumer sets the pace.
        blocks.send(vec![f64::from(block); LENGTH])?;
    }
    Ok(std::process::id())
}

fn consume(blocks: Receiver<Vec<f64>>) -> anyhow::Result<(f64, u32)> {
    let mut sum = 0.0;
    // Ends when the producer has dropped its sender, or has died.
    for block in blocks {
        sum += block?.iter().sum::<f64>();
    }
    Ok((sum, std::process::id()))
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    let (sender, receiver) = channel::bounded(4)?;
    let producer = pool.apply_async((sender,), produce);
    let consumer = pool.apply_async((receiver,), consume);

    let producer = producer.get()?;
    let (sum, consumer) = consumer.get()?;
    println!("process {producer} sent {BLOCKS} blocks to process {consumer}, which summed them to {sum}");
    assert_ne!(producer, consumer);
    assert_eq!(sum, f64::from(BLOCKS * (BLOCKS - 1) / 2) * LENGTH as f64);
    Ok(())
}
