//! The task of the soak, and its right answer.

use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

use crate::dice;
use crate::dice::Dice;
use crate::ledger;

/// Too many bytes for a frame, so they are sent in a file.
const BULK_BYTES: usize = 80_000;
/// One in this many arguments, and one in this many answers, is that large.
const BULK_ONCE_IN: u64 = 1000;

/// How long an item takes at most, and how many in a row take the same time.
const USUAL_MICROS_MAX: [u64; 3] = [8, 25, 90];
const ALIKE: usize = 1000;
/// One in this many takes up to this long instead.
const LONG_ONCE_IN: u64 = 250;
const LONG_MICROS_MAX: u64 = 3000;

/// One item: its number, its duration, and its bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) index: u32,
    micros: u32,
    answer_bytes: u32,
    padding: Vec<u8>,
}

/// The answer of a task, which the seed determines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) index: u32,
    value: u64,
    padding: Vec<u8>,
}

/// The context of a call by `with`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Context {
    seed: u64,
    padding: Vec<u8>,
}

impl Item {
    /// Item `index` of the soak with this seed. Neighbours take similar times, so that the pool learns how long they
    /// take and sends short ones ahead; a few take so long that the items behind them must be recalled.
    pub(crate) fn new(index: u32, seed: u64) -> Self {
        let mut dice = Dice::new(seed, u64::from(index));
        let usual = USUAL_MICROS_MAX[index as usize / ALIKE % USUAL_MICROS_MAX.len()];
        let micros = if dice.once_in(LONG_ONCE_IN) { dice.below(LONG_MICROS_MAX) } else { dice.below(usual) };
        let mut bulk = || if dice.once_in(BULK_ONCE_IN) { BULK_BYTES } else { 0 };
        let (answer_bytes, padding) = (bulk(), vec![0x55; bulk()]);
        let small = |number: u64| u32::try_from(number).expect("bounded above");
        Self { index, micros: small(micros), answer_bytes: small(answer_bytes as u64), padding }
    }
}

impl Answer {
    /// The right answer to `item`.
    pub(crate) fn to(item: &Item, seed: u64) -> Self {
        let value = dice::mix(seed ^ u64::from(item.index)) ^ item.padding.len() as u64;
        Self { index: item.index, value, padding: vec![0xaa; item.answer_bytes as usize] }
    }
}

impl Context {
    pub(crate) fn small(seed: u64) -> Self {
        Self { seed, padding: Vec::new() }
    }

    pub(crate) fn bulky(seed: u64) -> Self {
        Self { seed, padding: vec![0x33; BULK_BYTES] }
    }
}

/// The task. It records its beginning before anything else, and its end when nothing is left to do.
fn work(item: &Item, seed: u64) -> Answer {
    ledger::note_started(item.index);
    let end = Instant::now() + Duration::from_micros(u64::from(item.micros));
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    let answer = Answer::to(item, seed);
    ledger::note_finished(item.index);
    answer
}

/// The task of most calls.
pub(crate) fn work_alone(item: Item) -> Answer {
    work(&item, ledger::seed())
}

/// The task that takes the seed from its context.
pub(crate) fn work_with(context: &Context, item: Item) -> Answer {
    work(&item, context.seed)
}

/// A task that is not an item of the soak, but counts for the share of its worker.
pub(crate) fn work_aside(x: u32) -> u32 {
    ledger::note_aside();
    x + 1
}
