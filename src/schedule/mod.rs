//! Who does what next. Decides; does nothing: no process, no descriptor, no clock of its own.
//!
//! The engine reports what happened by calling a method, and carries out the [`Action`]s that are then waiting in
//! [`Schedule::next_action`]. The rules:
//!
//! - **FIFO per worker.** A worker runs its frames in the order sent, and answers item by item. So the parent always
//!   knows what a worker holds, and at its death exactly one item at most was running: the first unanswered one.
//! - **Round robin between jobs**, first in first out inside one: a long `map` never starves a short `apply`.
//! - **Prefetch is measured.** A worker is given work ahead only while the time of what it holds is estimated below
//!   [`BACKLOG_NS`]. If the estimate was wrong and somebody is idle, what it has not begun is recalled.
//! - **Busy workers never exceed `processes`**, though a replacement is started before the old worker has left.
//! - **An item is handed out once**, unless its call asks for more tries: what a worker may have begun when it died is
//!   lost, and what it cannot have begun goes back to the front of its queue.
//! - **A start that fails counts; a worker that got ready wipes the count.** Deaths in the middle of work never count.

pub(crate) mod load;
mod queue;
pub(crate) mod restarts;
pub(crate) mod time_limit;

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::schedule::backlog::Backlog;
use crate::schedule::load::FinishedFrame;
use crate::schedule::load::ItemOf;
use crate::schedule::restarts::Ending;
use crate::schedule::restarts::Restarts;
use crate::schedule::roster::Roster;
use crate::schedule::roster::Stage;
use crate::schedule::roster::Worker;
use crate::schedule::size::Size;
use crate::schedule::time_limit::TimeVerdict;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;
use crate::work::progress::Progress;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::Grain;
use crate::work::unbegun::Unbegun;

/// The work a worker may have ahead of it, as far as we can tell: enough to hide a hand-over between two sleepers.
const BACKLOG_NS: u64 = 200_000;
/// Frames in flight to one worker, however short they are.
const FRAMES_MAX: usize = 64;
/// One worker process, for the life of the pool: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerId(pub(crate) u64);

/// What the engine must now do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Start one more worker process.
    Start,
    /// Put this work on the road to the worker.
    Send(WorkerId, Span, FrameNumber),
    /// Tell the worker to leave once it has run what it holds.
    Stop(WorkerId),
    /// Take back what the worker has not read.
    Recall(WorkerId),
    /// Too many starts have failed in a row: give up.
    Break,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifecycle {
    Running,
    /// Runs what was accepted, then stops everybody.
    Closing,
    /// Runs nothing more.
    Ended,
}

/// How a pool keeps its workers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolPolicy {
    pub(crate) size: Size,
    /// Items that one worker may be given.
    pub(crate) tasks_max: Option<u64>,
    /// How old a worker may get.
    pub(crate) age_max: Option<Duration>,
    pub(crate) grain: Grain,
}

/// A worker's end.
#[derive(Clone, Debug)]
pub(crate) struct Departure {
    /// What it had not begun.
    pub(crate) unbegun: Unbegun,
    /// Whether what it left behind makes sense: if not, all that it held may have begun.
    pub(crate) in_its_senses: bool,
    /// Whether what is lost with it may be run again, if its call asks for that.
    pub(crate) may_retry: bool,
    pub(crate) ending: Ending,
}

/// An item that was lost with its worker and is not run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) item: ItemOf,
    /// How many workers it was lost with.
    pub(crate) workers: u32,
}

/// The state of all decisions.
#[derive(Debug)]
pub(crate) struct Schedule {
    size: Size,
    tasks_max: Option<u64>,
    age_max: Option<Duration>,
    grain: Grain,
    phase: Lifecycle,
    backlog: Backlog,
    roster: Roster,
    /// Starts asked for that have neither become a worker nor failed.
    starts_pending: usize,
    restarts: Restarts,
    /// Jobs that will still submit, whatever `close` says: calls that are blocked in `map`.
    feeding: usize,
    actions: VecDeque<Action>,
    broken: bool,
}

