//! When a process may be forked: who else is running, and what they promise.
//!
//! A forked child has one thread. A lock that another thread held at that moment stays held in it
//! for ever, so fork is refused while other threads exist: *foreign* threads, of which nothing is
//! known. A *resident* is a thread that has promised to hold nothing while it is parked; a fork waits
//! until all residents are parked, and keeps them parked until it is done.
//!
//! # Invariants
//!
//! - While a `Hold` exists, no resident leaves its parking place.
//! - Threads are counted by /proc/self/task, and a resident that is not parked counts as foreign.
//! - A thread that waits to fork counts as parked: it holds nothing either.

use std::cell::Cell;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::error::StartError;
use crate::sys::process;
use crate::sys::process::PerProcess;

/// How long a fork waits for residents to park.
const PARKING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a thread that has been joined may still be listed by the kernel.
const LEAVING_TIMEOUT: Duration = Duration::from_millis(100);

/// The gate of this process.
static GATE: PerProcess<Gate> = PerProcess::new();

/// Who runs in this process, as far as we have been told.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Residents, wherever they are.
    residents: usize,
    /// Residents that run, and may hold locks of their own crate's.
    active: usize,
    /// Residents that run code of which nothing is known.
    foreign: usize,
    /// A fork is being prepared or done.
    held: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Stranger,
    Active,
    Parked,
    Foreign,
}

thread_local! {
    /// What this thread is, and in which process it became that.
    static MODE: Cell<(u32, Mode)> = const { Cell::new((0, Mode::Stranger)) };
}

fn mode() -> Mode {
    let (pid, mode) = MODE.get();
    // In a forked child, the thread that forked is a stranger again: the child has its own gate.
    if pid == std::process::id() { mode } else { Mode::Stranger }
}

fn set_mode(mode: Mode) {
    MODE.set((std::process::id(), mode));
}

/// The current thread's promise to hold no lock while it is [parked](Self::park).
///
/// While it is neither parked nor in [`foreign`](Self::foreign), the thread must come to a parking
/// place soon: a fork waits for it, for a second, and counts it as a foreign thread after that.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc;
/// use std::thread;
///
/// use start_methods::threads::Resident;
///
/// let (sender, receiver) = mpsc::channel::<()>();
/// let driver = thread::spawn(move || {
///     let resident = Resident::enter();
///     // While the thread waits here, another one may fork.
///     resident.park(|| receiver.recv())
/// });
/// drop(sender);
/// assert!(driver.join().unwrap().is_err());
/// ```
#[derive(Debug)]
pub struct Resident {
    pid: u32,
    /// Whether this is the thread's outermost; those inside it change nothing.
    outermost: bool,
    /// It speaks for the thread it was made in.
    not_send: PhantomData<*const ()>,
}

/// The announcement of a thread that will be a resident as soon as it runs.
///
/// A thread that was spawned and has not come to [`Resident::enter`] yet would count as foreign. Announced before it is
/// spawned, it is waited for like any resident that is not parked.
///
/// # Examples
///
/// ```
/// use start_methods::threads::Announced;
///
/// let announced = Announced::new();
/// let thread = std::thread::spawn(move || {
///     let resident = announced.enter();
///     resident.park(|| ());
/// });
/// thread.join().unwrap();
/// ```
#[derive(Debug)]
pub struct Announced {
    pid: u32,
}

impl Announced {
    /// Announces one thread. Waits while a fork is on.
    #[must_use]
    pub fn new() -> Self {
        let mut state = free_to_move();
        state.residents += 1;
        state.active += 1;
        Self { pid: std::process::id() }
    }

    /// Makes the current thread the resident that was announced.
    #[must_use]
    pub fn enter(self) -> Resident {
        if mode() != Mode::Stranger || self.pid != std::process::id() {
            // It is a resident in its own right; the announcement ends here.
            return Resident::enter();
        }
        set_mode(Mode::Active);
        let resident = Resident { pid: self.pid, outermost: true, not_send: PhantomData };
        std::mem::forget(self);
        resident
    }
}

impl Default for Announced {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        let gate = GATE.get();
        let mut state = process::lock(&gate.state);
        state.residents -= 1;
        state.active -= 1;
        gate.changed.notify_all();
    }
}

impl Resident {
    /// Makes the current thread a resident, until the value is dropped. Waits while a fork is on.
    ///
    /// A second one in the same thread has no effect of its own.
    #[must_use]
    pub fn enter() -> Self {
        let outermost = mode() == Mode::Stranger;
        if outermost {
            let gate = GATE.get();
            let mut state = process::lock(&gate.state);
            // Known at once, as one that is parked: a fork that is being prepared counts this
            // thread already, and would otherwise wait for a stranger that waits for it.
            state.residents += 1;
            gate.changed.notify_all();
            state = gate.until_free(state);
            state.active += 1;
            set_mode(Mode::Active);
        }
        Self { pid: std::process::id(), outermost, not_send: PhantomData }
    }

    /// Runs `f`, which waits for something and holds nothing; a fork may happen meanwhile.
    ///
    /// `f` must not own a lock that a forked child could need, its own crate's included.
    pub fn park<R>(&self, f: impl FnOnce() -> R) -> R {
        let _stay = Stay::begin(Mode::Parked);
        f()
    }

    /// Runs `f`, of which nothing is known: while it runs, this thread counts as foreign.
    pub fn foreign<R>(&self, f: impl FnOnce() -> R) -> R {
        let _stay = Stay::begin(Mode::Foreign);
        f()
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        if !self.outermost || self.pid != std::process::id() {
            return;
        }
        let mut state = process::lock(&GATE.get().state);
        state.residents -= 1;
        state.leave(mode());
        set_mode(Mode::Stranger);
        GATE.get().changed.notify_all();
    }
}

