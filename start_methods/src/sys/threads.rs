//! When a process may be forked: which other threads exist, and what they have promised.
//!
//! A forked child has one thread. A lock that another thread held at the fork stays locked in the child for ever. So
//! fork is refused while *foreign* threads exist, about which nothing is known. A *resident* is a thread that has
//! promised to hold no lock while it is parked; a fork waits until all residents are parked, and keeps them parked
//! until it is done.
//!
//! Also called: fork safety, stop-the-world, safepoint.
//!
//! # Invariants
//!
//! - While a `Hold` exists, no resident leaves its parking place.
//! - Threads are counted by /proc/self/task; a resident that is not parked counts as foreign.
//! - A thread that waits to fork, or until a fork is done, counts as parked: otherwise the two would wait for each other.

use std::cell::Cell;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use nix::unistd::gettid;
use serde::Deserialize;
use serde::Serialize;

use crate::error::StartError;
use crate::sys::process;
use crate::sys::process::PerProcess;

/// How long a fork waits for residents to park.
const PARKING_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the kernel may still list a thread that has been joined.
const LEAVING_TIMEOUT: Duration = Duration::from_millis(100);

/// The gate of this process: a fork closes it, and residents wait at it.
static GATE: PerProcess<Gate> = PerProcess::new();

/// The known threads of this process, and whether a fork is in progress.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// All residents, in any mode.
    residents: usize,
    /// Residents that run, and may hold locks of their crate.
    active: usize,
    /// Residents that run code about which nothing is known.
    foreign: usize,
    /// The thread ids of all residents but those counted in `foreign`.
    known: Vec<i32>,
    /// A fork is being prepared or in progress.
    held: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Unregistered,
    Active,
    Parked,
    Foreign,
}

thread_local! {
    /// The mode of this thread, and the process in which it was set.
    static MODE: Cell<(u32, Mode)> = const { Cell::new((0, Mode::Unregistered)) };
}

fn mode() -> Mode {
    let (pid, mode) = MODE.get();
    // In a forked child, the thread that forked is not registered: the child has a gate of its own.
    if pid == std::process::id() { mode } else { Mode::Unregistered }
}

fn set_mode(mode: Mode) {
    MODE.set((std::process::id(), mode));
}

/// The current thread's promise to hold no lock while it is [parked](Self::park).
///
/// While it is neither parked nor in [`foreign`](Self::foreign), the thread must reach a parking place soon: a fork
/// waits for it for one second, and counts it as a foreign thread after that.
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
///     // While the thread waits here, another thread may fork.
///     resident.park(|| receiver.recv())
/// });
/// drop(sender);
/// assert!(driver.join().unwrap().is_err());
/// ```
#[derive(Debug)]
pub struct Resident {
    pid: u32,
    /// Whether this is the outermost one of the thread; inner ones change nothing.
    outermost: bool,
    /// It describes the thread that created it.
    not_send: PhantomData<*const ()>,
}