impl Schedule {
    /// The engine is about to start as many workers as are wanted, unasked.
    pub(crate) fn new(policy: PoolPolicy) -> Self {
        let PoolPolicy { size, tasks_max, age_max, grain } = policy;
        Self {
            size,
            tasks_max,
            age_max,
            grain,
            phase: Lifecycle::Running,
            backlog: Backlog::default(),
            roster: Roster::default(),
            starts_pending: size.wanted(),
            restarts: Restarts::default(),
            feeding: 0,
            actions: VecDeque::new(),
            broken: false,
        }
    }

    /// The next thing to do, oldest first.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // ---- jobs ----------------------------------------------------------------------------------------------------

    /// A job begins. `feeding` jobs hold `close` back until [`fed`](Self::fed).
    pub(crate) fn open(&mut self, job: JobId, policy: JobPolicy, feeding: bool) {
        self.backlog.open(job, policy);
        self.feeding += usize::from(feeding);
    }

    /// A feeding job has submitted its last item.
    pub(crate) fn fed(&mut self, now: Instant) {
        self.feeding = self.feeding.checked_sub(1).expect("only a feeding job ends feeding");
        self.balance(now);
    }

    /// Work arrives at the back of its job's queue.
    pub(crate) fn submit(&mut self, span: Span, now: Instant) {
        if self.phase == Lifecycle::Ended {
            return;
        }
        self.backlog.push(span);
        self.go_on(now);
    }

    /// Nothing more of `job` is handed out; what was queued is [`dropped`](Self::take_dropped).
    pub(crate) fn cancel(&mut self, job: JobId, now: Instant) {
        self.backlog.cancel(job);
        self.balance(now);
    }

    /// Work of cancelled jobs that will never be handed out, since the last call.
    pub(crate) fn take_dropped(&mut self) -> Vec<Span> {
        self.backlog.take_dropped()
    }

    /// The job has every outcome it will get: forget it.
    pub(crate) fn remove(&mut self, job: JobId) {
        self.backlog.remove(job);
    }

    /// How many items of the job may be under way at once when its input is drawn as it goes: what keeps every worker
    /// busy, with as much again behind it. Few while items are long or unknown, more when they take microseconds.
    pub(crate) fn window(&self, job: JobId) -> u64 {
        let Some(queue) = self.backlog.queue(job) else { return 1 };
        let chunk = u64::from(queue.frame_items(self.grain));
        let frame_ns = queue.item_ns.map_or(u64::MAX, |item_ns| item_ns.saturating_mul(chunk)).max(1);
        let frames = (BACKLOG_NS / frame_ns).clamp(1, FRAMES_MAX as u64);
        2 * self.size.most() as u64 * frames * chunk
    }

    // ---- workers -------------------------------------------------------------------------------------------------

    /// A start that was asked for has become a process.
    pub(crate) fn started(&mut self, worker: WorkerId, now: Instant) {
        self.starts_pending = self.starts_pending.checked_sub(1).expect("a start is answered once");
        self.roster.insert(worker, Worker::new(self.tasks_max, now));
        // The pool may have been made smaller meanwhile.
        self.trim();
    }

    /// A start that was asked for has failed before there was a process.
    pub(crate) fn start_failed(&mut self, now: Instant) {
        self.starts_pending = self.starts_pending.checked_sub(1).expect("a start is answered once");
        self.count_start_failure(Ending::Other, now);
        self.balance(now);
    }

    /// The worker has run its initializer and waits for work.
    pub(crate) fn ready(&mut self, worker: WorkerId, now: Instant) {
        self.restarts.succeeded();
        let Some(member) = self.roster.get_mut(worker) else { return };
        if member.stage == Stage::Starting {
            member.stage = Stage::Ready;
            member.ready_since = now;
            member.idle_since = now;
        }
        self.go_on(now);
    }

    /// Whether the worker holds nothing that was sent before this frame.
    pub(crate) fn holds_only(&self, worker: WorkerId, number: FrameNumber) -> bool {
        self.roster.get(worker).is_some_and(|member| member.load.front() == Some(number))
    }

    /// Whether nothing has been decided that makes the worker leave.
    #[cfg(test)]
    fn is_staying(&self, worker: WorkerId) -> bool {
        self.roster.get(worker).is_some_and(|member| matches!(member.stage, Stage::Starting | Stage::Ready))
    }

    /// The item that the worker must answer next.
    pub(crate) fn running(&self, worker: WorkerId) -> Option<ItemOf> {
        self.roster.get(worker)?.load.running()
    }

