//! The peer with threads: a rayon thread pool that returns results through a channel.

use std::hint::black_box;
use std::sync::mpsc;

use rayon::ThreadPool;
use rayon::ThreadPoolBuilder;

pub(crate) fn thread_pool(threads: usize) -> anyhow::Result<ThreadPool> {
    Ok(ThreadPoolBuilder::new().num_threads(threads).build()?)
}

/// One task per item and one message per result, as with `imap_unordered`. Unlike there, all tasks are in memory at
/// once.
pub(crate) fn one_by_one(pool: &ThreadPool, items: u64) {
    let (sender, receiver) = mpsc::channel();
    for item in 0..items {
        let sender = sender.clone();
        // The receiver outlives all tasks.
        pool.spawn(move || sender.send(black_box(item)).unwrap_or_default());
    }
    drop(sender);
    for item in receiver {
        black_box(item);
    }
}
