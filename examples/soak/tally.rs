//! The tally: what the pool answered, item by item.
//!
//! All memory that grows with the number of items is allocated and touched before the soak begins, so that it does not
//! look like a leak.

use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use procpool::TaskError;

use crate::work::Answer;
use crate::work::Item;

/// No outcome yet. No process has this id, nor the next.
const NONE: u32 = u32::MAX;
const ANSWERED: u32 = u32::MAX - 1;
/// An outcome that is neither an answer nor a death; it has been reported.
const OTHER: u32 = u32::MAX - 2;

/// An item that was submitted without callbacks.
const NO_CALLBACKS: u8 = 0x80;
const VALUE_CALLBACK: u8 = 0x01;
const ERROR_CALLBACK: u8 = 0x10;

/// Maximum complaints that are kept.
const COMPLAINTS_MAX: usize = 20;

/// The fate of one item, according to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has no outcome.
    None,
    Answered,
    /// It was lost with this worker.
    Died(u32),
    Other,
}

/// A job whose errors do not say which items they are for: those of `imap_unordered`.
#[derive(Debug)]
pub(crate) struct Anonymous {
    pub(crate) indices: Range<u32>,
    /// The workers that died, one for each error.
    pub(crate) pids: Vec<u32>,
}

/// The tally of one soak.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) seed: u64,
    fates: Vec<AtomicU32>,
    callbacks: Vec<AtomicU8>,
    contexts: Vec<AtomicBool>,
    anonymous: Mutex<Vec<Anonymous>>,
    complaints: Mutex<Vec<String>>,
    /// Counts outcomes and other steps of the soak. If it does not change for long, the soak hangs.
    pub(crate) progress: AtomicU64,
    duplicated: AtomicU64,
    values_wrong: AtomicU64,
    other_errors: AtomicU64,
}

impl Tally {
    pub(crate) fn new(tasks: u32, seed: u64) -> Self {
        Self {
            seed,
            fates: (0..tasks).map(|_| AtomicU32::new(NONE)).collect(),
            callbacks: (0..tasks).map(|_| AtomicU8::new(NO_CALLBACKS)).collect(),
            contexts: (0..tasks).map(|_| AtomicBool::new(false)).collect(),
            anonymous: Mutex::new(Vec::new()),
            complaints: Mutex::new(Vec::new()),
            progress: AtomicU64::new(0),
            duplicated: AtomicU64::new(0),
            values_wrong: AtomicU64::new(0),
            other_errors: AtomicU64::new(0),
        }
    }

    pub(crate) fn tasks(&self) -> u32 {
        u32::try_from(self.fates.len()).expect("made from a u32")
    }

    /// Records progress.
    pub(crate) fn tick(&self) {
        self.progress.fetch_add(1, SeqCst);
    }

    /// Records the outcome of an item whose index is known.
    pub(crate) fn settle(&self, index: u32, result: Result<Answer, TaskError>) {
        match result {
            Ok(answer) if answer == Answer::to(&Item::new(index, self.seed), self.seed) => self.put(index, ANSWERED),
            Ok(answer) => {
                self.values_wrong.fetch_add(1, SeqCst);
                self.complain(|| format!("item {index} was answered with the value of item {}", answer.index));
                self.put(index, OTHER);
            }
            Err(error) => {
                let fate = self.death(&error).unwrap_or(OTHER);
                self.put(index, fate);
            }
        }
    }

    /// Records the outcomes of an unordered job.
    pub(crate) fn settle_unordered(
        &self,
        indices: Range<u32>,
        results: impl Iterator<Item = Result<Answer, TaskError>>,
    ) {
        let mut pids = Vec::new();
        for result in results {
            match result {
                Ok(answer) if indices.contains(&answer.index) => {
                    self.settle(answer.index, Ok(answer));
                }
                Ok(answer) => {
                    self.values_wrong.fetch_add(1, SeqCst);
                    self.complain(|| format!("an answer for item {} of another job", answer.index));
                }
                Err(error) => {
                    self.tick();
                    pids.extend(self.death(&error));
                }
            }
        }
        if !pids.is_empty() {
            lock(&self.anonymous).push(Anonymous { indices, pids });
        }
    }

