//! A barrier: so many parties wait for each other, again and again.
//!
//! ```text
//!     0  parties u64
//!     8  state u64      63   48 47  10  9       8     0
//!                       epoch   round   broken  arrived
//!    16  final u64      the last state of the epoch before
//!    24  reason u64     why it is broken
//!    32  slots          of the threads that wait; see `slots`. The order is epoch and round
//! ```
//!
//! One store of `state` is an arrival, the end of a round, a break, or a reset. The last party that arrives ends the round:
//! the round counts up, and nobody has arrived. A reset ends the epoch, in the midst of a round perhaps. So a thread that
//! has arrived in a round compares: the same round, it waits; a later one of its epoch, it has passed; another epoch, it
//! has passed if its round ended before the last one of the epoch did.
//!
//! A thread that has passed keeps its slot until it has seen that. So those of the next round know whether there are some,
//! which may sleep still.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use super::error::LockError;
use super::holders;
use super::lease::Lease;
use super::object::Object;
use super::object::Words;
use super::slots::SLOTS_MAX;
use super::slots::Slot;
use super::slots::Slots;
use super::waiting;
use super::waiting::Turn;
use crate::ipc::deadline::Wait;
use crate::ipc::segment::Kind;
use crate::sys::failpoint;

/// How long a party whose time is up waits for the latch.
const GIVE_UP_MAX: Duration = Duration::from_millis(200);

const PARTIES: usize = 0;
const STATE: usize = 8;
const FINAL: usize = 16;
const REASON: usize = 24;
const SLOTS: usize = 32;
/// Those of one round, and as many of the one before, have slots.
const PARTIES_MAX: usize = SLOTS_MAX / 2;

const ARRIVED_BITS: u32 = 9;
const ROUND_SHIFT: u32 = ARRIVED_BITS + 1;
const EPOCH_SHIFT: u32 = 48;
const ROUND_MASK: u64 = (1 << (EPOCH_SHIFT - ROUND_SHIFT)) - 1;

/// A barrier between processes: [`wait`](Self::wait) returns when all parties have called it.
///
/// If a party dies while it waits, or its time is up, the barrier is broken: every wait is an error, also of those that
/// come later, until a thread calls [`reset`](Self::reset). (A process that dies before it calls `wait` is not known to the
/// barrier; where that may happen, use [`wait_timeout`](Self::wait_timeout).) It travels anywhere inside a value, as a
/// [`Lock`](crate::sync::Lock) does.
///
/// Parties are threads that wait at the same time: tasks that wait for each other need as many workers.
///
/// `multiprocessing.Barrier` of Python. Its `action` is what the party with the index 0 does.
///
/// # Examples
///
/// ```
/// use procpool::Pool;
/// use procpool::sync::Barrier;
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     let barrier = Barrier::new(2)?;
///     let wait = |barrier: &Barrier, _: u32| -> anyhow::Result<usize> { Ok(barrier.wait()?) };
///     let mut indices = pool.with(&barrier).chunk_size(1).map(0..2u32, wait)?;
///     indices.sort_unstable();
///     assert_eq!(indices, [0, 1]);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Barrier {
    object: Arc<Object>,
}

/// Why a [`Barrier`] did not let a party pass.
///
/// # Examples
///
/// ```
/// use procpool::sync::{Barrier, BarrierError};
///
/// let barrier = Barrier::new(2)?;
/// barrier.abort()?;
/// assert_eq!(barrier.wait(), Err(BarrierError::Aborted));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BarrierError {
    /// A party died while it waited.
    PartyDied {
        /// Its process.
        pid: u32,
    },
    /// The time of a party, this one or another, was up.
    TimedOut,
    /// A thread has called [`Barrier::abort`] or [`Barrier::reset`].
    Aborted,
    /// It cannot be used: a process has written nonsense into it, or this is a forked copy of the process that has it.
    #[non_exhaustive]
    Broken {
        /// What is wrong.
        message: String,
    },
}

impl fmt::Display for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BarrierError::PartyDied { pid } => write!(f, "process {pid} died while it waited at the barrier"),
            BarrierError::TimedOut => f.write_str("not all parties came to the barrier in time"),
            BarrierError::Aborted => f.write_str("the barrier was aborted or reset"),
            BarrierError::Broken { message } => write!(f, "the barrier is broken: {message}"),
        }
    }
}

