//! procpool's turn in the benches that count items.

use std::hint::black_box;

use procpool::Pool;

/// One item at a time through `imap_unordered`; each result is taken as soon as it arrives.
pub(crate) fn one_by_one(pool: &Pool, items: u64) -> anyhow::Result<()> {
    for item in pool.imap_unordered(0..items, identity) {
        black_box(item?);
    }
    Ok(())
}

fn identity(item: u64) -> u64 {
    black_box(item)
}
