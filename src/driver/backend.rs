//! The backend: the verbs by which the calls of the API reach what runs their items.
//!
//! This is all that the API knows of what lies below. The one implementation is a pool of worker processes on this
//! machine (`shared.rs`); a cluster of nodes would be another.
//!
//! - A verb takes the lock at most once, and returns without it. Verbs are coarse, so that a `map` submits a run of
//!   items and takes a run of outcomes under one lock acquisition.
//! - Verbs move bytes. Encoding, decoding and everything else that runs code of the user happens in the caller.
//! - Dynamic dispatch costs one indirect call per verb: per call and per batch, never per item.
//! - Each verb checks that this process made the pool. In a forked copy, a lock may be held for ever by a thread that
//!   does not exist there: every verb returns at once, with [`PoolError::ForkedCopy`] where it can return an error.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use start_methods::StartMethod;

use crate::error::Label;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::observe::record::Records;
use crate::observe::stats::Stats;
use crate::values::output::Output;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Target;
use crate::work::batch::Work;
use crate::work::group::DrivenBy;
use crate::work::group::Group;
use crate::work::jobs::Callback;
use crate::work::jobs::JobContext;
use crate::work::jobs::Leftover;
use crate::work::jobs::Log;

/// A job to be opened.
pub(crate) struct Opening {
    pub(crate) policy: JobPolicy,
    /// The first error cancels the items that no worker has been given.
    pub(crate) fail_fast: bool,
    pub(crate) context: Option<JobContext>,
    pub(crate) if_closed: IfClosed,
    pub(crate) label: Label,
}

/// What happens to the items of an open job that are submitted after the pool was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfClosed {
    /// They are accepted: the call was accepted as a whole before the close. The pool does not rest until it is sealed.
    Serve,
    Refuse,
}

/// Whether a job gets more items than these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    Follows,
    /// Seals the job.
    Never,
}

/// The result of [`Backend::exchange`].
pub(crate) struct Exchange {
    /// Why the rest of the work was not accepted. The job is then sealed.
    pub(crate) refusal: Option<PoolError>,
    /// Outcomes that had arrived and were not taken before; `None` if there are none.
    pub(crate) arrived: Option<Log>,
    /// As [`Backend::window`] returns it.
    pub(crate) window: u64,
}

/// What runs the items of jobs. See the head of this file.
pub(crate) trait Backend: Send + Sync {
    /// Opens a job.
    ///
    /// # Errors
    ///
    /// The pool takes no more jobs: closed, terminated, broken, or a forked copy.
    fn open(&self, opening: Opening) -> Result<JobId, PoolError>;

    /// Opens a job that has this one item, waits for its outcome, and forgets the job: what [`open`](Self::open),
    /// [`submit`](Self::submit), [`wait`](Self::wait) and [`abandon`](Self::abandon) do one after the other. The lock is
    /// let go only to wait.
    ///
    /// # Errors
    ///
    /// The pool takes no more jobs, as for [`open`](Self::open).
    fn call(&self, opening: Opening, target: Target, item: Result<Items, TaskError>) -> Result<Arc<Log>, PoolError>;

    /// Submits items and items that could not be encoded, in order. If the pool refuses one, the job is sealed and the
    /// rest dropped.
    ///
    /// # Errors
    ///
    /// Why the pool takes no more items.
    fn submit(&self, job: JobId, work: Vec<Work>, more: More) -> Result<(), PoolError>;

    /// As [`submit`](Self::submit), and takes what has arrived, under the same lock. For a caller that comes back soon,
    /// so that no other thread needs to drive meanwhile.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    fn exchange(&self, job: JobId, work: Vec<Work>, more: More) -> Result<Exchange, PoolError>;

    /// Ends the input of a job, and takes what has arrived.
    fn seal(&self, job: JobId) -> Option<Log>;

    /// Takes what has arrived for a job, and waits if that is nothing; `None` once the deadline has passed.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    fn take(&self, job: JobId, deadline: Option<Instant>) -> Result<Option<Log>, PoolError>;

    /// Waits until a job is finished, and returns its whole log; `None` once the deadline has passed.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    fn wait(&self, job: JobId, deadline: Option<Instant>) -> Result<Option<Arc<Log>>, PoolError>;

    /// The whole log of a job if it is finished; otherwise `waker` replaces the job's waker, and is woken when it is.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    fn poll(&self, job: JobId, waker: Waker) -> Result<Option<Arc<Log>>, PoolError>;

