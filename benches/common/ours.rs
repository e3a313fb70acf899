//! Our side of the benches that count tasks.

use std::hint::black_box;

use procpool::Pool;

/// Every item travels alone, and every result is taken as soon as it is there.
pub(crate) fn one_by_one(pool: &Pool, items: u64) -> anyhow::Result<()> {
    for item in pool.imap_unordered(0..items, identity) {
        black_box(item?);
    }
    Ok(())
}

fn identity(item: u64) -> u64 {
    black_box(item)
}
