//! Callers: threads that call the pool in every way that returns an outcome for each item.
//!
//! `map_async` is not among them: for a job with a death it returns one error, and nothing about the other items.
//!
//! A thread that waits for a result drives the pool, so there are two modes. In a *crowd* at least one thread always
//! waits, the seat passes between threads, and answers are read at once. A caller *alone* pauses now and then, so
//! that no thread drives for a moment: workers are then killed with answers that have not been read and orders that
//! they have not read.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use anyhow::bail;
use procpool::AsyncResult;
use procpool::Pool;
use procpool::TaskError;
use procpool::TimedOut;

use crate::dice::Dice;
use crate::tally::Tally;
use crate::work::Answer;
use crate::work::Context;
use crate::work::Item;
use crate::work::work_alone;
use crate::work::work_with;

/// How many threads call at the same time.
const CROWD: u64 = 3;
/// After this many items the mode is chosen again.
const STRETCH_ITEMS: u32 = 2000;
/// Maximum items of one job.
const JOB_ITEMS_MAX: u64 = 400;
/// How long a caller waits for the next result of an `imap` before it does something else.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// A caller that is alone pauses once in this many results, for at most this long.
const DAWDLE_ONCE_IN: u64 = 8;
const DAWDLE_MICROS_MAX: u64 = 500;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ImapUnordered,
    Imap,
    Map,
    With,
    ApplyAsync,
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] = [Kind::ImapUnordered, Kind::Imap, Kind::Map, Kind::With, Kind::ApplyAsync];
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "imap_unordered" => Kind::ImapUnordered,
            "imap" => Kind::Imap,
            "map" => Kind::Map,
            "with" => Kind::With,
            "apply_async" => Kind::ApplyAsync,
            name => bail!("no kind of call is named {name:?}"),
        })
    }
}

/// Calls the pool until all items below `end` have been submitted; `next` is the first that has not been.
pub(crate) fn call_until(pool: &Pool, tally: &Arc<Tally>, mix: &[Kind], next: &AtomicU32, end: u32) {
    while next.load(SeqCst) < end {
        let first = next.load(SeqCst);
        let stretch_end = end.min(first.saturating_add(STRETCH_ITEMS));
        let mut dice = Dice::new(tally.seed, (1 << 40) + u64::from(first));
        let callers = dice.pick(&[1, CROWD]);
        thread::scope(|scope| {
            for _ in 0..callers {
                let dice = Dice::new(dice.next(), 0);
                let mut caller = Caller { pool, tally, mix, dice, is_alone: callers == 1 };
                scope.spawn(move || caller.call_until(next, stretch_end));
            }
        });
    }
}

/// Items that are submitted together.
#[derive(Clone, Copy, Debug)]
struct Batch {
    first_index: u32,
    count: u32,
}

impl Batch {
    fn indices(self) -> std::ops::Range<u32> {
        self.first_index..self.first_index + self.count
    }

    fn items(self, seed: u64) -> impl Iterator<Item = Item> {
        self.indices().map(move |index| Item::new(index, seed))
    }
}

/// One calling thread.
struct Caller<'a> {
    pool: &'a Pool,
    tally: &'a Arc<Tally>,
    mix: &'a [Kind],
    dice: Dice,
    is_alone: bool,
}

impl Caller<'_> {
    fn call_until(&mut self, next: &AtomicU32, end: u32) {
        while let Some(batch) = self.take(next, end) {
            let kind = self.dice.pick(self.mix);
            if catch_unwind(AssertUnwindSafe(|| self.call(kind, batch))).is_err() {
                self.tally.count_panic(|| format!("a call has panicked: {kind:?} with {batch:?}"));
            }
        }
    }

    fn take(&mut self, next: &AtomicU32, end: u32) -> Option<Batch> {
        let wanted = u32::try_from(1 + self.dice.below(JOB_ITEMS_MAX)).expect("bounded above");
        let after = |first: u32| (first < end).then(|| end.min(first.saturating_add(wanted)));
        let first_index = next.fetch_update(SeqCst, SeqCst, after).ok()?;
        Some(Batch { first_index, count: wanted.min(end - first_index) })
    }

    fn call(&mut self, kind: Kind, batch: Batch) {
        let (pool, tally, seed) = (self.pool, self.tally, self.tally.seed);
        let items = batch.items(seed);
        let chunk_size = 1 + usize::try_from(self.dice.below(12)).expect("bounded above");
        let is_chunked = self.dice.once_in(2);
        match kind {
            Kind::ImapUnordered if is_chunked => {
                let results = pool.chunk_size(chunk_size).imap_unordered(items, work_alone);
                tally.settle_unordered(batch.indices(), results.inspect(|_| self.dawdle()));
            }
            Kind::ImapUnordered => {
                let results = pool.imap_unordered(items, work_alone);
                tally.settle_unordered(batch.indices(), results.inspect(|_| self.dawdle()));
            }
            Kind::Imap => {
                let mut results = pool.chunk_size(chunk_size).imap(items, work_alone);
                let mut indices = batch.indices();
                loop {
                    match results.next_timeout(WAIT_MAX) {
                        // An extra result counts as a second one for the last item.
                        Ok(Some(result)) => tally.settle(indices.next().unwrap_or(indices.end - 1), result),
                        Ok(None) => break,
                        Err(TimedOut) => continue,
                    }
                    self.dawdle();
                }
            }
            Kind::Map if is_chunked => {
                self.settle_all(batch, pool.chunk_size(chunk_size).map_results(items, work_alone));
            }
            Kind::Map => self.settle_all(batch, pool.map_results(items, work_alone)),
            Kind::With => {
                batch.indices().for_each(|index| tally.expect_context(index));
                let context = if self.dice.once_in(4) { Context::bulky(seed) } else { Context::small(seed) };
                self.settle_all(batch, pool.with(&context).map_results(items, work_with));
            }
            Kind::ApplyAsync => {
                let handles: Vec<_> = items.map(|item| self.apply(item)).collect();
                for (index, handle) in batch.indices().zip(handles) {
                    self.dawdle();
                    tally.settle(index, handle.get());
                }
            }
        }
    }

    fn apply(&self, item: Item) -> AsyncResult<Answer> {
        let index = item.index;
        self.tally.expect_callback(index);
        let (values, errors) = (Arc::clone(self.tally), Arc::clone(self.tally));
        self.pool
            .apply_async((item,), work_alone)
            .on_success(move |_| values.value_callback(index))
            .on_error(move |_| errors.error_callback(index))
    }

    fn settle_all(&self, batch: Batch, results: Result<Vec<Result<Answer, TaskError>>, TaskError>) {
        match results {
            Ok(results) => {
                let places = batch.indices().chain(std::iter::repeat(batch.first_index));
                places.zip(results).for_each(|(index, result)| self.tally.settle(index, result));
            }
            // The rest of the job has no outcome, and counts as lost.
            Err(error) => self.tally.settle(batch.first_index, Err(error)),
        }
    }

    fn dawdle(&mut self) {
        if self.is_alone && self.dice.once_in(DAWDLE_ONCE_IN) {
            thread::sleep(Duration::from_micros(self.dice.below(DAWDLE_MICROS_MAX)));
        }
    }
}