impl Error for BarrierError {}

impl From<LockError> for BarrierError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Broken { message } => BarrierError::Broken { message },
            other => BarrierError::Broken { message: other.to_string() },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    epoch: u64,
    round: u64,
    is_broken: bool,
    arrived: u64,
}

impl State {
    fn of(word: u64) -> Self {
        Self {
            epoch: word >> EPOCH_SHIFT,
            round: word >> ROUND_SHIFT & ROUND_MASK,
            is_broken: word >> ARRIVED_BITS & 1 == 1,
            arrived: word & ((1 << ARRIVED_BITS) - 1),
        }
    }

    fn word(self) -> u64 {
        self.epoch << EPOCH_SHIFT
            | (self.round & ROUND_MASK) << ROUND_SHIFT
            | u64::from(self.is_broken) << ARRIVED_BITS
            | self.arrived
    }

    /// Epoch and round.
    fn order(self) -> u64 {
        self.word() >> ROUND_SHIFT
    }

    fn next_round(self) -> Self {
        Self { round: (self.round + 1) & ROUND_MASK, arrived: 0, ..self }
    }

    fn next_epoch(self) -> Self {
        Self { epoch: (self.epoch + 1) & 0xffff, round: 0, is_broken: false, arrived: 0 }
    }
}

/// What has become of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Waiting,
    Passed,
    Stopped,
}

/// Of an arrival at `mine`, if the state is `now` and the last one of the epoch before was `last`. Pure.
fn outcome(mine: State, now: State, last: State) -> Outcome {
    match (now.epoch == mine.epoch, now.round == mine.round) {
        (true, true) if now.is_broken => Outcome::Stopped,
        (true, true) => Outcome::Waiting,
        (true, false) => Outcome::Passed,
        (false, _) if last.epoch == mine.epoch && last.round != mine.round => Outcome::Passed,
        (false, _) => Outcome::Stopped,
    }
}

#[derive(Clone, Copy, Debug)]
enum Reason {
    Aborted,
    TimedOut,
    Died(u32),
}

impl Reason {
    fn word(self) -> u64 {
        match self {
            Reason::Aborted => 0,
            Reason::TimedOut => 1,
            Reason::Died(pid) => 2 | u64::from(pid) << 2,
        }
    }

    fn error(word: u64) -> BarrierError {
        match word & 3 {
            1 => BarrierError::TimedOut,
            2 => BarrierError::PartyDied { pid: u32::try_from(word >> 2).unwrap_or(0) },
            _ => BarrierError::Aborted,
        }
    }
}

#[derive(Clone, Copy)]
struct Memory<'a>(Words<'a>);

impl<'a> Memory<'a> {
    // All accesses are under the latch, which orders them: Relaxed.
    fn load(self, offset: usize) -> u64 {
        self.0.word(offset).load(Ordering::Relaxed)
    }

    fn state(self) -> State {
        State::of(self.load(STATE))
    }

    /// The store that publishes.
    fn publish(self, state: State) {
        self.0.word(STATE).store(state.word(), Ordering::Relaxed);
    }

    fn slots(self) -> Slots<'a> {
        Slots::new(self.0, SLOTS)
    }

    fn parties(self) -> u64 {
        self.load(PARTIES).clamp(1, PARTIES_MAX as u64)
    }

    fn break_for(self, reason: Reason) {
        self.0.word(REASON).store(reason.word(), Ordering::Relaxed);
        failpoint::pass("barrier_reason");
        self.0.wake();
        self.publish(State { is_broken: true, ..self.state() });
    }

    fn outcome(self, mine: State) -> Outcome {
        outcome(mine, self.state(), State::of(self.load(FINAL)))
    }

    /// The error of an arrival at `mine` that was stopped.
    fn error(self, mine: State) -> BarrierError {
        let now = self.state();
        if now.epoch == mine.epoch { Reason::error(self.load(REASON)) } else { BarrierError::Aborted }
    }

    /// What the thread at `slot` waits for.
    fn turn<T>(self, slot: &Slot<'_>) -> Turn<T> {
        let slots = self.slots();
        let leases: Vec<_> = slots.leases().filter(|(index, _)| *index != slot.index).collect();
        let round = self.state().order();
        let have_passed = leases.iter().any(|(index, _)| slots.order(*index) != round);
        if have_passed { Turn::Others(leases) } else { Turn::Busy(leases) }
    }

    /// Frees the slot of a dead thread, and breaks the barrier if it was waiting.
    fn evict(self, index: usize, lease: Lease) {
        let slots = self.slots();
        if slots.place(index).read() != lease {
            return;
        }
        if slots.order(index) == self.state().order() && !self.state().is_broken {
            self.break_for(Reason::Died(lease.holder.pid()));
        }
        slots.free(index);
    }
}

