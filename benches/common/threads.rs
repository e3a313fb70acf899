//! The peer that shares its memory: a rayon thread pool, from which results come by a channel.

use std::hint::black_box;
use std::sync::mpsc;

use rayon::ThreadPool;
use rayon::ThreadPoolBuilder;

pub(crate) fn thread_pool(threads: usize) -> anyhow::Result<ThreadPool> {
    Ok(ThreadPoolBuilder::new().num_threads(threads).build()?)
}

/// Every item is a task of its own and every result a message of its own, as with `imap_unordered`. Unlike there, all
/// tasks are in memory at once.
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