/// A stretch of time in another mode; it ends when this is dropped, by return or by panic.
struct Stay {
    before: Mode,
    during: Mode,
    pid: u32,
}

impl Stay {
    fn begin(during: Mode) -> Self {
        let before = mode();
        if before != Mode::Stranger {
            // A parked thread that goes on to run must ask like any other.
            let mut state = if before == Mode::Parked { free_to_move() } else { process::lock(&GATE.get().state) };
            state.leave(before);
            state.arrive(during);
            set_mode(during);
            GATE.get().changed.notify_all();
        }
        Self { before, during, pid: std::process::id() }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if self.before == Mode::Stranger || self.pid != std::process::id() {
            return;
        }
        let mut state = free_to_move();
        state.leave(self.during);
        state.arrive(self.before);
        set_mode(self.before);
        GATE.get().changed.notify_all();
    }
}

impl State {
    fn leave(&mut self, mode: Mode) {
        match mode {
            Mode::Active => self.active -= 1,
            Mode::Foreign => self.foreign -= 1,
            Mode::Parked | Mode::Stranger => {}
        }
    }

    fn arrive(&mut self, mode: Mode) {
        match mode {
            Mode::Active => self.active += 1,
            Mode::Foreign => self.foreign += 1,
            Mode::Parked | Mode::Stranger => {}
        }
    }

    /// Residents that a fork may find running: those that are parked.
    fn parked(&self) -> usize {
        self.residents - self.active - self.foreign
    }
}

impl Gate {
    /// Waits until no fork is on.
    fn until_free<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.held {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

/// The gate's state, at a moment when no fork is on.
fn free_to_move() -> MutexGuard<'static, State> {
    let gate = GATE.get();
    gate.until_free(process::lock(&gate.state))
}

/// The right to fork: while it exists, every resident stays where it is.
#[derive(Debug)]
pub(crate) struct Hold {
    before: Mode,
    pid: u32,
}

/// What to do about other threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignThreads {
    Refuse,
    Tolerate,
}

impl Hold {
    /// Waits for the residents to park, and counts the rest.
    pub(crate) fn acquire(foreign: ForeignThreads) -> Result<Self, StartError> {
        let gate = GATE.get();
        let before = mode();
        {
            let mut state = process::lock(&gate.state);
            // From here on this thread waits and holds nothing: another fork need not wait for it.
            state.leave(before);
            gate.changed.notify_all();
            state = gate.until_free(state);
            state.held = true;
        }
        let hold = Self { before, pid: std::process::id() };
        let deadline = Instant::now() + PARKING_TIMEOUT;
        let mut state = process::lock(&gate.state);
        while state.active > 0 {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            state = gate
                .changed
                .wait_timeout(state, rest)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        drop(state);
        if foreign == ForeignThreads::Refuse {
            // The caller is one of the parked, if it is a resident at all, and is counted apart.
            let me = usize::from(before != Mode::Stranger);
            check_only(|| 1 + process::lock(&gate.state).parked() - me)?;
        }
        Ok(hold)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        let gate = GATE.get();
        let mut state = process::lock(&gate.state);
        state.held = false;
        state.arrive(self.before);
        gate.changed.notify_all();
    }
}

/// Checks that this process has no threads but those that are known.
///
/// Waits a little: a thread that has ended may still be listed, and one that has just begun may be
/// on its way to making itself known.
pub(crate) fn check_only(known: impl Fn() -> usize) -> Result<(), StartError> {
    let deadline = Instant::now() + LEAVING_TIMEOUT;
    loop {
        let count = count().map_err(StartError::system("counting the threads of this process"))?;
        let known = known();
        if count <= known {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(StartError::ForeignThreads { count: count - known });
        }
        // There is no event for "the kernel has forgotten a thread": it is asked again.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How many threads this process has.
///
/// The kernel counts them as links of the directory that lists them, beside the two that every directory has: one
/// system call instead of five.
fn count() -> io::Result<usize> {
    const TASKS: &str = "/proc/self/task";
    match fs::metadata(TASKS)?.nlink().saturating_sub(2) {
        // There is at least this one: whoever stands in for the kernel does not count links.
        0 => fs::read_dir(TASKS)?.try_fold(0, |count, entry| entry.map(|_entry| count + 1)),
        count => Ok(usize::try_from(count).expect("a 64-bit system")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_parking_place_leaves_the_thread_active() {
        let resident = Resident::enter();

        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            resident.park(|| std::panic::resume_unwind(Box::new("waited in vain")));
        }));

        assert!(result.is_err());
        assert_eq!(mode(), Mode::Active);
    }

    #[test]
    fn threads_are_counted_as_they_come_and_go() {
        let listed = || fs::read_dir("/proc/self/task").unwrap().count();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        // Other tests of this process begin and end meanwhile: the two counts must agree at some time.
        let agrees = || (0..1_000).any(|_| count().unwrap() == listed());
        assert!(agrees());
        let thread = std::thread::spawn(move || receiver.recv());
        assert!(agrees() && count().unwrap() >= 2);
        drop(sender);
        assert!(thread.join().unwrap().is_err());
    }

    #[test]
    fn a_second_resident_in_the_same_thread_changes_nothing() {
        let outer = Resident::enter();
        drop(Resident::enter());
        assert_eq!(mode(), Mode::Active);
        drop(outer);
        assert_eq!(mode(), Mode::Stranger);
    }
}
