//! A snapshot of a pool: its workers, its queue, and totals since it was built.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::sys::resident;

/// A snapshot of a pool, from [`Pool::stats`](crate::Pool::stats).
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// use procpool::WorkerState;
///
/// let pool = procpool::Pool::new(2)?;
/// pool.map(0..100u64, |x| x * x)?;
/// let stats = pool.stats();
/// let busy = stats.workers.iter().filter(|worker| worker.state == WorkerState::Busy).count();
/// println!("{busy}/{} busy, {} queued, {} done", stats.workers.len(), stats.queued, stats.totals.items_done);
/// assert_eq!(stats.totals.items_done, 100);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// When it was taken.
    pub at: Instant,
    /// The workers that are alive, those that are starting or leaving included, in the order in which they were started.
    pub workers: Vec<WorkerStats>,
    /// Items that wait for a worker.
    pub queued: u64,
    /// Items that workers hold: those that run, and those that were sent ahead.
    pub under_way: u64,
    /// Calls that are unfinished.
    pub calls: usize,
    /// Totals since the pool was built.
    pub totals: Totals,
}

impl Stats {
    /// A snapshot of nothing: what a forked copy of a pool knows.
    pub(crate) fn nothing() -> Self {
        let totals = Totals::default();
        Self { at: Instant::now(), workers: Vec::new(), queued: 0, under_way: 0, calls: 0, totals }
    }
}

/// One worker in a snapshot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Its process id.
    pub pid: u32,
    /// Its lane: a small number that a worker has for its whole life, and its replacement after it.
    pub lane: u32,
    /// What it is doing.
    pub state: WorkerState,
    /// When its process was started.
    pub started_at: Instant,
    /// Items that it holds: the one that runs, and those that were sent ahead.
    pub held: u64,
    /// Items that it has answered.
    pub items_done: u64,
    /// How long it has run items, by its own clock. Over the socket link, by the times at which its answers came.
    pub busy: Duration,
    /// The item that it runs, as far as the pool knows: the first that has no answer yet.
    pub current: Option<Current>,
}

impl WorkerStats {
    /// The memory of the worker in RAM now, shared pages included, in bytes; `None` if it has ended.
    ///
    /// It is read by this call, from `/proc/PID/statm` (proc_pid_statm(5)), which takes some ten microseconds. That is why
    /// it is no field.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// let pool = procpool::Pool::new(1)?;
    /// pool.apply((2u64, 3), u64::pow)?;
    /// let resident = pool.stats().workers[0].resident_bytes();
    /// assert!(resident.is_some_and(|bytes| bytes > 100_000));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        resident::resident_bytes(self.pid)
    }
}

/// The item that a worker runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Current {
    /// The number of its call. Later calls of a pool have larger numbers.
    pub call: u64,
    /// The [label](crate::Pool::label) of its call.
    pub label: Option<Arc<str>>,
    /// Its position in the input of the call.
    pub index: u64,
    /// How long it has run, at most: since the worker last looked at its clock.
    pub at_most: Duration,
    /// Whether it has run for exactly that long. Items of 20 µs and more have exact times, except over the socket link and
    /// for the first ones behind a run of shorter items.
    pub is_exact: bool,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// It is not ready: its process or its initializer is starting.
    Starting,
    /// It waits for work.
    Idle,
    /// It holds items.
    Busy,
    /// It gets nothing more. It may still be running an item.
    Leaving,
}

/// Totals of a pool since it was built. They never decrease.
///
/// Each item of each call is in exactly one of `items_done`, `items_failed`, `items_lost`, `items_timed_out`,
/// `items_cancelled` and `items_terminated` once it has its outcome, and in `items_submitted` from the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Items that were submitted.
    pub items_submitted: u64,
    /// Items that have a value. A `Result` that is no [`anyhow::Result`] is a value.
    pub items_done: u64,
    /// Items whose function failed or panicked, or that could not be encoded or decoded.
    pub items_failed: u64,
    /// Items that were lost with their worker, and not run again.
    pub items_lost: u64,
    /// Items that ran into their [time limit](crate::Pool::timeout).
    pub items_timed_out: u64,
    /// Items that were cancelled, or skipped because a call had failed or its results were not wanted.
    pub items_cancelled: u64,
    /// Items that had no outcome when the pool ended.
    pub items_terminated: u64,
    /// How often an item that was lost with its worker was run again.
    pub retries: u64,
    /// Worker processes that were started.
    pub workers_started: u64,
    /// Starts that failed, because the system refused them or the new process did not become ready.
    pub starts_failed: u64,
    /// Workers that left because they were not needed, or with the pool.
    pub workers_stopped: u64,
    /// Workers that were replaced as planned: after their share of items, or for their age or memory.
    pub workers_recycled: u64,
    /// Workers that died unasked: by a crash, a signal, `exit`, or the system.
    pub workers_died: u64,
    /// Workers that were killed because their item ran into its time limit.
    pub workers_timed_out: u64,
    /// Workers that were killed because their item was cancelled.
    pub workers_cancelled: u64,
    /// Workers that were replaced because a task had spoilt their connection to the pool.
    pub workers_spoilt: u64,
    /// [Events](crate::Event) that were not told because too many were waiting.
    pub events_dropped: u64,
}

impl Totals {
    /// Items that have no outcome yet.
    pub(crate) fn unsettled(&self) -> u64 {
        let settled = self.items_done
            + self.items_failed
            + self.items_lost
            + self.items_timed_out
            + self.items_cancelled
            + self.items_terminated;
        self.items_submitted - settled
    }
}
