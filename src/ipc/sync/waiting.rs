//! The loop of every call that may wait: attempt, arm, watch the holders, sleep.

use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::time::Duration;

use super::error::LockError;
use super::holders;
use super::holders::Sleep;
use super::holders::Watches;
use super::holders::Woken;
use super::lease::Lease;
use super::object::Object;
use super::object::Words;
use crate::ipc::deadline::Wait;

/// What an attempt has found.
#[derive(Debug)]
pub(super) enum Turn<T> {
    Come(T),
    /// It is held by these; the numbers are for [`wait`]'s `evict`. No thread that sleeps has come to its turn.
    Busy(Vec<(usize, Lease)>),
    /// Not yet, but these have come to theirs, and may sleep still.
    Others(Vec<(usize, Lease)>),
}

/// The first and the longest nap of a thread that waits until others have left.
const NAP_MIN: Duration = Duration::from_micros(50);
const NAP_MAX: Duration = Duration::from_millis(50);

/// Makes attempts, under the latch, until one has come to its turn or the wait is over (`None`). Leases whose holders have
/// died are passed to `evict`, under the latch.
///
/// To arm the gate takes all tokens out, so it would leave those asleep that have come to their turn and have not seen it
/// yet. While there are some ([`Turn::Others`]), a thread takes naps instead, until they have left or died. They leave at
/// once, unless they are stopped.
///
/// # Errors
///
/// That of an attempt; [`LockError::Broken`].
pub(super) fn wait<T>(
    object: &Object,
    wait: Wait,
    mut attempt: impl FnMut(Words<'_>) -> Result<Turn<T>, LockError>,
    mut evict: impl FnMut(Words<'_>, usize, Lease),
) -> Result<Option<T>, LockError> {
    let words = object.words()?;
    let mut watches = Watches::default();
    let (mut may_spin, mut has_evicted) = (!matches!(wait, Wait::Not), false);
    let mut nap = NAP_MIN;
    loop {
        let changes = words.changes();
        let Some(held) = words.hold(wait) else { return Ok(None) };
        let (leases, sleep) = match attempt(words)? {
            Turn::Come(value) => return Ok(Some(value)),
            Turn::Busy(leases) => (leases, Sleep::AtTheGate),
            Turn::Others(leases) => (leases, Sleep::Nap(nap)),
        };
        if std::mem::take(&mut may_spin) {
            drop(held);
            // If nothing changes meanwhile, the next attempt arms the gate.
            object.spin(|| words.changes() != changes);
            continue;
        }
        match sleep {
            Sleep::AtTheGate => {
                words.arm();
                nap = NAP_MIN;
            }
            Sleep::Nap(_) => nap = (2 * nap).min(NAP_MAX),
        }
        drop(held);
        let mut gone = watches.update(&leases, holders::me().pid);
        if gone.is_empty() {
            // Between the drain and the load, which must not pass it; see the head of `object`.
            fence(Ordering::SeqCst);
            if words.changes() != changes && !wait.is_over() {
                continue;
            }
            match watches.sleep(&object.sleeps, sleep, wait.deadline()) {
                Woken::TimedOut => return Ok(None),
                Woken::Maybe => {}
                Woken::Gone(ended) => gone = ended,
            }
        }
        // A process that keeps writing nonsense could keep a call busy.
        if wait.is_over() && (gone.is_empty() || has_evicted) {
            return Ok(None);
        }
        if !gone.is_empty() {
            has_evicted = true;
            let Some(_held) = words.hold(wait) else { return Ok(None) };
            gone.into_iter().for_each(|(index, lease)| evict(words, index, lease));
        }
    }
}
