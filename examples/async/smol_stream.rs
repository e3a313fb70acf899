//! smol: a stream of requests goes through a pool, and the answers come back as a stream.
//!
//! Backpressure works both ways: the source is asked for more only while the pool has room, and results wait until they
//! are consumed.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use procpool::Pool;
use smol::channel;
use smol::stream::StreamExt;

fn digest(text: String) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    smol::block_on(run(&pool))?;
    pool.close();
    pool.join()?;
    Ok(())
}

async fn run(pool: &Pool) -> anyhow::Result<()> {
    let (sender, requests) = channel::bounded(4);
    let source = smol::spawn(async move {
        for number in 0..1000 {
            // Waits while the channel is full, which it is while the pool is busy.
            if sender.send(format!("request {number}")).await.is_err() {
                break;
            }
        }
    });

    let mut digests = pool.window(16).stream(requests, digest);
    let mut count = 0;
    while let Some(result) = digests.next().await {
        // In the order of the requests.
        assert_eq!(result?, digest(format!("request {count}")));
        count += 1;
    }
    source.await;
    println!("{count} requests, all in order");
    assert_eq!(count, 1000);

    // Unordered, and each with its position.
    let words = ["one", "two", "three"].map(str::to_owned);
    let mut lengths = pool.imap_unordered(words.clone(), |word: String| word.len()).indexed().into_stream();
    while let Some((index, length)) = lengths.next().await {
        assert_eq!(length?, words[index].len());
    }
    Ok(())
}
