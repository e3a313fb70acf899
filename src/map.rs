//! `map`: the caller feeds the job and collects its results, on its own thread, until all are there.

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

/// Runs the job over `items`; the outcome of each by its position.
///
/// # Errors
///
/// The call was refused as a whole; or, with [`Stop::AtError`], the first error.
pub(crate) fn run<A: Data, T: Data>(
    prepared: Prepared,
    items: impl Iterator<Item = A>,
    stop: Stop,
) -> Result<Vec<Result<T, TaskError>>, TaskError> {
    let shared = Arc::clone(&prepared.shared);
    let (job, mut encoder) = prepared.open(true)?;
    let hold = Hold { shared, job, kept: false };
    let mut input = Input::new(items);
    let mut results = Collected { slots: Vec::with_capacity(input.size_hint().0.min(1 << 20)), settled: 0 };
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
            return Ok(results.slots.into_iter().map(|slot| slot.expect("every item is settled")).collect());
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
        .with(|engine| {
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

struct Collected<T> {
    slots: Vec<Option<Result<T, TaskError>>>,
    settled: u64,
}

impl<T: Data> Collected<T> {
    fn take(&mut self, log: &Log, stop: Stop) -> Result<(), TaskError> {
        if let Some(error) = &log.rest {
            // The pool ended under the call.
            return Err(error.clone());
        }
        for (index, outcome) in &log.entries {
            let result = read_outcome(log, outcome);
            if let (Err(error), Stop::AtError) = (&result, stop) {
                return Err(error.clone());
            }
            let slot = usize::try_from(*index).expect("a position in a vector");
            if self.slots.len() <= slot {
                self.slots.resize_with(slot + 1, || None);
            }
            self.slots[slot] = Some(result);
            self.settled += 1;
        }
        Ok(())
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
