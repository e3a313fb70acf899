//! What a pool tells while it works: one value for each thing that happens.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use crate::error::PoolError;
use crate::error::TaskError;

/// Something that has happened in a pool, for [`PoolBuilder::on_event`](crate::PoolBuilder::on_event).
///
/// Items that have a value are not told one by one: [`stats`](crate::Pool::stats) counts them, and a
/// [timeline](crate::PoolBuilder::record) has them. Neither are items that were cancelled before they began.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// use procpool::{Departure, Event, Pool};
///
/// let pool = Pool::builder()
///     .processes(2)
///     .on_event(|event| match event {
///         Event::WorkerGone { pid, how: Departure::Died(status), .. } => eprintln!("worker {pid} died: {status:?}"),
///         Event::ItemFailed { index, error, .. } => eprintln!("item {index}: {error}"),
///         _ => {}
///     })
///     .build()?;
/// assert_eq!(pool.map(0..3u64, |x| x * x)?, [0, 1, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A worker process was started.
    WorkerStarted {
        /// Its process id.
        pid: u32,
        /// Its [lane](crate::WorkerStats::lane).
        lane: u32,
    },
    /// A worker is ready: its initializer has returned.
    WorkerUp {
        /// Its process id.
        pid: u32,
        /// Its lane.
        lane: u32,
    },
    /// A worker is gone. What was lost with it follows.
    WorkerGone {
        /// Its process id.
        pid: u32,
        /// Its lane, which its replacement takes over.
        lane: u32,
        /// Why.
        how: Departure,
    },
    /// A worker could not be started.
    StartFailed {
        /// Why.
        error: PoolError,
    },
    /// A call begins.
    CallBegan {
        /// Its number. Later calls of a pool have larger numbers.
        call: u64,
        /// Its [label](crate::Pool::label).
        label: Option<Arc<str>>,
    },
    /// Every item of a call has an outcome.
    CallEnded {
        /// The number of the call.
        call: u64,
        /// Its label.
        label: Option<Arc<str>>,
        /// How many items it had.
        items: u64,
        /// How many of them have an error, those included that were cancelled or skipped.
        errors: u64,
    },
    /// An item has an error: it failed, panicked, was lost with its worker, or ran into its time limit. Those that were
    /// cancelled, skipped or terminated are not told.
    ItemFailed {
        /// The number of its call.
        call: u64,
        /// The label of its call.
        label: Option<Arc<str>>,
        /// Its position in the input of the call.
        index: u64,
        /// What happened. It names the process.
        error: TaskError,
    },
    /// An item was lost with its worker, and is run again.
    ItemRetried {
        /// The number of its call.
        call: u64,
        /// The label of its call.
        label: Option<Arc<str>>,
        /// Its position in the input of the call.
        index: u64,
    },
    /// An item has run for longer than [`slow_after`](crate::PoolBuilder::slow_after), and still runs. Told once for each.
    ItemSlow {
        /// The number of its call.
        call: u64,
        /// The label of its call.
        label: Option<Arc<str>>,
        /// Its position in the input of the call.
        index: u64,
        /// The process that runs it.
        pid: u32,
        /// How long it has run, at least.
        running: Duration,
    },
    /// So many events were not told, since those before them had not been taken yet.
    Dropped {
        /// How many.
        events: u64,
    },
}

/// Why a worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Departure {
    /// It was not needed, or the pool has ended.
    Stopped,
    /// It is replaced as planned: after its share of items, or for its age or memory.
    Recycled,
    /// It died unasked. The status is unknown if the system, or other code of this program, has taken it.
    Died(Option<ExitStatus>),
    /// It was killed because its item ran into its time limit.
    TimedOut,
    /// It was killed because its item was cancelled.
    Cancelled,
    /// It is replaced because a task had spoilt its connection to the pool.
    Spoilt,
}