impl Barrier {
    /// A new barrier for so many parties.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`: no party, or more than 80.
    /// - Otherwise: no descriptor is left, or not enough memory.
    ///
    /// # Examples
    ///
    /// ```
    /// let barrier = procpool::sync::Barrier::new(1)?;
    /// assert_eq!((barrier.wait()?, barrier.wait()?), (0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(parties: usize) -> io::Result<Self> {
        if !(1..=PARTIES_MAX).contains(&parties) {
            let text = format!("a barrier has 1 to {PARTIES_MAX} parties, not {parties}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let object = Object::create(Kind::Barrier, 0, 0)?;
        if let Ok(words) = object.words() {
            words.word(PARTIES).store(parties as u64, Ordering::Relaxed);
        }
        Ok(Self { object })
    }

    /// Waits until all parties have called this. Returns the index of this party among them, in the order in which they came.
    ///
    /// # Errors
    ///
    /// See [`BarrierError`].
    ///
    /// # Examples
    ///
    /// See [`Barrier`].
    pub fn wait(&self) -> Result<usize, BarrierError> {
        self.wait_within(Wait::Forever)
    }

    /// As [`wait`](Self::wait), but not longer than `timeout`. A party whose time is up breaks the barrier.
    ///
    /// # Errors
    ///
    /// See [`BarrierError`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use procpool::sync::{Barrier, BarrierError};
    ///
    /// let barrier = Barrier::new(2)?;
    /// assert_eq!(barrier.wait_timeout(Duration::from_millis(1)), Err(BarrierError::TimedOut));
    /// assert!(barrier.is_broken()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Result<usize, BarrierError> {
        self.wait_within(Wait::at_most(timeout))
    }