    /// Records the result of a task that is not an item of the soak, at a time when no worker was killed.
    pub(crate) fn check_aside(&self, x: u32, result: Result<u32, TaskError>) {
        if result.as_ref().ok() != Some(&(x + 1)) {
            self.other_errors.fetch_add(1, SeqCst);
            self.complain(|| format!("while no worker was killed, {x} + 1 returned {result:?}"));
        }
    }

    /// The worker whose SIGKILL explains the error. Other errors are reported.
    fn death(&self, error: &TaskError) -> Option<u32> {
        match error {
            TaskError::WorkerDied { pid, status, attempts: 1, panic: None, .. }
                if status.is_none_or(|status| status.signal() == Some(libc::SIGKILL)) =>
            {
                Some(*pid)
            }
            error => {
                self.other_errors.fetch_add(1, SeqCst);
                self.complain(|| format!("an error that no kill explains: {error}"));
                None
            }
        }
    }

    fn put(&self, index: u32, fate: u32) {
        self.tick();
        if self.fates[index as usize].swap(fate, SeqCst) != NONE {
            self.count_duplicate(|| format!("item {index} has two outcomes"));
        }
    }

    /// Records an extra outcome.
    pub(crate) fn count_duplicate(&self, text: impl FnOnce() -> String) {
        self.duplicated.fetch_add(1, SeqCst);
        self.complain(text);
    }

    /// Records that a call panicked; items without an outcome by then are lost.
    pub(crate) fn count_panic(&self, text: impl FnOnce() -> String) {
        self.tick();
        self.other_errors.fetch_add(1, SeqCst);
        self.complain(text);
    }

    /// Records that a death in an unordered job belongs to this item.
    pub(crate) fn assign(&self, index: u32, pid: u32) {
        self.put(index, pid);
    }

    /// How many extra outcomes there were.
    pub(crate) fn duplicated(&self) -> u64 {
        self.duplicated.load(SeqCst)
    }

    pub(crate) fn values_wrong(&self) -> u64 {
        self.values_wrong.load(SeqCst)
    }

    /// How many errors the kill of a worker does not explain.
    pub(crate) fn other_errors(&self) -> u64 {
        self.other_errors.load(SeqCst)
    }

    /// Records that the item will be submitted with a context.
    pub(crate) fn expect_context(&self, index: u32) {
        self.contexts[index as usize].store(true, SeqCst);
    }

    pub(crate) fn has_context(&self, index: u32) -> bool {
        self.contexts[index as usize].load(SeqCst)
    }

    /// Records that the item will be submitted with callbacks.
    pub(crate) fn expect_callback(&self, index: u32) {
        self.callbacks[index as usize].store(0, SeqCst);
    }

    pub(crate) fn value_callback(&self, index: u32) {
        self.callbacks[index as usize].fetch_add(VALUE_CALLBACK, SeqCst);
    }

    pub(crate) fn error_callback(&self, index: u32) {
        self.callbacks[index as usize].fetch_add(ERROR_CALLBACK, SeqCst);
    }

    /// Whether the right one of the item's callbacks was called, and once.
    pub(crate) fn callback_is_right(&self, index: u32) -> bool {
        let expected = match self.fate(index) {
            Fate::Answered => VALUE_CALLBACK,
            Fate::None | Fate::Died(_) | Fate::Other => ERROR_CALLBACK,
        };
        [NO_CALLBACKS, expected].contains(&self.callbacks[index as usize].load(SeqCst))
    }

    pub(crate) fn fate(&self, index: u32) -> Fate {
        match self.fates[index as usize].load(SeqCst) {
            NONE => Fate::None,
            ANSWERED => Fate::Answered,
            OTHER => Fate::Other,
            pid => Fate::Died(pid),
        }
    }

    /// Jobs whose deaths have not been attributed to items yet.
    pub(crate) fn take_anonymous(&self) -> Vec<Anonymous> {
        std::mem::take(&mut lock(&self.anonymous))
    }

    pub(crate) fn complain(&self, text: impl FnOnce() -> String) {
        let mut complaints = lock(&self.complaints);
        if complaints.len() < COMPLAINTS_MAX {
            complaints.push(text());
        }
    }

    pub(crate) fn take_complaints(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.complaints))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
