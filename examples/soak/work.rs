//! The task, and what it must answer.

use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

use crate::dice;
use crate::dice::Dice;
use crate::ledger;

/// Bytes that do not fit a frame, and so travel in a file of their own.
const BULK_BYTES: usize = 80_000;
/// One in so many arguments, and one in so many answers, is as large as that.
const BULK_ONCE_IN: u64 = 1000;

/// How long an item takes at most; so many in a row have the same.
const USUAL_MICROS_MAX: [u64; 3] = [8, 25, 90];
const ALIKE: usize = 1000;
/// One in so many takes up to so long instead.
const LONG_ONCE_IN: u64 = 250;
const LONG_MICROS_MAX: u64 = 3000;

/// One item: which, how long it takes, and what it carries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) index: u32,
    micros: u32,
    answer_bytes: u32,
    padding: Vec<u8>,
}

/// What a task answers. Anybody who knows the seed can say what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) index: u32,
    value: u64,
    padding: Vec<u8>,
}

/// What `with` gives to every item of a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Context {
    seed: u64,
    padding: Vec<u8>,
}

impl Item {
    /// Item `index` of the soak with this seed. Neighbours are alike, so that the pool finds out how long they take, and
    /// hands out the shorter ones ahead; but some keep their worker so long that what waits behind them must be recalled.
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
    pub(crate) fn new(seed: u64, is_bulky: bool) -> Self {
        Self { seed, padding: if is_bulky { vec![0x33; BULK_BYTES] } else { Vec::new() } }
    }
}

/// The task. It says that it begins before it does anything, and that it has ended when nothing is left to be done.
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

/// The task as most calls name it.
pub(crate) fn work_alone(item: Item) -> Answer {
    work(&item, ledger::seed())
}

/// The task that takes the seed from its context.
pub(crate) fn work_with(context: &Context, item: Item) -> Answer {
    work(&item, context.seed)
}

/// A task that is no item of the soak, and yet counts for its worker.
pub(crate) fn work_aside(x: u32) -> u32 {
    ledger::note_aside();
    x + 1
}