    /// How many workers hold work.
    pub(crate) fn busy(&self) -> usize {
        self.roster.busy()
    }

    /// The worker has answered its next items, all of one frame; tells of the frame if they were its last.
    pub(crate) fn settled(&mut self, worker: WorkerId, items: u32, now: Instant) -> Option<FinishedFrame> {
        let member = self.roster.member(worker);
        member.road_full = false;
        let finished = member.load.settle(items, now);
        if member.load.is_empty() {
            member.idle_since = now;
        }
        finished
    }

    /// So many items of the job, or some very like them, took so long.
    pub(crate) fn measure(&mut self, job: JobId, elapsed_ns: u64, items: u32) {
        if let Some(queue) = self.backlog.queue_mut(job) {
            queue.measure(elapsed_ns, items);
        }
    }

    /// After a run of [`settled`](Self::settled): gives the worker more, and others what is due.
    pub(crate) fn after_settled(&mut self, now: Instant) {
        self.go_on(now);
    }

    /// Of the last frame decided for the worker the road took so many items only, nor will it take what was decided
    /// after it: all of that goes back to the front of its queues.
    pub(crate) fn send_refused(&mut self, worker: WorkerId, items_taken: u32) {
        let mut refused = 1;
        let is_leaving = self.roster.get(worker).is_some_and(|member| member.stage == Stage::Leaving);
        self.actions.retain(|action| match action {
            Action::Send(to, ..) if *to == worker => {
                refused += 1;
                false
            }
            Action::Stop(to) => *to != worker || is_leaving,
            _ => true,
        });
        if self.phase == Lifecycle::Ended {
            return;
        }
        let Some(member) = self.roster.get_mut(worker) else { return };
        let returned = member.load.take_last(refused, items_taken);
        member.road_full = true;
        if member.stage == Stage::Retiring && member.load.allowance() != Some(0) {
            // It stays, so the replacement that was decided on with its retirement is not needed.
            member.stage = Stage::Ready;
            self.take_back_start();
        }
        self.backlog.put_back(returned);
    }

    /// The link to the worker may have room again. Decides nothing yet.
    pub(crate) fn note_room(&mut self, worker: WorkerId) {
        if let Some(member) = self.roster.get_mut(worker) {
            member.road_full = false;
        }
    }

    /// How many items the worker holds.
    pub(crate) fn items_held(&self, worker: WorkerId) -> u64 {
        self.roster.get(worker).map_or(0, |member| member.load.items())
    }

    /// This was taken back before the worker had begun it. Frames need not be the last ones: the worker may read one
    /// while the parent takes the next.
    pub(crate) fn recalled(&mut self, worker: WorkerId, unbegun: &Unbegun, now: Instant) {
        if self.phase == Lifecycle::Ended {
            return;
        }
        let Some(member) = self.roster.get_mut(worker) else { return };
        let returned = member.load.take_unbegun(unbegun);
        if member.load.is_empty() {
            // No answer will come to say that the road has room.
            member.road_full = false;
            member.idle_since = now;
        }
        self.backlog.put_back(returned);
        self.go_on(now);
    }

    /// The worker is given nothing more: it ends what it is running and leaves.
    pub(crate) fn dismiss(&mut self, worker: WorkerId, now: Instant) {
        if self.phase != Lifecycle::Ended {
            self.let_go(worker);
            self.go_on(now);
        }
    }

    /// The pool keeps so many workers from now on.
    pub(crate) fn resize(&mut self, processes: usize, now: Instant) {
        self.size.resize(processes);
        self.trim();
        self.go_on(now);
    }

    /// How many workers the pool keeps at most.
    pub(crate) fn processes(&self) -> usize {
        self.size.most()
    }

    // ---- time limits ---------------------------------------------------------------------------------------------

    /// Workers whose item may have run for too long by now.
    pub(crate) fn checks_due(&self, now: Instant) -> Vec<WorkerId> {
        self.roster.checks_due().filter(|&(_, due)| due <= now).map(|(worker, _)| worker).collect()
    }

    /// How long the item that the worker must answer next may run, if its time is limited.
    pub(crate) fn timeout(&self, worker: WorkerId) -> Option<Duration> {
        self.roster.get(worker)?.load.timeout()
    }