/// The announcement of a thread that will become a resident as soon as it runs.
///
/// A thread that was spawned but has not reached [`Resident::enter`] would count as foreign. If it is announced before
/// it is spawned, a fork waits for it as for any resident that is not parked.
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
    /// Announces one thread. Blocks while a fork is in progress, and counts as parked meanwhile.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::threads::Announced;
    ///
    /// let announced = Announced::new();
    /// // If the thread cannot be spawned, dropping the announcement withdraws it.
    /// drop(announced);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        let mut state = match mode() {
            Mode::Active => GATE.get().pass(Mode::Active, Mode::Active),
            Mode::Unregistered | Mode::Parked | Mode::Foreign => lock_when_open(),
        };
        state.residents += 1;
        state.active += 1;
        drop(state);
        Self { pid: std::process::id() }
    }

    /// Makes the current thread the announced resident.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::threads::Announced;
    ///
    /// let announced = Announced::new();
    /// std::thread::spawn(move || {
    ///     let resident = announced.enter();
    ///     resident.park(std::thread::yield_now);
    /// })
    /// .join()
    /// .unwrap();
    /// ```
    #[must_use]
    pub fn enter(self) -> Resident {
        if mode() != Mode::Unregistered || self.pid != std::process::id() {
            // The thread is a resident already, or in another process: `self` is dropped, which ends the announcement.
            return Resident::enter();
        }
        process::lock(&GATE.get().state).know(own_id());
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
    /// Makes the current thread a resident until the value is dropped. Blocks while a fork is in progress.
    ///
    /// A second `Resident` in the same thread has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::threads::Resident;
    ///
    /// let resident = Resident::enter();
    /// # drop(resident);
    /// ```
    #[must_use]
    pub fn enter() -> Self {
        let outermost = mode() == Mode::Unregistered;
        if outermost {
            let gate = GATE.get();
            let mut state = process::lock(&gate.state);
            // Counted at once, as a parked resident. A fork that is being prepared already sees this thread in /proc;
            // uncounted, it would be foreign, and the fork would fail while the thread waits for that very fork.
            state.residents += 1;
            state.know(own_id());
            gate.changed.notify_all();
            state = gate.until_open(state);
            state.active += 1;
            set_mode(Mode::Active);
        }
        Self { pid: std::process::id(), outermost, not_send: PhantomData }
    }

    /// Runs `f`, which waits for an event and holds no lock. A fork may happen meanwhile.
    ///
    /// `f` must not hold a lock that a forked child could need, including those of its own crate.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use start_methods::threads::Resident;
    ///
    /// let resident = Resident::enter();
    /// resident.park(|| std::thread::sleep(Duration::from_millis(1)));
    /// ```
    pub fn park<R>(&self, f: impl FnOnce() -> R) -> R {
        parked(f)
    }

    /// Runs `f`, about which nothing is known: meanwhile this thread counts as foreign.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::threads::Resident;
    ///
    /// let callback = || 42; // Given by a user; it may take any lock.
    /// let resident = Resident::enter();
    /// assert_eq!(resident.foreign(callback), 42);
    /// ```
    pub fn foreign<R>(&self, f: impl FnOnce() -> R) -> R {
        let _change = ModeChange::begin(Mode::Foreign);
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
        state.forget(own_id());
        set_mode(Mode::Unregistered);
        GATE.get().changed.notify_all();
    }
}

/// Runs `f`, which waits for a lock that a thread may hold while it forks. If this thread is a resident, it counts as
/// parked meanwhile, and then waits until that fork is done. It must hold no other lock that a forked child could need.
pub(crate) fn parked<R>(f: impl FnOnce() -> R) -> R {
    let _change = ModeChange::begin(Mode::Parked);
    f()
}

/// A period in another mode. It ends when this is dropped, by return or by panic.
struct ModeChange {
    before: Mode,
    during: Mode,
    pid: u32,
}

impl ModeChange {
    fn begin(during: Mode) -> Self {
        let before = mode();
        if before != Mode::Unregistered {
            let gate = GATE.get();
            if before == Mode::Parked {
                // Leaving a parking place requires an open gate: a fork relies on parked threads staying parked.
                drop(gate.pass(before, during));
            } else {
                let mut state = process::lock(&gate.state);
                state.leave(before);
                state.arrive(during);
            }
            set_mode(during);
            gate.changed.notify_all();
        }
        Self { before, during, pid: std::process::id() }
    }
}

impl Drop for ModeChange {
    fn drop(&mut self) {
        if self.before == Mode::Unregistered || self.pid != std::process::id() {
            return;
        }
        // Also out of code about which nothing is known: what has returned holds no lock any more.
        drop(GATE.get().pass(self.during, self.before));
        set_mode(self.before);
        GATE.get().changed.notify_all();
    }
}

impl State {
    fn leave(&mut self, mode: Mode) {
        match mode {
            Mode::Active => self.active -= 1,
            Mode::Foreign => {
                self.foreign -= 1;
                self.know(own_id());
            }
            Mode::Parked | Mode::Unregistered => {}
        }
    }