    /// Takes what has arrived for a job; if that is nothing, `waker` replaces the job's waker, and is woken once when
    /// something has arrived.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    fn poll_take(&self, job: JobId, waker: Waker) -> Result<Option<Log>, PoolError>;

    /// Adds jobs, each with its place, to a group that notes which are finished: these at once, the others when they
    /// are. With [`DrivenBy::Waiter`], the caller waits by [`wait_group`](Self::wait_group).
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    fn join_group(&self, jobs: &[(JobId, usize)], group: &Arc<Group>, driven_by: DrivenBy) -> Result<(), PoolError>;

    /// Takes jobs out of a group.
    fn leave_group(&self, jobs: &[JobId], group: &Arc<Group>);

    /// Waits until a group, whose jobs are all of this pool, has something to take, or the deadline has passed.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    fn wait_group(&self, group: &Group, deadline: Option<Instant>) -> Result<(), PoolError>;

    /// Whether an item of the job is running, as far as is known.
    fn is_running(&self, job: JobId) -> bool;

    /// Calls `callback` on the callback thread: soon if the job is finished, otherwise when it is.
    fn on_finished(&self, job: JobId, callback: Callback);

    /// Calls `callback` with `log` soon, on the callback thread.
    fn call_back(&self, callback: Callback, log: Arc<Log>);

    /// Cancels a job: items that have not begun do not run, and a worker that runs one is killed. Returns whether the
    /// job was unfinished. Does not wait.
    fn cancel(&self, job: JobId) -> bool;

    /// Cancels what has not begun of a job; what runs ends by itself. Returns whether all of the job was cancelled, so
    /// that nothing of it runs. Does not wait.
    fn cancel_pending(&self, job: JobId) -> bool;

    /// As [`cancel_pending`](Self::cancel_pending), for all jobs at once.
    fn cancel_all_pending(&self);

    /// Releases a job: its holder reads no more of it.
    fn abandon(&self, job: JobId, leftover: Leftover);

    /// How many items may be in flight at once, for a job whose input is drawn as its outcomes are consumed.
    ///
    /// Also called: backpressure.
    fn window(&self, job: JobId) -> u64;

    /// Why the pool takes no more jobs; `None` if it does.
    fn refusal(&self) -> Option<PoolError>;

    /// A new buffer to encode items into.
    fn output(&self) -> Output;

    /// A new buffer for a value that goes to all workers.
    fn output_with_own_files(&self) -> Output;

    /// A number that no other context of this pool has.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    fn new_context_id(&self) -> Result<u64, PoolError>;

    /// Whether this process made the pool.
    fn is_ours(&self) -> bool;

    /// How many workers the pool keeps at most.
    fn processes(&self) -> usize;

    /// Changes how many workers the pool keeps. Does not wait.
    ///
    /// # Errors
    ///
    /// The pool takes no more jobs.
    fn resize(&self, processes: usize) -> Result<(), PoolError>;

    /// A snapshot of workers, queue and totals. Of a forked copy, nothing.
    fn stats(&self) -> Stats;

    /// What was recorded so far; nothing if nothing is, or of a forked copy.
    fn records(&self) -> Records;

    /// How many items of a job have an outcome, and how many were submitted.
    fn counts(&self, job: JobId) -> (u64, u64);

    /// How workers are started.
    fn start_method(&self) -> StartMethod;

    /// The process ids of the workers that are alive.
    fn pids(&self) -> Vec<u32>;

    /// Takes no more jobs; what was accepted runs. Does not wait.
    fn close(&self);

    /// Ends every job, and every worker: with SIGTERM, and with SIGKILL after `grace`. Waits for the workers, at the
    /// latest until shortly after that.
    fn terminate(&self, grace: Duration);

    /// Waits until the workers are gone and the callbacks have run, and releases everything that the pool holds.
    /// Returns whether that is done; `false` only with a deadline.
    ///
    /// # Errors
    ///
    /// The pool is neither closed nor ended; this is its callback thread, or a forked copy; the pool broke; or a worker
    /// outlived SIGKILL.
    fn join(&self, deadline: Option<Instant>) -> Result<bool, PoolError>;

    /// Terminates, and releases everything that the pool holds, in bounded time: threads that do not leave are left
    /// behind.
    fn shut_down(&self);
}
