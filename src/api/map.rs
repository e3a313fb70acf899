//! `map`: the calling thread feeds the job and collects its results, until it has all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::encoder::Encoder;
use crate::api::input::Input;
use crate::api::input::Source;
use crate::api::prepare::Prepared;
use crate::api::results::read_outcomes;
use crate::driver::Backend;
use crate::driver::IfClosed;
use crate::driver::Leftover;
use crate::driver::More;
use crate::error::Label;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::values::blob::INLINE_MAX;
use crate::work::batch::JobId;
use crate::work::jobs::Log;
use crate::work::task::Data;

/// Maximum items encoded and not settled yet: enough to keep any number of workers busy while results are decoded.
const AHEAD_ITEMS: u64 = 64 * 1024;
/// Approximate maximum of their bytes.
const AHEAD_BYTES: u64 = 16 * 1024 * 1024;
/// Maximum items encoded and not settled yet, if they are too large for a frame: each holds a descriptor.
const AHEAD_BLOBS: u64 = 64;
/// Maximum items that are drawn before results are taken.
const FEED_ITEMS: u64 = 4096;

/// What ends a `map` before every item is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nothing.
    Never,
    /// The first error.
    AtError,
}

/// Abandons the job when it is dropped, also by an unwinding caller.
struct Hold {
    backend: Arc<dyn Backend>,
    job: JobId,
    kept: bool,
}

impl Hold {
    fn new(backend: Arc<dyn Backend>, job: JobId) -> Self {
        Self { backend, job, kept: false }
    }

    /// Keeps the job: the caller abandons it.
    fn keep(mut self) -> JobId {
        self.kept = true;
        self.job
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.kept {
            self.backend.abandon(self.job, Leftover::Skip);
        }
    }
}

/// Runs the job over `items`; returns all values, in order.
///
/// # Errors
///
/// The call was refused as a whole; the error of the lowest position; or, with [`Stop::AtError`], the first error.
pub(super) fn values<A: Data, T: Data>(
    prepared: Prepared,
    items: impl Iterator<Item = A>,
    stop: Stop,
) -> Result<Vec<T>, TaskError> {
    let mut lowest: Option<(usize, TaskError)> = None;
    let values = run(prepared, items, |position, outcome| match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if stop == Stop::AtError => Err(error),
        Err(error) => {
            if lowest.as_ref().is_none_or(|(lowest, _)| position < *lowest) {
                lowest = Some((position, error));
            }
            Ok(None)
        }
    })?;
    lowest.map_or(Ok(values), |(_, error)| Err(error))
}

/// Runs the job over `items`; returns the outcome of each, in order.
///
/// # Errors
///
/// The call was refused as a whole.
pub(super) fn results<A: Data, T: Data>(
    prepared: Prepared,
    items: impl Iterator<Item = A>,
) -> Result<Vec<Result<T, TaskError>>, TaskError> {
    run(prepared, items, |_, outcome| Ok(Some(outcome)))
}

/// Runs the job over `items`; returns what `keep` makes of each outcome, in order, up to the first for which it returns
/// `None`.
fn run<A: Data, T: Data, V>(
    prepared: Prepared,
    items: impl Iterator<Item = A>,
    mut keep: impl FnMut(usize, Result<T, TaskError>) -> Result<Option<V>, TaskError>,
) -> Result<Vec<V>, TaskError> {
    let (backend, label) = (Arc::clone(&prepared.backend), prepared.label.clone());
    let ahead_set = prepared.window.unwrap_or(u64::MAX);
    let (job, mut encoder) = prepared.open(IfClosed::Serve)?;
    let hold = Hold::new(backend, job);
    let mut input = Input::new(items);
    let expected = input.size_hint().0.min(1 << 20);
    let mut places = Places { front: Vec::with_capacity(expected), apart: BTreeMap::new() };
    let mut settled = 0;
    loop {
        let ahead = encoder.pushed() - settled;
        let log = match !input.is_over() && ahead < ahead_max(&encoder).min(ahead_set) {
            true => feed(&hold, &mut encoder, &mut input, ahead_set - ahead)?,
            false => {
                let log = hold.backend.take(job, None)?;
                Some(log.expect("without a deadline there is a result"))
            }
        };
        if let Some(log) = log {
            settled += take(&mut places, &log, &label, &mut keep)?;
        }
        if input.is_over() && settled == encoder.pushed() {
            return Ok(places.front);
        }
    }
}

/// How many items may be encoded and not settled, by the size of the items so far and what they carry.
fn ahead_max(encoder: &Encoder) -> u64 {
    let item_bytes = encoder.bytes_per_item().max(1);
    let ahead_max = match usize::try_from(item_bytes) {
        Ok(0..=INLINE_MAX) => (AHEAD_BYTES / item_bytes).min(AHEAD_ITEMS),
        _ => AHEAD_BLOBS,
    };
    ahead_max.min(encoder.ahead_max())
}

