//! Claim: a shared slice reaches a worker in a time that does not depend on its length.
//!
//! One slice as the argument of `apply`, of which the worker reads one element; microseconds per call. The worker has let
//! go of the slice by the next call, so it maps the memory each time. And the same from a worker to the parent: the slice
//! is in the worker's memory before the clock starts, and the parent reads one element of each.
//!
//! - `procpool`: `SharedBytes`;
//! - `ByteBuf`: the same bytes as a value, which is copied. Not for the longest;
//! - `map`, a limit: mmap(2) of such a file, one page fault, munmap(2), in this process alone.
//!
//! The parent looks for holes in what a worker made, which takes longer for more pages. It does so once for each mapping.
//!
//! And what a lock costs: nanoseconds to take and release it, alone and while another process does the same. Beside it is
//! the mutex of the standard library, between threads, which no death opens.

mod common {
    pub(crate) mod contest;
    pub(crate) mod mapped;
    pub(crate) mod quick;
    pub(crate) mod table;
}

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use common::contest::Contest;
use common::contest::Figures;
use common::mapped::MemoryFile;
use common::quick::sized;
use procpool::Pool;
use procpool::SharedBytes;
use procpool::sync;
use serde_bytes::ByteBuf;

const ROWS: [&str; 4] = ["to a worker: 64 KiB", "to a worker: 8 MiB", "to a worker: 1 GiB", "from a worker: 1 GiB"];
/// The longest value that is copied.
const COPIED_MAX: usize = 8 << 20;

thread_local! {
    /// What a worker has made.
    static MADE: RefCell<Option<SharedBytes>> = const { RefCell::new(None) };
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(1)?;
    let lengths = [64 << 10, 8 << 20, sized(1 << 30, 1 << 20)];
    let slices = lengths.map(|len| SharedBytes::build(len, |bytes| bytes.fill(7)));
    let slices = slices.into_iter().collect::<Result<Vec<_>, _>>()?;
    pool.apply((lengths[2],), |len| {
        let made = SharedBytes::build(len, |bytes| bytes.fill(7))?;
        MADE.set(Some(made));
        anyhow::Ok(())
    })?;

    Contest::new("shared: µs, less is better", ROWS)
        .add("procpool", || {
            let mut figures = [f64::NAN; 4];
            for (figure, slice) in figures.iter_mut().zip(&slices) {
                *figure = micros(|| Ok(pool.apply((slice.clone(),), |slice: SharedBytes| slice[slice.len() / 2])?))?;
            }
            let mine = || MADE.with_borrow(|made| made.clone().expect("it was made before"));
            figures[3] = micros(|| Ok(black_box(pool.apply((), mine)?)[lengths[2] / 2]))?;
            Ok(figures)
        })
        .add("ByteBuf", || {
            let mut figures = [f64::NAN; 4];
            for (figure, slice) in figures.iter_mut().zip(&slices).filter(|(_, slice)| slice.len() <= COPIED_MAX) {
                let bytes = ByteBuf::from(slice.to_vec());
                *figure = micros(|| {
                    Ok(pool.apply_async((bytes.clone(),), |bytes: ByteBuf| bytes[bytes.len() / 2]).get()?)
                })?;
            }
            Ok(figures)
        })
        .add("map (limit)", || {
            let mut figures: Figures<4> = [f64::NAN; 4];
            for (figure, len) in figures.iter_mut().zip(lengths) {
                let file = MemoryFile::new(len)?;
                *figure = micros(|| file.read_middle())?;
            }
            figures[3] = figures[2];
            Ok(figures)
        })
        .run();
    locks(&pool);
    Ok(())
}

/// How often a lock is taken for one figure.
const TIMES: u32 = 100_000;

fn locks(pool: &Pool) {
    let rows = ["Lock, alone", "Mutex<u64>, alone", "Lock, two at once"];
    Contest::new("locks: ns, less is better", rows)
        .add("procpool", || {
            let (lock, value) = (sync::Lock::new()?, sync::Mutex::new(0u64)?);
            let mut figures = [0.0; 3];
            figures[0] = nanos(1, || take(&lock))?;
            figures[1] = nanos(1, || {
                *value.lock()? += 1;
                Ok(())
            })?;
            let other = pool.apply_async((lock.clone(),), |lock: sync::Lock| nanos(2, || take(&lock)));
            figures[2] = nanos(2, || take(&lock))?.max(other.get()?);
            Ok(figures)
        })
        .add("std, threads", || {
            let value = Mutex::new(0u64);
            let add = || -> anyhow::Result<()> {
                *value.lock().expect("no thread panics") += 1;
                Ok(())
            };
            let alone = nanos(1, add)?;
            let two = std::thread::scope(|scope| {
                let other = scope.spawn(|| nanos(2, add));
                Ok::<_, anyhow::Error>(nanos(2, add)?.max(other.join().expect("no thread panics")?))
            })?;
            Ok([alone, alone, two])
        })
        .run();
}

fn take(lock: &sync::Lock) -> anyhow::Result<()> {
    drop(lock.lock()?);
    Ok(())
}

/// How long one turn takes, if `sides` of them are made at once.
fn nanos(sides: u32, mut turn: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let times = sized(TIMES, 100);
    let began = Instant::now();
    for _ in 0..times {
        turn()?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(times * sides))
}

/// How long one call takes.
fn micros(mut call: impl FnMut() -> anyhow::Result<u8>) -> anyhow::Result<f64> {
    for _ in 0..sized(5, 1) {
        call()?;
    }
    let calls = sized(50, 2);
    let began = Instant::now();
    for _ in 0..calls {
        assert_eq!(call()?, 7);
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
}
