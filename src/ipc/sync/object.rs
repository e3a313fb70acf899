//! What a lock and its kin are made of: memory with a latch, and a gate at which all processes both wait and wake.
//!
//! ```text
//!     0  latch u32 · flag of the gate u32 · changes u64      of every object
//!    16  words of the object
//! ```
//!
//! Each process holds both ends of the gate's pair: it sleeps on one, and puts tokens into the other.
//!
//! # Publishing without the latch
//!
//! A guard that is dropped must not wait for a process that was stopped inside the latch, or that never lets go. So after a
//! while it publishes without the latch: it stores its change, which is to a word that no other process changes as long as
//! this one lives; then counts up `changes`; then puts a token. A thread that goes to sleep reads `changes` before its
//! attempt, and again after it has armed the gate, which takes all tokens out. Either it sees the new count, and tries
//! again; or the count was raised after that, and so the token was put after the gate was armed, and wakes it. (Both are
//! SeqCst, as in Dekker's algorithm.)

use std::io;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserializer;
use serde::Serializer;
use serde::ser::Error as _;

use super::error::LockError;
use super::lease::Place;
use crate::ipc::deadline::Wait;
use crate::ipc::gate;
use crate::ipc::gate::Gate;
use crate::ipc::latch;
use crate::ipc::latch::Held;
use crate::ipc::latch::Previous;
use crate::ipc::segment::Head;
use crate::ipc::segment::Kind;
use crate::ipc::segment::Segment;
use crate::ipc::segment::View;
use crate::sys::processor;
use crate::sys::spin::SharedSpin;
use crate::sys::spin::spin_until;
use crate::values::attach::SharedFd;
use crate::values::handle;
use crate::values::handle::SharedSocket;
use crate::values::handle::socket_of;
use crate::values::handle::socket_pair;

/// How many descriptors an object has in each process.
const FDS: usize = 3;
/// How long a guard that is dropped waits for the latch.
const RELEASE_MAX: Duration = Duration::from_millis(200);

const LATCH: usize = 0;
const FLAG: usize = 4;
const CHANGES: usize = 8;
const WORDS: usize = 16;

#[derive(Debug)]
pub(super) struct Object {
    segment: Segment,
    file: SharedFd,
    /// Where this process sleeps.
    pub(super) sleeps: SharedSocket,
    /// The other end, by which it wakes.
    wakes: SharedSocket,
    spin: SharedSpin,
}

impl Object {
    /// A new object with `bytes` bytes behind its words, all zero.
    ///
    /// # Errors
    ///
    /// As for [`Segment::create`]; or no descriptor is left.
    pub(super) fn create(kind: Kind, signature: u64, bytes: usize) -> io::Result<Arc<Self>> {
        let (segment, file) = Segment::create(Head { kind, signature }, bytes)?;
        let (sleeps, wakes) = socket_pair()?;
        let object = Self { segment, file: Arc::new(file), sleeps, wakes, spin: SharedSpin::long() };
        gate::reset(object.segment.view().expect("it was mapped a line ago").small_word(FLAG));
        Ok(Arc::new(object))
    }

    fn open(head: Head, fds: [SharedFd; FDS]) -> io::Result<Self> {
        let [file, sleeps, wakes] = fds;
        let segment = Segment::open(&file, head)?;
        Ok(Self { segment, file, sleeps: socket_of(sleeps)?, wakes: socket_of(wakes)?, spin: SharedSpin::long() })
    }

    /// # Errors
    ///
    /// See [`handle::serialize`].
    pub(super) fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.segment.view().is_none() {
            return Err(S::Error::custom(LockError::forked()));
        }
        handle::serialize(&[&self.file, self.sleeps.get_ref(), self.wakes.get_ref()], serializer)
    }

    /// The object of a handle of type `T`.
    ///
    /// # Errors
    ///
    /// What came is no such object; see [`handle::deserialize`].
    pub(super) fn deserialize<'de, T: 'static, D: Deserializer<'de>>(
        deserializer: D,
        kind: Kind,
        signature: u64,
    ) -> Result<Arc<Self>, D::Error> {
        handle::deserialize::<T, Self, D, FDS>(deserializer, |fds| Self::open(Head { kind, signature }, fds))
    }

    /// How many bytes there are behind the words.
    pub(super) fn bytes_len(&self) -> usize {
        self.segment.bytes_len()
    }

    /// Access to the memory.
    ///
    /// # Errors
    ///
    /// In a forked copy of the process.
    #[inline]
    pub(super) fn words(&self) -> Result<Words<'_>, LockError> {
        match self.segment.view() {
            Some(view) => Ok(Words { object: self, view }),
            None => Err(LockError::forked()),
        }
    }

    /// Looks for a while whether `found` holds, without sleeping.
    pub(super) fn spin(&self, found: impl FnMut() -> bool) {
        // On one processor the other side does nothing while this thread looks.
        if processor::available_at_first() == 1 {
            return;
        }
        let mut spin = self.spin.get();
        if spin_until(spin.duration(), found) {
            spin.found_while_spinning();
        } else {
            spin.found_after_sleep(Duration::MAX);
        }
        self.spin.set(spin);
    }
}

/// The memory of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    object: &'a Object,
    pub(super) view: View<'a>,
}

impl<'a> Words<'a> {
    /// A word of the object.
    #[inline]
    pub(super) fn word(self, offset: usize) -> &'a AtomicU64 {
        self.view.word(WORDS + offset)
    }

    /// The lease in two words.
    #[inline]
    pub(super) fn lease(self, offset: usize) -> Place<'a, AtomicU64> {
        Place { holder: self.word(offset), start: self.word(offset + 8) }
    }

    fn flag(self) -> &'a AtomicU32 {
        self.view.small_word(FLAG)
    }

    /// Takes the latch, and repairs what a dead holder has left. `None` if the wait is over first.
    #[inline]
    pub(super) fn hold(self, wait: Wait) -> Option<Held<'a>> {
        let held = latch::hold(self.view.small_word(LATCH), wait.gives_up())?;
        if held.previous == Previous::Died {
            gate::reset(self.flag());
        }
        Some(held)
    }

    /// Wakes all that sleep, before the store that publishes a change. Under the latch.
    #[inline]
    pub(super) fn wake(self) {
        self.view.word(CHANGES).fetch_add(1, Ordering::SeqCst);
        Gate { flag: self.flag(), tokens: &self.object.wakes }.wake();
    }

    /// Prepares to sleep. Under the latch.
    pub(super) fn arm(self) {
        Gate { flag: self.flag(), tokens: &self.object.sleeps }.arm();
    }

    #[inline]
    pub(super) fn changes(self) -> u64 {
        self.view.word(CHANGES).load(Ordering::SeqCst)
    }

    /// Publishes a change by `publish`, under the latch if it can be had soon. `publish` is told how to wake, which it
    /// does before its store, and only changes words that no other process changes as long as this one lives.
    pub(super) fn publish(self, publish: impl FnOnce(&dyn Fn())) {
        if let Some(_held) = self.hold(Wait::at_most(RELEASE_MAX)) {
            return publish(&|| self.wake());
        }
        publish(&|| ());
        // Behind the store: see the head of this file.
        self.view.word(CHANGES).fetch_add(1, Ordering::SeqCst);
        if let Err(error) = self.object.wakes.try_send(&[IoSlice::new(b"t")], &[]) {
            log::debug!("a token was not sent: {error}");
        }
    }
}
