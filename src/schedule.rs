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
//! - **A start that fails counts; a worker that got ready wipes the count.** Deaths in the middle of work never count.

use std::collections::VecDeque;
use std::time::Instant;

use crate::batch::ChunkSize;
use crate::batch::JobId;
use crate::batch::Span;
use crate::load::FinishedFrame;
use crate::load::FrameNumber;
use crate::load::Grain;
use crate::load::ItemOf;
use crate::load::Unbegun;
use crate::queue::Queue;
use crate::restarts::Ending;
use crate::restarts::Restarts;
use crate::schedule::backlog::Backlog;
use crate::schedule::crew::Crew;
use crate::schedule::crew::Stage;
use crate::schedule::crew::Worker;

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
enum Phase {
    Running,
    /// Runs what was accepted, then stops everybody.
    Closing,
    /// Runs nothing more.
    Ended,
}

/// The state of all decisions.
#[derive(Debug)]
pub(crate) struct Schedule {
    processes: usize,
    tasks_max: Option<u64>,
    grain: Grain,
    phase: Phase,
    backlog: Backlog,
    crew: Crew,
    /// Starts asked for that have neither become a worker nor failed.
    starts_pending: usize,
    restarts: Restarts,
    /// Jobs that will still submit, whatever `close` says: calls that are blocked in `map`.
    feeding: usize,
    actions: VecDeque<Action>,
    broken: bool,
}