    fn arrive(&mut self, mode: Mode) {
        match mode {
            Mode::Active => self.active += 1,
            Mode::Foreign => {
                self.foreign += 1;
                self.forget(own_id());
            }
            Mode::Parked | Mode::Unregistered => {}
        }
    }

    fn know(&mut self, thread: i32) {
        self.known.push(thread);
    }

    fn forget(&mut self, thread: i32) {
        self.known.retain(|known| *known != thread);
    }

    /// Residents that may exist during a fork: those that are parked.
    fn parked(&self) -> usize {
        self.residents - self.active - self.foreign
    }
}

impl Gate {
    /// Waits until no fork is in progress.
    fn until_open<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while state.held {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Takes this thread from one mode to another when no fork is in progress. It counts as parked until then.
    fn pass(&self, from: Mode, to: Mode) -> MutexGuard<'_, State> {
        let mut state = process::lock(&self.state);
        state.leave(from);
        self.changed.notify_all();
        state = self.until_open(state);
        state.arrive(to);
        state
    }
}

/// Locks the gate's state at a moment when no fork is in progress.
fn lock_when_open() -> MutexGuard<'static, State> {
    let gate = GATE.get();
    gate.until_open(process::lock(&gate.state))
}

/// The right to fork: while it exists, no resident leaves its parking place.
#[derive(Debug)]
pub(crate) struct Hold {
    before: Mode,
    pid: u32,
    foreign: ForeignThreads,
}

/// The policy for foreign threads.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForeignThreads {
    Refuse,
    Tolerate,
}

