//! `map`: the caller feeds the job and collects its results, on its own thread, until all are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::JobId;
use crate::blob::INLINE_MAX;
use crate::driver::Shared;
use crate::error::TaskError;
use crate::imap::take_arrived;
use crate::jobs::Log;
use crate::results::read_outcome;
use crate::submit::Drawn;
use crate::submit::Encoder;
use crate::submit::Input;
use crate::submit::Prepared;
use crate::task::Data;

/// Items encoded and not settled yet, at most: enough to keep any number of workers busy while results are decoded.
const AHEAD_ITEMS: u64 = 64 * 1024;
/// Their bytes, about.
const AHEAD_BYTES: u64 = 16 * 1024 * 1024;
/// Items that are too large for a frame, each of which holds a descriptor, encoded and not settled yet, at most.
const AHEAD_BLOBS: u64 = 64;
/// Items that are drawn before the first result is looked for.
const FEED_ITEMS: u64 = 4096;

/// What stops a `map` before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nothing: every item is settled.
    Never,
    /// The first error.
    AtError,
}

/// Gives the job back, whatever happens.
struct Hold {
    shared: Arc<Shared>,
    job: JobId,
    kept: bool,
}

impl Hold {
    /// Somebody else will give the job back.
    fn keep(mut self) -> JobId {
        self.kept = true;
        self.job
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.kept {
            // In a forked copy there is nothing to give back.
            drop(self.shared.with(|engine| engine.abandon(self.job, true)));
        }
    }
}

/// Runs the job over `items`; all values, in order.
///
/// # Errors
///
/// The call was refused as a whole; the error of the lowest position; or, with [`Stop::AtError`], the first error.
pub(crate) fn values<A: Data, T: Data>(
    prepared: Prepared,
    items: impl Iterator<Item = A>,
    stop: Stop,
) -> Result<Vec<T>, TaskError> {
    run(prepared, items, stop)?.values()
}

/// Runs the job over `items`; the outcome of each, in order.
///
/// # Errors
///
/// The call was refused as a whole.
pub(crate) fn results<A: Data, T: Data>(
    prepared: Prepared,
    items: impl Iterator<Item = A>,
) -> Result<Vec<Result<T, TaskError>>, TaskError> {
    Ok(run(prepared, items, Stop::Never)?.results())
}

fn run<A: Data, T: Data>(
    prepared: Prepared,
    items: impl Iterator<Item = A>,
    stop: Stop,
) -> Result<Collected<T>, TaskError> {
    let shared = Arc::clone(&prepared.shared);
    let (job, mut encoder) = prepared.open(true)?;
    let hold = Hold { shared, job, kept: false };
    let mut input = Input::new(items);
    let expected = input.size_hint().0.min(1 << 20);
    let mut results = Collected { values: Vec::with_capacity(expected), errors: Vec::new(), settled: 0 };
    loop {
        let log = match !input.is_over() && encoder.pushed() - results.settled < ahead_max(&encoder) {
            true => feed(&hold, &mut encoder, &mut input)?,
            false => {
                let log = hold.shared.wait(Some(job), None, |engine| take_arrived(engine, job))?;
                Some(log.expect("without a deadline there is a result"))
            }
        };
        if let Some(log) = log {
            results.take(&log, stop)?;
        }
        if input.is_over() && results.settled == encoder.pushed() {
            return Ok(results);
        }
    }
}

/// How many items may be ahead, by what the items so far were like.
fn ahead_max(encoder: &Encoder) -> u64 {
    let item_bytes = encoder.bytes_per_item().max(1);
    match usize::try_from(item_bytes) {
        Ok(0..=INLINE_MAX) => (AHEAD_BYTES / item_bytes).min(AHEAD_ITEMS),
        _ => AHEAD_BLOBS,
    }
}

/// Draws and submits some items; returns what has arrived meanwhile.
fn feed<I: Iterator<Item: Data>>(
    hold: &Hold,
    encoder: &mut Encoder,
    input: &mut Input<I>,
) -> Result<Option<Log>, TaskError> {
    let before = encoder.pushed();
    while !encoder.is_due() && encoder.pushed() - before < FEED_ITEMS && !input.is_over() {
        match input.draw() {
            Drawn::Item(item) => encoder.push(&item),
            Drawn::End => {}
            Drawn::Panicked(error) => encoder.push_error(error),
        }
    }
    let work = encoder.take();
    hold.shared
        .feed(|engine| {
            for work in work {
                if engine.submit(hold.job, work).is_err() {
                    // The pool has ended, and the job with it: its log tells what became of every item.
                    input.give_up();
                    break;
                }
            }
            if input.is_over() {
                engine.seal(hold.job);
            }
            take_arrived(engine, hold.job)
        })
        .map_err(TaskError::from)
}

/// Results by position, as they come.
struct Collected<T> {
    values: Vec<Option<T>>,
    errors: Vec<(usize, TaskError)>,
    settled: u64,
}

impl<T: Data> Collected<T> {
    fn take(&mut self, log: &Log, stop: Stop) -> Result<(), TaskError> {
        if let Some(error) = &log.rest {
            // The pool ended under the call.
            return Err(error.clone());
        }
        log.try_each(|index, outcome| {
            let slot = usize::try_from(index).expect("a position in a vector");
            if self.values.len() <= slot {
                self.values.resize_with(slot + 1, || None);
            }
            match read_outcome(outcome) {
                Ok(value) => self.values[slot] = Some(value),
                Err(error) if stop == Stop::AtError => return Err(error),
                Err(error) => self.errors.push((slot, error)),
            }
            self.settled += 1;
            Ok(())
        })
    }

    /// All values, or the error of the lowest position.
    fn values(self) -> Result<Vec<T>, TaskError> {
        match self.errors.into_iter().min_by_key(|(slot, _)| *slot) {
            Some((_, error)) => Err(error),
            None => Ok(self.values.into_iter().map(|value| value.expect("every item is settled")).collect()),
        }
    }

    /// A value or an error for every position.
    fn results(self) -> Vec<Result<T, TaskError>> {
        let mut errors: BTreeMap<usize, TaskError> = self.errors.into_iter().collect();
        let result = |(slot, value)| match value {
            Some(value) => Ok(value),
            None => Err(errors.remove(&slot).expect("every item is settled")),
        };
        self.values.into_iter().enumerate().map(result).collect()
    }
}

/// Encodes all of `items` and submits them, without waiting for any.
///
/// # Errors
///
/// The call was refused as a whole.
pub(crate) fn submit_all<I: Iterator<Item: Data>>(prepared: Prepared, items: I) -> Result<JobId, TaskError> {
    let shared = Arc::clone(&prepared.shared);
    let (job, mut encoder) = prepared.open(true)?;
    let hold = Hold { shared, job, kept: false };
    let mut input = Input::new(items);
    while !input.is_over() {
        while !encoder.is_due() && !input.is_over() {
            match input.draw() {
                Drawn::Item(item) => encoder.push(&item),
                Drawn::End => {}
                Drawn::Panicked(error) => encoder.push_error(error),
            }
        }
        let work = encoder.take();
        hold.shared.with(|engine| {
            for work in work {
                if engine.submit(job, work).is_err() {
                    // The pool has ended, and the job with it: its log tells what became of every item.
                    input.give_up();
                    break;
                }
            }
            if input.is_over() {
                engine.seal(job);
            }
        })?;
    }
    Ok(hold.keep())
}
