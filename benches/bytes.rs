//! Claim: large values move at gigabytes per second, in each direction.
//!
//! Blocks of 8 MiB as `serde_bytes::ByteBuf`, through `imap_unordered` to two workers; gigabytes per second. *In*: the
//! block is the argument and its length the result; the blocks exist before the clock starts. *Out*: the worker makes
//! the block, so the time to fill fresh memory is included.
//!
//! - `procpool`, `procspawn`: as above;
//! - `memcpy`, a limit: one copy between two warm buffers. A value that moves between processes is written at least once
//!   and read at least once, unless it is mapped;
//! - `socketpair`, a limit for everything that goes through a stream.
//!
//! There is no column for threads: they pass a pointer and copy nothing.

mod common {
    pub(crate) mod contest;
    pub(crate) mod fork;
    pub(crate) mod procspawned;
    pub(crate) mod quick;
    pub(crate) mod table;
}

use std::hint::black_box;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use common::contest::Contest;
use common::contest::Figures;
use common::fork::Forked;
use common::procspawned;
use common::quick::sized;
use procpool::TaskError;
use serde_bytes::ByteBuf;

const BLOCK_BYTES: usize = 8 << 20;
const ROWS: [&str; 2] = ["in: 8 MiB argument", "out: 8 MiB result"];

fn main() -> anyhow::Result<()> {
    procpool::init();
    procspawn::init();

    let pool = procpool::Pool::new(2)?;
    let procspawn_pool = procspawn::Pool::new(2)?;

    Contest::new("bytes: GB/s, more is better", ROWS)
        .add("procpool", || {
            let taken = in_rate(|blocks| all(pool.imap_unordered(blocks, take)))?;
            let given = rate(|| all(pool.imap_unordered(fillings(), make)))?;
            Ok([taken, given])
        })
        .add("procspawn", || {
            let taken =
                in_rate(|blocks| procspawned::one_by_one(&procspawn_pool, 2, blocks.into_iter(), take, drop_length))?;
            let given = rate(|| procspawned::one_by_one(&procspawn_pool, 2, fillings(), make, drop))?;
            Ok([taken, given])
        })
        .add("memcpy (limit)", memcpy)
        .add("socketpair (limit)", socketpair)
        .run();
    Ok(())
}

fn take(block: ByteBuf) -> usize {
    black_box(block).len()
}

/// Only the arrival of the result matters, not its value.
fn drop_length(length: usize) {
    black_box(length);
}

fn all<T>(results: impl Iterator<Item = Result<T, TaskError>>) -> anyhow::Result<()> {
    for result in results {
        black_box(result?);
    }
    Ok(())
}

fn make(filling: u8) -> ByteBuf {
    ByteBuf::from(vec![filling; BLOCK_BYTES])
}

fn block_count() -> u8 {
    sized(16, 2)
}

/// Not zero: the allocator would return zero pages that are not backed by memory yet.
fn fillings() -> std::ops::RangeInclusive<u8> {
    1..=block_count()
}

fn in_rate(run: impl FnOnce(Vec<ByteBuf>) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let blocks = fillings().map(make).collect();
    rate(|| run(blocks))
}

/// Gigabytes per second of `run`, which moves every block once.
fn rate(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let began = Instant::now();
    run()?;
    Ok(BLOCK_BYTES as f64 * f64::from(block_count()) / began.elapsed().as_secs_f64() / 1e9)
}

fn memcpy() -> anyhow::Result<Figures<2>> {
    let (from, mut to) = (make(1), make(2));
    let copied = rate(|| {
        for _ in fillings() {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
        }
        Ok(())
    })?;
    Ok([copied, copied])
}

fn socketpair() -> anyhow::Result<Figures<2>> {
    let (mut near, mut far) = UnixStream::pair()?;
    let mut block = make(1);
    let partner = Forked::run(|| {
        let mut block = make(2);
        for _ in fillings() {
            far.read_exact(&mut block).expect("the parent writes");
        }
        for _ in fillings() {
            far.write_all(&block).expect("the parent reads");
        }
    })?;
    let written = rate(|| fillings().try_for_each(|_| Ok(near.write_all(&block)?)))?;
    let read = rate(|| fillings().try_for_each(|_| Ok(near.read_exact(&mut block)?)))?;
    partner.wait()?;
    Ok([written, read])
}