/// Draws and submits some items, `room` at most; returns what has arrived.
fn feed<I: Iterator<Item: Data>>(
    hold: &Hold,
    encoder: &mut Encoder,
    input: &mut Input<I>,
    room: u64,
) -> Result<Option<Log>, TaskError> {
    let before = encoder.pushed();
    encoder.draw(input, |encoder| encoder.pushed() - before < FEED_ITEMS.min(room));
    let more = if input.is_over() { More::Never } else { More::Follows };
    let exchange = hold.backend.exchange(hold.job, encoder.take(), more)?;
    if exchange.refusal.is_some() {
        // The pool has ended, and the job with it: its log says what became of every item.
        input.give_up();
    }
    Ok(exchange.arrived)
}

/// Values that arrive in any order, put together by position: those before the first gap, and runs behind it.
#[derive(Debug)]
struct Places<V> {
    front: Vec<V>,
    /// Runs behind the first gap, by the position of their first value.
    apart: BTreeMap<usize, Vec<V>>,
}

impl<V> Places<V> {
    /// Takes out the run that ends right before `position`, or an empty one, with the position at which it begins.
    fn take(&mut self, position: usize) -> (usize, Vec<V>) {
        if position == self.front.len() {
            return (0, std::mem::take(&mut self.front));
        }
        match self.apart.range_mut(..position).next_back() {
            Some((&start, run)) if start + run.len() == position => (start, std::mem::take(run)),
            _ => (position, Vec::new()),
        }
    }

    /// Puts a run back where it begins. One that begins at 0 is the front, to which the runs that now follow it are
    /// appended.
    fn put(&mut self, start: usize, run: Vec<V>) {
        if start > 0 {
            if !run.is_empty() {
                self.apart.insert(start, run);
            }
            return;
        }
        self.front = run;
        while let Some(mut run) = self.apart.remove(&self.front.len()) {
            self.front.append(&mut run);
        }
    }
}

/// Decodes the outcomes that have arrived and puts them in their places; returns how many there were.
fn take<T: Data, V>(
    places: &mut Places<V>,
    log: &Log,
    label: &Label,
    keep: &mut impl FnMut(usize, Result<T, TaskError>) -> Result<Option<V>, TaskError>,
) -> Result<u64, TaskError> {
    if let Some(error) = &log.rest {
        // The pool ended during the call.
        return Err(TaskError::clone(error));
    }
    let mut taken = 0;
    for (index, outcomes) in log.outcomes() {
        let first = usize::try_from(index).expect("a position in a vector");
        let mut position = first;
        let (mut start, mut run) = places.take(first);
        read_outcomes(
            outcomes,
            |before| label.item(index + before),
            |outcome| {
                match keep(position, outcome)? {
                    Some(value) => run.push(value),
                    None => {
                        // A gap that is never filled: what follows it stays apart.
                        places.put(start, std::mem::take(&mut run));
                        (start, run) = (position + 1, Vec::new());
                    }
                }
                position += 1;
                Ok::<(), TaskError>(())
            },
        )?;
        places.put(start, run);
        taken += (position - first) as u64;
    }
    Ok(taken)
}

/// Encodes all of `items` and submits them, without waiting for outcomes. The caller abandons the job.
///
/// # Errors
///
/// The call was refused as a whole.
pub(super) fn submit_all<I: Iterator<Item: Data>>(prepared: Prepared, items: I) -> Result<JobId, TaskError> {
    let backend = Arc::clone(&prepared.backend);
    let (job, mut encoder) = prepared.open(IfClosed::Serve)?;
    let hold = Hold::new(backend, job);
    let mut input = Input::new(items);
    while !input.is_over() {
        encoder.draw(&mut input, |_| true);
        let more = if input.is_over() { More::Never } else { More::Follows };
        match hold.backend.submit(job, encoder.take(), more) {
            Ok(()) => {}
            // The input forked this process, and this is the child.
            Err(error @ PoolError::ForkedCopy) => return Err(error.into()),
            // The pool has ended, and the job with it: its log says what became of every item.
            Err(_) => input.give_up(),
        }
    }
    Ok(hold.keep())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(places: &mut Places<u64>, positions: std::ops::Range<usize>) {
        let (start, mut run) = places.take(positions.start);
        run.extend(positions.map(|position| position as u64));
        places.put(start, run);
    }

    #[test]
    fn runs_come_together_in_any_order() {
        let runs = [0..3, 3..4, 4..9, 9..11];
        for first in 0..4 {
            for step in [1, 3] {
                let mut places = Places { front: Vec::new(), apart: BTreeMap::new() };
                (0..4).for_each(|turn| put(&mut places, runs[(first + turn * step) % 4].clone()));
                assert_eq!(places.front, (0..11).collect::<Vec<u64>>());
                assert!(places.apart.is_empty());
            }
        }
    }

    #[test]
    fn what_follows_a_gap_stays_apart() {
        let mut places = Places { front: Vec::new(), apart: BTreeMap::new() };
        put(&mut places, 1..3);
        put(&mut places, 3..5);
        put(&mut places, 0..0);
        assert_eq!((places.front.len(), places.apart.len()), (0, 1));
        put(&mut places, 0..1);
        assert_eq!((places.front.len(), places.apart.len()), (5, 0));
    }
}