impl Schedule {
    /// The engine is about to start `processes` workers, unasked.
    pub(crate) fn new(processes: usize, tasks_max: Option<u64>, grain: Grain) -> Self {
        Self {
            processes,
            tasks_max,
            grain,
            phase: Phase::Running,
            backlog: Backlog::default(),
            crew: Crew::default(),
            starts_pending: processes,
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
    pub(crate) fn open(&mut self, job: JobId, chunk: ChunkSize, feeding: bool) {
        self.backlog.open(job, chunk);
        self.feeding += usize::from(feeding);
    }

    /// A feeding job has submitted its last item.
    pub(crate) fn fed(&mut self, now: Instant) {
        self.feeding = self.feeding.checked_sub(1).expect("only a feeding job ends feeding");
        self.balance(now);
    }

    /// Work arrives at the back of its job's queue.
    pub(crate) fn submit(&mut self, span: Span, now: Instant) {
        if self.phase == Phase::Ended {
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
        2 * self.processes as u64 * frames * chunk
    }

    // ---- workers -------------------------------------------------------------------------------------------------

    /// A start that was asked for has become a process.
    pub(crate) fn started(&mut self, worker: WorkerId, now: Instant) {
        self.starts_pending = self.starts_pending.checked_sub(1).expect("a start is answered once");
        self.crew.insert(worker, Worker::new(self.tasks_max, now));
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
        let Some(member) = self.crew.get_mut(worker) else { return };
        if member.stage == Stage::Starting {
            member.stage = Stage::Ready;
            member.idle_since = now;
        }
        self.go_on(now);
    }

    /// Whether the worker holds nothing that was sent before this frame.
    pub(crate) fn holds_only(&self, worker: WorkerId, number: FrameNumber) -> bool {
        self.crew.get(worker).is_some_and(|member| member.load.front() == Some(number))
    }

    /// The item that the worker must answer next.
    pub(crate) fn running(&self, worker: WorkerId) -> Option<ItemOf> {
        self.crew.get(worker)?.load.running()
    }

    /// How many workers hold work.
    pub(crate) fn busy(&self) -> usize {
        self.crew.busy()
    }

    /// The worker has answered its next items, all of one frame; tells of the frame if they were its last.
    pub(crate) fn settled(&mut self, worker: WorkerId, items: u32, now: Instant) -> Option<FinishedFrame> {
        let member = self.crew.member(worker);
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
        let is_leaving = self.crew.get(worker).is_some_and(|member| member.stage == Stage::Leaving);
        self.actions.retain(|action| match action {
            Action::Send(to, ..) if *to == worker => {
                refused += 1;
                false
            }
            Action::Stop(to) => *to != worker || is_leaving,
            _ => true,
        });
        if self.phase == Phase::Ended {
            return;
        }
        let Some(member) = self.crew.get_mut(worker) else { return };
        let returned = member.load.take_last(refused, items_taken);
        member.road_full = true;
        if member.stage == Stage::Retiring && member.load.allowance() != Some(0) {
            // It stays, so the replacement that was decided on with its retirement is not needed.
            member.stage = Stage::Ready;
            self.take_back_start();
        }
        self.backlog.put_back(returned);
    }

    /// The road to the worker has room again.
    pub(crate) fn road_has_room(&mut self, worker: WorkerId, now: Instant) {
        self.note_room(worker);
        self.go_on(now);
    }

    /// As [`road_has_room`](Self::road_has_room), but decides nothing yet.
    pub(crate) fn note_room(&mut self, worker: WorkerId) {
        if let Some(member) = self.crew.get_mut(worker) {
            member.road_full = false;
        }
    }

    /// How many items the worker holds.
    pub(crate) fn items_held(&self, worker: WorkerId) -> u64 {
        self.crew.get(worker).map_or(0, |member| member.load.items())
    }

    /// This was taken back before the worker had begun it. Frames need not be the last ones: the worker may read one
    /// while the parent takes the next.
    pub(crate) fn recalled(&mut self, worker: WorkerId, unbegun: Unbegun<'_>, now: Instant) {
        if self.phase == Phase::Ended {
            return;
        }
        let Some(member) = self.crew.get_mut(worker) else { return };
        let returned = member.load.take_unbegun(unbegun);
        if member.load.is_empty() {
            // No answer will come to say that the road has room.
            member.road_full = false;
            member.idle_since = now;
        }
        self.backlog.put_back(returned);
        self.go_on(now);
    }

    /// The worker may not be trusted with more: it ends what it is running and leaves.
    pub(crate) fn dismiss(&mut self, worker: WorkerId, now: Instant) {
        if self.phase == Phase::Ended {
            return;
        }
        let Some(member) = self.crew.get_mut(worker) else { return };
        let told_already = member.stage == Stage::Retiring;
        if matches!(std::mem::replace(&mut member.stage, Stage::Leaving), Stage::Leaving) {
            return;
        }
        self.actions.push_back(Action::Recall(worker));
        if !told_already {
            self.actions.push_back(Action::Stop(worker));
        }
        self.go_on(now);
    }

    /// The worker is gone, its answers are all in, and this it never began. Returns what it may have been running: one
    /// item at most, unless it left no sense behind.
    pub(crate) fn exited(
        &mut self,
        worker: WorkerId,
        unbegun: Unbegun<'_>,
        in_its_senses: bool,
        ending: Ending,
        now: Instant,
    ) -> Vec<Span> {
        let Some(mut member) = self.crew.remove(worker) else { return Vec::new() };
        if self.phase == Phase::Ended {
            // What it held was settled with the pool.
            return Vec::new();
        }
        let only_the_first = matches!(unbegun, Unbegun::Frames(_)) && in_its_senses;
        let returned = member.load.take_unbegun(unbegun);
        let (lost, not_begun) = member.load.into_lost(only_the_first);
        self.backlog.put_back(returned);
        self.backlog.put_back(not_begun);
        if member.stage == Stage::Starting {
            self.count_start_failure(ending, now);
        }
        self.go_on(now);
        lost
    }

    // ---- the life of the pool ------------------------------------------------------------------------------------

    /// No more jobs will be opened; what is accepted runs.
    pub(crate) fn close(&mut self, now: Instant) {
        if self.phase == Phase::Running {
            self.phase = Phase::Closing;
        }
        self.balance(now);
    }

    /// Nothing more runs. The engine kills the workers and settles what they held.
    pub(crate) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.backlog.clear();
        self.actions.clear();
        for member in self.crew.all_mut() {
            member.load.clear();
        }
    }

    /// Whether no worker is left, none is on its way, and no work waits for one.
    pub(crate) fn is_at_rest(&self) -> bool {
        let workers_gone = self.starts_pending == 0 && self.crew.is_empty();
        let work_gone = self.phase == Phase::Ended || (self.backlog.is_empty() && self.feeding == 0);
        self.phase != Phase::Running && workers_gone && work_gone
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
        [recall_at, self.restarts.timer()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        if let Some((worker, due)) = self.recall()
            && now >= due
        {
            self.actions.push_back(Action::Recall(worker));
            self.crew.member(worker).recalled(now);
        }
        self.balance(now);
    }

    // ---- decisions -----------------------------------------------------------------------------------------------

    /// Work may have come, or a worker to do it.
    fn go_on(&mut self, now: Instant) {
        self.assign(now);
        self.balance(now);
    }

    /// Hands queued work to workers: first one frame to everybody who has none, then ahead.
    fn assign(&mut self, now: Instant) {
        if self.phase == Phase::Ended || self.backlog.is_empty() {
            return;
        }
        let ready = self.crew.ids(|worker| worker.stage == Stage::Ready && !worker.road_full);
        let mut busy = self.crew.busy();
        for &worker in &ready {
            if busy < self.processes && self.crew.member(worker).load.is_empty() && self.hand_over(worker, now) {
                busy += 1;
            }
        }
        for &worker in &ready {
            while self.wants_ahead(worker) && self.hand_over(worker, now) {}
        }
    }

    /// Whether a busy worker should be given the next frame before it asks for it.
    fn wants_ahead(&self, worker: WorkerId) -> bool {
        let Some(member) = self.crew.get(worker) else { return false };
        let Some(queue) = self.backlog.front() else { return false };
        let Some(item_ns) = queue.item_ns else { return false };
        let frame_ns = item_ns.saturating_mul(u64::from(queue.frame_items(self.grain)));
        member.stage == Stage::Ready
            && !member.road_full
            && !member.load.is_empty()
            && member.load.frames() < FRAMES_MAX
            && member.load.backlog_ns().saturating_add(frame_ns) <= BACKLOG_NS
    }

    /// Sends the next frame to the worker; false if there is none.
    fn hand_over(&mut self, worker: WorkerId, now: Instant) -> bool {
        let allowance = self.crew.member(worker).load.allowance().unwrap_or(u64::MAX);
        let items_max = |queue: &Queue| queue.items_max(self.processes, self.grain).min(allowance);
        let Some((span, item_ns)) = self.backlog.cut(items_max) else { return false };
        let member = self.crew.member(worker);
        let number = member.load.push(span.clone(), item_ns.unwrap_or(BACKLOG_NS), now);
        let spent = member.load.allowance() == Some(0);
        self.actions.push_back(Action::Send(worker, span, number));
        if spent {
            self.retire(worker);
        }
        true
    }

    fn retire(&mut self, worker: WorkerId) {
        self.crew.member(worker).stage = Stage::Retiring;
        self.actions.push_back(Action::Stop(worker));
    }

    /// Brings the number of workers to what the work and the phase ask for.
    fn balance(&mut self, now: Instant) {
        if self.phase == Phase::Closing && self.backlog.is_empty() && self.feeding == 0 {
            let ready = self.crew.ids(|worker| worker.stage == Stage::Ready);
            ready.into_iter().for_each(|worker| self.retire(worker));
        }
        if self.restarts.again_at(now).is_some() {
            return;
        }
        self.restarts.clear_timer();
        for _ in self.alive()..self.wanted() {
            self.starts_pending += 1;
            self.actions.push_back(Action::Start);
        }
    }

    /// Drops a `Start` that is decided and not carried out yet, if there are workers enough without it.
    fn take_back_start(&mut self) {
        let decided = self.actions.iter().rposition(|action| matches!(action, Action::Start));
        if let Some(position) = decided
            && self.alive() > self.wanted()
        {
            self.actions.remove(position);
            self.starts_pending -= 1;
        }
    }

    /// Workers that stay, and starts that are on their way.
    fn alive(&self) -> usize {
        self.crew.staying() + self.starts_pending
    }

    fn wanted(&self) -> usize {
        match self.phase {
            Phase::Running => self.processes,
            Phase::Closing if self.feeding > 0 => self.processes,
            Phase::Closing => {
                let queued = self.backlog.queued_items();
                usize::try_from(queued).unwrap_or(usize::MAX).min(self.processes)
            }
            Phase::Ended => 0,
        }
    }

    fn count_start_failure(&mut self, ending: Ending, now: Instant) {
        self.restarts.failed(ending, now);
        // A worker that still serves keeps the pool alive, however badly replacements fare.
        let serving = self.crew.all().any(|worker| worker.stage == Stage::Ready);
        if self.restarts.are_too_many(self.processes) && !serving && !self.broken && self.wanted() > 0 {
            self.broken = true;
            self.actions.push_back(Action::Break);
        }
    }

    /// The worker from which work should come back, and when. Nobody, unless another may take it up at once: a
    /// replacement that waits for its predecessor to end may not.
    fn recall(&self) -> Option<(WorkerId, Instant)> {
        match self.backlog.is_empty() && self.crew.busy() < self.processes {
            true => self.crew.recall(),
            false => None,
        }
    }
}

mod backlog;
mod crew;
#[cfg(test)]
mod walk;