    fn wait_within(&self, wait: Wait) -> Result<usize, BarrierError> {
        let (mine, slot) = self.arrive(wait)?;
        let index = usize::try_from(mine.arrived).unwrap_or(0);
        let Some(slot) = slot else { return Ok(index) };
        let attempt = |words: Words<'_>| {
            let memory = Memory(words);
            Ok(match memory.outcome(mine) {
                Outcome::Waiting => memory.turn(&slot),
                Outcome::Passed => Turn::Come(Ok(index)),
                Outcome::Stopped => Turn::Come(Err(memory.error(mine))),
            })
        };
        let evict = |words: Words<'_>, index, lease| Memory(words).evict(index, lease);
        waiting::wait(&self.object, wait, attempt, evict)?.unwrap_or_else(|| self.give_up(mine, index))
    }

    /// The state at the arrival, and the slot of this thread, unless it is the last one.
    fn arrive(&self, wait: Wait) -> Result<(State, Option<Slot<'_>>), BarrierError> {
        let words = self.object.words()?;
        let _held = words.hold(wait).ok_or(BarrierError::TimedOut)?;
        let memory = Memory(words);
        let now = memory.state();
        if now.is_broken {
            return Err(Reason::error(memory.load(REASON)));
        }
        if now.arrived >= memory.parties() {
            return Err(LockError::nonsense().into());
        }
        if now.arrived + 1 == memory.parties() {
            words.wake();
            memory.publish(now.next_round());
            return Ok((now, None));
        }
        let me = holders::me();
        let index = memory.slots().take(me, 1, now.order()).ok_or(LockError::TooMany { limit: SLOTS_MAX })?;
        memory.publish(State { arrived: now.arrived + 1, ..now });
        failpoint::pass("barrier_arrived");
        Ok((now, Some(Slot::new(&self.object, SLOTS, me, index, now.order()))))
    }

    /// Breaks the barrier, because the time of a party is up, unless that has passed at the last moment.
    fn give_up(&self, mine: State, index: usize) -> Result<usize, BarrierError> {
        let words = self.object.words()?;
        let Some(_held) = words.hold(Wait::at_most(GIVE_UP_MAX)) else { return Err(BarrierError::TimedOut) };
        let memory = Memory(words);
        match memory.outcome(mine) {
            Outcome::Passed => Ok(index),
            Outcome::Stopped => Err(memory.error(mine)),
            Outcome::Waiting => {
                memory.break_for(Reason::TimedOut);
                Err(BarrierError::TimedOut)
            }
        }
    }

    /// Breaks the barrier: whoever waits, or comes later, gets an error.
    ///
    /// # Errors
    ///
    /// [`BarrierError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`BarrierError`].
    pub fn abort(&self) -> Result<(), BarrierError> {
        let words = self.object.words()?;
        // A latch that cannot be had is waited for.
        let _held = words.hold(Wait::Forever);
        if !Memory(words).state().is_broken {
            Memory(words).break_for(Reason::Aborted);
        }
        Ok(())
    }

    /// Makes the barrier as new. Whoever waits gets an error.
    ///
    /// # Errors
    ///
    /// [`BarrierError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// let barrier = procpool::sync::Barrier::new(1)?;
    /// barrier.abort()?;
    /// barrier.reset()?;
    /// barrier.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reset(&self) -> Result<(), BarrierError> {
        let words = self.object.words()?;
        // As above.
        let _held = words.hold(Wait::Forever);
        let now = Memory(words).state();
        if now.is_broken || now.arrived > 0 {
            words.word(FINAL).store(now.word(), Ordering::Relaxed);
            failpoint::pass("barrier_final");
            words.wake();
            Memory(words).publish(now.next_epoch());
        }
        Ok(())
    }

    /// Whether the barrier is broken.
    ///
    /// # Errors
    ///
    /// [`BarrierError::Broken`].
    ///
    /// # Examples
    ///
    /// See [`wait_timeout`](Self::wait_timeout).
    pub fn is_broken(&self) -> Result<bool, BarrierError> {
        Ok(Memory(self.object.words()?).state().is_broken)
    }

    /// How many parties wait now.
    ///
    /// # Errors
    ///
    /// [`BarrierError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(procpool::sync::Barrier::new(2)?.waiting()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn waiting(&self) -> Result<usize, BarrierError> {
        Ok(usize::try_from(Memory(self.object.words()?).state().arrived).unwrap_or(0))
    }

    /// For how many parties the barrier is.
    ///
    /// # Errors
    ///
    /// [`BarrierError::Broken`].
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(procpool::sync::Barrier::new(3)?.parties()?, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parties(&self) -> Result<usize, BarrierError> {
        Ok(usize::try_from(Memory(self.object.words()?).parties()).unwrap_or(0))
    }
}

impl Serialize for Barrier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Barrier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { object: Object::deserialize::<Self, D>(deserializer, Kind::Barrier, 0)? })
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_one_word() {
        let state = State { epoch: 0xffff, round: ROUND_MASK, is_broken: true, arrived: 240 };
        assert_eq!(State::of(state.word()), state);
        assert_eq!(state.next_epoch(), State { epoch: 0, round: 0, is_broken: false, arrived: 0 });
        assert_eq!(state.next_round(), State { round: 0, arrived: 0, ..state });
    }

    #[test]
    fn an_arrival_has_passed_if_its_round_has_ended() {
        let mine = State { epoch: 3, round: 5, is_broken: false, arrived: 1 };
        let nothing = State::of(0);
        assert_eq!(outcome(mine, State { arrived: 2, ..mine }, nothing), Outcome::Waiting);
        assert_eq!(outcome(mine, State { is_broken: true, ..mine }, nothing), Outcome::Stopped);
        assert_eq!(outcome(mine, mine.next_round(), nothing), Outcome::Passed);
        // The next round was broken, or the epoch has ended since.
        assert_eq!(outcome(mine, State { is_broken: true, ..mine.next_round() }, nothing), Outcome::Passed);
        assert_eq!(outcome(mine, mine.next_epoch(), mine.next_round()), Outcome::Passed);
        assert_eq!(outcome(mine, mine.next_epoch(), mine), Outcome::Stopped);
        assert_eq!(outcome(mine, mine.next_epoch().next_epoch(), mine.next_epoch()), Outcome::Stopped);
    }
}
