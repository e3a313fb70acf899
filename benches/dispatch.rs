//! Claim: a task in another process costs no more than a task on another thread.
//!
//! Tasks per second of tasks that return their argument, so that only the dispatch and the return are timed. Items are
//! sent one by one: `imap_unordered` without chunks, two workers. Contestants:
//!
//! - `procpool`;
//! - `rayon`: `ThreadPool::spawn` for each item, results through a channel;
//! - `procspawn`: `Pool::spawn` for each item;
//! - `ring pair`, the limit: a spinning process with one ring of shared memory in each direction, which carries numbers
//!   and nothing else.

mod common {
    pub(crate) mod contest;
    pub(crate) mod fork;
    pub(crate) mod ours;
    pub(crate) mod procspawned;
    pub(crate) mod quick;
    pub(crate) mod rate;
    pub(crate) mod shared;
    pub(crate) mod table;
    pub(crate) mod threads;
}

use std::hint::black_box;
use std::hint::spin_loop;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;
use std::thread::yield_now;

use common::contest::Contest;
use common::fork::Forked;
use common::ours;
use common::procspawned;
use common::rate::Rate;
use common::shared;
use common::shared::LINE_WORDS;
use common::threads;

fn main() -> anyhow::Result<()> {
    procpool::init();
    procspawn::init();

    let pool = procpool::Pool::new(2)?;
    let mut ours = Rate::new(|items| ours::one_by_one(&pool, items));
    let rayon_pool = threads::thread_pool(2)?;
    let mut rayon = Rate::new(|items| {
        threads::one_by_one(&rayon_pool, items);
        Ok(())
    });
    let procspawn_pool = procspawn::Pool::new(2)?;
    let mut procspawn = Rate::new(|items| {
        procspawned::one_by_one(&procspawn_pool, 32, 0..items, identity, |item| {
            black_box(item);
        })
    });
    let rings = Rings::new()?;
    let mut limit = Rate::new(|items| rings.there_and_back(u32::try_from(items)?));

    Contest::new("dispatch: tasks/s, more is better", ["imap_unordered of u64, 2 workers"])
        .add("procpool", || Ok([ours.per_second()?]))
        .add("rayon", || Ok([rayon.per_second()?]))
        .add("procspawn", || Ok([procspawn.per_second()?]))
        .add("ring pair (limit)", || Ok([limit.per_second()?]))
        .run();
    Ok(())
}

fn identity(item: u64) -> u64 {
    black_box(item)
}

/// How many items the parent may be ahead of the worker, so that no ring is ever full.
const SLOTS: u32 = 4096;
/// How many items one store of the cursor publishes.
const BATCH: u32 = 64;
const SPINS: u32 = 10_000;

/// Two rings of shared memory: numbers down, results up. Each slot has its own cache line.
struct Rings {
    sent: &'static AtomicU32,
    answered: &'static AtomicU32,
    there: &'static [AtomicU32],
    back: &'static [AtomicU32],
}

impl Rings {
    fn new() -> anyhow::Result<Self> {
        let (cursors, slots) = shared::lines(2 + 2 * SLOTS as usize)?.split_at(2 * LINE_WORDS);
        let (there, back) = slots.split_at(slots.len() / 2);
        Ok(Self { sent: &cursors[0], answered: &cursors[LINE_WORDS], there, back })
    }

    fn there_and_back(&self, items: u32) -> anyhow::Result<()> {
        self.sent.store(0, Relaxed);
        self.answered.store(0, Relaxed);
        let worker = Forked::run(|| self.work(items))?;
        let (mut sent, mut taken) = (0, 0);
        while taken < items {
            let room = (SLOTS - (sent - taken)).min(items - sent).min(BATCH);
            for index in sent..sent + room {
                put(self.there, index, u64::from(index));
            }
            sent += room;
            self.sent.store(sent, Release);
            let answered = match self.answered.load(Acquire) {
                none if none == taken && room == 0 => next(self.answered, taken),
                answered => answered,
            };
            for index in taken..answered {
                black_box(get(self.back, index));
            }
            taken = answered;
        }
        worker.wait()
    }

    /// The worker's loop.
    fn work(&self, items: u32) {
        let mut answered = 0;
        while answered < items {
            let sent = next(self.sent, answered);
            for index in answered..sent {
                put(self.back, index, identity(get(self.there, index)));
            }
            answered = sent;
            self.answered.store(answered, Release);
        }
    }
}

/// Spins until a cursor is no longer `old`, and yields from time to time in case the other process needs the processor.
fn next(cursor: &AtomicU32, old: u32) -> u32 {
    loop {
        for _ in 0..SPINS {
            match cursor.load(Acquire) {
                same if same == old => spin_loop(),
                new => return new,
            }
        }
        yield_now();
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a number is written as two halves")]
fn put(ring: &[AtomicU32], index: u32, item: u64) {
    let slot = (index % SLOTS) as usize * LINE_WORDS;
    ring[slot].store(item as u32, Relaxed);
    ring[slot + 1].store((item >> 32) as u32, Relaxed);
}

fn get(ring: &[AtomicU32], index: u32) -> u64 {
    let slot = (index % SLOTS) as usize * LINE_WORDS;
    u64::from(ring[slot].load(Relaxed)) | u64::from(ring[slot + 1].load(Relaxed)) << 32
}