impl Hold {
    /// Waits until the residents are parked, and counts all other threads.
    pub(crate) fn acquire(foreign: ForeignThreads) -> Result<Self, StartError> {
        let gate = GATE.get();
        let before = mode();
        {
            let mut state = process::lock(&gate.state);
            // Counts as parked from here on, since it waits and holds no lock. Otherwise two threads that want to fork
            // would wait for each other.
            state.leave(before);
            gate.changed.notify_all();
            state = gate.until_open(state);
            // Under the lock under which the gate was seen open: two forks never hold it at once.
            state.held = true;
        }
        let hold = Self { before, pid: std::process::id(), foreign };
        let deadline = Instant::now() + PARKING_TIMEOUT;
        let mut state = process::lock(&gate.state);
        // A resident that does not park in time is counted as foreign below.
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
            // If the caller is a resident it counts as parked, and is subtracted: it is the 1.
            let me = usize::from(before != Mode::Unregistered);
            check_only(|| 1 + process::lock(&gate.state).parked() - me)?;
        }
        Ok(hold)
    }

    /// Whether there may be threads about which nothing is known.
    pub(crate) fn foreign(&self) -> ForeignThreads {
        self.foreign
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

/// Checks that this process has no more threads than `known` returns.
///
/// Retries for a short time: the kernel may still list a thread that has ended, and a new thread may be about to
/// register.
pub(crate) fn check_only(known: impl Fn() -> usize) -> Result<(), StartError> {
    let deadline = Instant::now() + LEAVING_TIMEOUT;
    loop {
        // Known threads first. Their number only grows while a fork holds the gate, so a thread that registers between
        // the two steps makes the check retry; in the other order it would hide a foreign thread.
        let known = known();
        let count = count().map_err(StartError::system("counting the threads of this process in /proc"))?;
        if count <= known {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(StartError::ForeignThreads { count: count - known, names: foreign_names() });
        }
        // There is no event for "the kernel has removed a thread from the list", so it is polled.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether this process has no other thread, at this moment. False if that cannot be found out.
pub(crate) fn is_only_thread() -> bool {
    count().is_ok_and(|count| count == 1)
}

/// The threads that existed when `init` was called, beside the one that called it.
// Set once, by that thread. In a forked copy these threads do not exist.
static BEFORE_INIT: OnceLock<Vec<i32>> = OnceLock::new();

/// Notes which threads exist beside the one that calls `init`.
pub(crate) fn note_before_init() {
    if count().is_ok_and(|count| count > 1) {
        BEFORE_INIT.get_or_init(|| foreign_ids().collect());
    }
}

/// The names of the threads that existed before `init` and still exist. Now, because a thread that has just started
/// does not have its name yet.
pub(crate) fn names_before_init() -> Vec<String> {
    BEFORE_INIT.get().into_iter().flatten().filter_map(|&id| name_of(id)).collect()
}

/// The names of the first foreign threads: not of this thread, and not of residents. Empty if /proc does not tell.
fn foreign_names() -> Vec<String> {
    foreign_ids().filter_map(name_of).take(NAMES_MAX).collect()
}

fn foreign_ids() -> impl Iterator<Item = i32> {
    let known = process::lock(&GATE.get().state).known.clone();
    let here = own_id();
    let threads = fs::read_dir(TASKS).into_iter().flatten().flatten();
    let ids = threads.filter_map(|thread| thread.file_name().to_str().and_then(|id| id.parse::<i32>().ok()));
    ids.filter(move |id| *id != here && !known.contains(id))
}

/// `None` if the thread has ended.
fn name_of(thread: i32) -> Option<String> {
    let name = fs::read(format!("{TASKS}/{thread}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

fn own_id() -> i32 {
    gettid().as_raw()
}

/// The directory in which the kernel lists the threads of this process.
const TASKS: &str = "/proc/self/task";

/// Maximum names in an error: it must fit into a message.
const NAMES_MAX: usize = 16;

/// The number of threads of this process.
///
/// The kernel reports it as the link count of the directory that lists them, plus the two links that every directory
/// has: one system call instead of five.
fn count() -> io::Result<usize> {
    match fs::metadata(TASKS)?.nlink().saturating_sub(2) {
        // There is at least this thread: an emulator of the kernel does not count links.
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
    fn foreign_threads_are_named_and_residents_are_not() {
        /// Runs a thread, which waits until the sender is dropped, while `check` runs.
        fn beside(name: &str, wait: fn(std::sync::mpsc::Receiver<()>), check: impl FnOnce()) {
            let (end, receiver) = std::sync::mpsc::channel();
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || wait(receiver)).unwrap();
            check();
            drop(end);
            thread.join().unwrap();
        }
        let is_named = |name: &str| foreign_names().iter().any(|known| known == name);
        // A new thread takes a moment to get its name. The harness ends the test if it never does.
        let wait_for = |condition: &dyn Fn() -> bool| {
            while !condition() {
                std::thread::yield_now();
            }
        };
        beside("a-foreign-one", |end| assert!(end.recv().is_err()), || wait_for(&|| is_named("a-foreign-one")));
        static PARKED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        let park = |end: std::sync::mpsc::Receiver<()>| {
            Resident::enter().park(|| {
                PARKED.store(true, std::sync::atomic::Ordering::Release);
                assert!(end.recv().is_err());
            });
        };
        beside("a-resident", park, || {
            wait_for(&|| PARKED.load(std::sync::atomic::Ordering::Acquire));
            assert!(!is_named("a-resident"));
        });
    }

    #[test]
    fn a_thread_that_leaves_foreign_code_during_a_fork_counts_as_parked() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            Resident::enter().foreign(|| {
                begin.send(own_id()).unwrap();
                assert!(ended.recv().is_err());
            });
        });
        let id = begun.recv().unwrap();
        let is_known = || process::lock(&GATE.get().state).known.contains(&id);
        assert!(!is_known());
        let hold = Hold::acquire(ForeignThreads::Tolerate).unwrap();
        drop(end);
        // The harness ends the test if it counts as foreign for ever.
        while !is_known() {
            std::thread::yield_now();
        }
        assert!(!thread.is_finished(), "it waits until the fork is done");
        drop(hold);
        thread.join().unwrap();
    }

    #[test]
    fn a_second_resident_in_the_same_thread_changes_nothing() {
        let outer = Resident::enter();
        drop(Resident::enter());
        assert_eq!(mode(), Mode::Active);
        drop(outer);
        assert_eq!(mode(), Mode::Unregistered);
    }
}