    /// The worker has been looked at, and has come so far: what is to be done about its item.
    pub(crate) fn look(&mut self, worker: WorkerId, progress: Progress, now: Instant) -> TimeVerdict {
        self.roster.get_mut(worker).map_or(TimeVerdict::Wait, |member| member.load.look(progress, now))
    }

    /// The worker has done what it had to do before its next item.
    pub(crate) fn is_prepared(&mut self, worker: WorkerId, now: Instant) {
        if let Some(member) = self.roster.get_mut(worker) {
            member.load.restart_clock(now);
        }
    }

    /// Workers that hold items of the job.
    pub(crate) fn holders(&self, job: JobId) -> Vec<WorkerId> {
        self.roster.ids(|worker| worker.load.holds(job))
    }

    /// The worker is gone, and its answers are all in. Returns what is lost with it: what it may have been running,
    /// one item at most unless it left no sense behind, if that is not run again.
    pub(crate) fn exited(&mut self, worker: WorkerId, departure: Departure, now: Instant) -> Vec<Lost> {
        let Departure { unbegun, in_its_senses, may_retry, ending } = departure;
        let Some(mut member) = self.roster.remove(worker) else { return Vec::new() };
        if self.phase == Lifecycle::Ended {
            // What it held was settled with the pool.
            return Vec::new();
        }
        let only_the_first = matches!(unbegun, Unbegun::Frames(_)) && in_its_senses;
        let returned = member.load.take_unbegun(&unbegun);
        let (lost, not_begun) = member.load.into_lost(only_the_first);
        self.backlog.put_back(returned);
        self.backlog.put_back(not_begun);
        let lost = self.backlog.lose(lost, may_retry);
        if member.stage == Stage::Starting {
            self.count_start_failure(ending, now);
        }
        self.go_on(now);
        lost
    }

    // ---- the life of the pool ------------------------------------------------------------------------------------

    /// No more jobs will be opened; what is accepted runs.
    pub(crate) fn close(&mut self, now: Instant) {
        if self.phase == Lifecycle::Running {
            self.phase = Lifecycle::Closing;
        }
        self.balance(now);
    }

    /// Nothing more runs. The engine kills the workers and settles what they held.
    pub(crate) fn end(&mut self) {
        self.phase = Lifecycle::Ended;
        self.backlog.clear();
        self.actions.clear();
        for member in self.roster.all_mut() {
            member.load.clear();
        }
    }

    /// Whether no worker is left, none is on its way, and no work waits for one.
    pub(crate) fn is_at_rest(&self) -> bool {
        let workers_gone = self.starts_pending == 0 && self.roster.is_empty();
        let work_gone = self.phase == Lifecycle::Ended || (self.backlog.is_empty() && self.feeding == 0);
        self.phase != Lifecycle::Running && workers_gone && work_gone
    }

    /// The engine could not, or would no longer, carry out a `Start`.
    pub(crate) fn start_dropped(&mut self) {
        self.starts_pending = self.starts_pending.checked_sub(1).expect("a start is answered once");
    }

    /// How many starts have failed in a row.
    pub(crate) fn start_failures(&self) -> u32 {
        self.restarts.count()
    }

    /// When [`tick`](Self::tick) must be called at the latest, if nothing else happens.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let recall_at = self.recall().map(|(_, due)| due);
        let look_at = self.roster.checks_due().map(|(_, due)| due).min();
        let idle_until = self.idle_too_long().map(|(_, due)| due);
        let old_at = self.too_old().map(|(_, due)| due);
        let timers = [recall_at, self.restarts.timer(), look_at, idle_until, old_at, self.shortage_at()];
        timers.into_iter().flatten().min()
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        if let Some((worker, due)) = self.recall()
            && now >= due
        {
            self.actions.push_back(Action::Recall(worker));
            self.roster.member(worker).recalled(now);
        }
        while let Some((worker, _)) = self.idle_too_long().filter(|&(_, due)| due <= now) {
            self.size.shrink();
            self.let_go(worker);
        }
        while let Some((worker, _)) = self.too_old().filter(|&(_, due)| due <= now) {
            self.let_go(worker);
        }
        if self.shortage_at().is_some_and(|due| due <= now) {
            self.size.grow_to(self.size.wanted() + 1);
        }
        self.balance(now);
    }
}

mod backlog;
mod decide;
mod roster;
pub(crate) mod size;
#[cfg(any(test, fuzzing))]
pub(crate) mod walk;
