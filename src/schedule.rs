//! Who does what next. Decides; does nothing: no process, no descriptor, no clock of its own.
//!
//! The engine reports what happened by calling a method, and carries out the [`Action`]s that are then waiting in
//! [`Schedule::next_action`]. The rules:
//!
//! - **FIFO per worker.** A worker runs its frames in the order sent, and answers item by item. So the parent always
//!   knows what a worker holds, and at its death exactly one item at most was running: the first unanswered one.
//! - **Round robin between jobs**, first in first out inside one: a long `map` never starves a short `apply`.
//! - **Prefetch is measured.** A worker is given frames ahead only while the time of what it holds is estimated below
//!   [`BACKLOG_NS`]. If the estimate was wrong and somebody is idle, the unread frames are recalled.
//! - **Busy workers never exceed `processes`**, though a replacement is started before the old worker has left.
//! - **A start that fails counts; a worker that got ready wipes the count.** Deaths in the middle of work never count.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::batch::ChunkSize;
use crate::batch::JobId;
use crate::batch::Span;
use crate::load::FinishedFrame;
use crate::load::FrameNumber;
use crate::load::ItemOf;
use crate::load::Load;
use crate::queue::Queue;
use crate::restarts::Ending;
use crate::restarts::Restarts;

/// The work a worker may have ahead of it, as far as we can tell: enough to hide a hand-over between two sleepers.
const BACKLOG_NS: u64 = 200_000;
/// Frames in flight to one worker, however short they are.
const FRAMES_MAX: usize = 64;
/// How long a worker with unread frames may be silent while another is idle, before they are recalled.
const RECALL_AFTER: Duration = Duration::from_millis(1);
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Ready,
    /// Told to stop: runs what it holds and leaves. Its replacement is already on its way.
    Retiring,
}

#[derive(Debug)]
struct Worker {
    stage: Stage,
    load: Load,
    /// Its road took no more; cleared by the next answer or when the road says it has room.
    road_full: bool,
}

impl Worker {
    fn new(tasks_max: Option<u64>) -> Self {
        Self { stage: Stage::Starting, load: Load::new(tasks_max), road_full: false }
    }
}

#[derive(Clone, Copy, Debug)]
enum End {
    Front,
    Back,
}

/// The state of all decisions.
#[derive(Debug)]
pub(crate) struct Schedule {
    processes: usize,
    tasks_max: Option<u64>,
    phase: Phase,
    jobs: BTreeMap<JobId, Queue>,
    /// Jobs that have queued spans, each once, the next to be served first.
    rotation: VecDeque<JobId>,
    workers: BTreeMap<WorkerId, Worker>,
    /// Starts asked for that have neither become a worker nor failed.
    starts_pending: usize,
    restarts: Restarts,
    /// Jobs that will still submit, whatever `close` says: calls that are blocked in `map`.
    feeding: usize,
    actions: VecDeque<Action>,
    /// Work of cancelled jobs, for the engine to settle.
    dropped: Vec<Span>,
    broken: bool,
}

impl Schedule {
    /// The engine is about to start `processes` workers, unasked.
    pub(crate) fn new(processes: usize, tasks_max: Option<u64>) -> Self {
        Self {
            processes,
            tasks_max,
            phase: Phase::Running,
            jobs: BTreeMap::new(),
            rotation: VecDeque::new(),
            workers: BTreeMap::new(),
            starts_pending: processes,
            restarts: Restarts::default(),
            feeding: 0,
            actions: VecDeque::new(),
            dropped: Vec::new(),
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
        let before = self.jobs.insert(job, Queue::new(chunk));
        assert!(before.is_none(), "a job is opened once");
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
        self.enqueue(span, End::Back);
        self.go_on(now);
    }

    /// Nothing more of `job` is handed out; what was queued is [`dropped`](Self::take_dropped).
    pub(crate) fn cancel(&mut self, job: JobId, now: Instant) {
        self.rotation.retain(|&queued| queued != job);
        if let Some(queue) = self.jobs.get_mut(&job) {
            queue.cancelled = true;
            queue.queued_items = 0;
            self.dropped.extend(queue.spans.drain(..));
        }
        self.balance(now);
    }

    /// Work of cancelled jobs that will never be handed out, since the last call.
    pub(crate) fn take_dropped(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.dropped)
    }

    /// The job has every outcome it will get: forget it.
    pub(crate) fn remove(&mut self, job: JobId) {
        if let Some(queue) = self.jobs.remove(&job) {
            assert!(queue.spans.is_empty(), "a job ends when its queue is empty");
        }
    }

    /// How many items of the job may be under way at once when its input is drawn as it goes: what keeps every worker
    /// busy, with as much again behind it. Few while items are long or unknown, more when they take microseconds.
    pub(crate) fn window(&self, job: JobId) -> u64 {
        let Some(queue) = self.jobs.get(&job) else { return 1 };
        let chunk = u64::from(queue.frame_items());
        let frame_ns = queue.item_ns.map_or(u64::MAX, |item_ns| item_ns.saturating_mul(chunk)).max(1);
        let frames = (BACKLOG_NS / frame_ns).clamp(1, FRAMES_MAX as u64);
        2 * self.processes as u64 * frames * chunk
    }

    // ---- workers -------------------------------------------------------------------------------------------------

    /// A start that was asked for has become a process.
    pub(crate) fn started(&mut self, worker: WorkerId) {
        self.starts_pending = self.starts_pending.checked_sub(1).expect("a start is answered once");
        let before = self.workers.insert(worker, Worker::new(self.tasks_max));
        assert!(before.is_none(), "a worker starts once");
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
        let Some(member) = self.workers.get_mut(&worker) else { return };
        if member.stage == Stage::Starting {
            member.stage = Stage::Ready;
        }
        self.go_on(now);
    }

    /// Whether the worker holds nothing that was sent before this frame.
    pub(crate) fn holds_only(&self, worker: WorkerId, number: FrameNumber) -> bool {
        self.workers.get(&worker).is_some_and(|member| member.load.front() == Some(number))
    }

    /// The item that the worker must answer next.
    pub(crate) fn running(&self, worker: WorkerId) -> Option<ItemOf> {
        self.workers.get(&worker)?.load.running()
    }

    /// The worker has answered its next item.
    pub(crate) fn settled(&mut self, worker: WorkerId, now: Instant) {
        let member = self.workers.get_mut(&worker).expect("an answer comes from a worker");
        member.road_full = false;
        if let Some(FinishedFrame { job, items, elapsed_ns }) = member.load.settle(now)
            && let Some(queue) = self.jobs.get_mut(&job)
        {
            queue.measure(elapsed_ns, items);
        }
    }

    /// After a run of [`settled`](Self::settled): gives the worker more, and others what is due.
    pub(crate) fn after_settled(&mut self, now: Instant) {
        self.go_on(now);
    }

    /// The road did not take the last frame decided for the worker, nor will it take what was decided after it: all
    /// of that goes back to the front of its queues.
    pub(crate) fn send_refused(&mut self, worker: WorkerId) {
        let mut refused = 1;
        self.actions.retain(|action| match action {
            Action::Send(to, ..) if *to == worker => {
                refused += 1;
                false
            }
            Action::Stop(to) => *to != worker,
            _ => true,
        });
        let Some(member) = self.workers.get_mut(&worker) else { return };
        let returned = member.load.take_last(refused);
        member.road_full = true;
        if member.stage == Stage::Retiring && member.load.allowance() != Some(0) {
            // It stays, so the replacement that was decided on with its retirement is not needed.
            member.stage = Stage::Ready;
            self.take_back_start();
        }
        self.put_back(returned);
    }

    /// The road to the worker has room again.
    pub(crate) fn road_has_room(&mut self, worker: WorkerId, now: Instant) {
        if let Some(member) = self.workers.get_mut(&worker) {
            member.road_full = false;
        }
        self.go_on(now);
    }

    /// These frames were taken back before the worker had read them. They need not be the last ones: the worker may
    /// read one while the parent takes the next.
    pub(crate) fn recalled(&mut self, worker: WorkerId, unread: &[FrameNumber], now: Instant) {
        let Some(member) = self.workers.get_mut(&worker) else { return };
        let returned = member.load.take_unread(unread);
        if member.load.is_empty() {
            // No answer will come to say that the road has room.
            member.road_full = false;
        }
        self.put_back(returned);
        self.go_on(now);
    }

    /// The worker is gone, its answers are all in, and these frames never reached it. Returns the item that it was
    /// running, if any.
    pub(crate) fn exited(
        &mut self,
        worker: WorkerId,
        unread: &[FrameNumber],
        ending: Ending,
        now: Instant,
    ) -> Option<ItemOf> {
        let mut member = self.workers.remove(&worker)?;
        let returned = member.load.take_unread(unread);
        // What is left had been read. The worker runs in order, so only the very first item can have begun.
        let (lost, not_begun) = member.load.into_lost();
        self.put_back(returned);
        self.put_back(not_begun);
        if member.stage == Stage::Starting && self.phase != Phase::Ended {
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
        self.jobs.clear();
        self.rotation.clear();
        self.actions.clear();
        for member in self.workers.values_mut() {
            member.load = Load::new(None);
        }
    }

    /// Whether no worker is left, none is on its way, and no work waits for one.
    pub(crate) fn is_at_rest(&self) -> bool {
        let workers_gone = self.starts_pending == 0 && self.workers.is_empty();
        let work_gone = self.phase == Phase::Ended || (self.rotation.is_empty() && self.feeding == 0);
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
        let recall_at = self.recall_candidate().map(|(_, silent_since)| silent_since + RECALL_AFTER);
        [recall_at, self.restarts.timer()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        if let Some((worker, silent_since)) = self.recall_candidate()
            && now >= silent_since + RECALL_AFTER
        {
            self.actions.push_back(Action::Recall(worker));
            if let Some(member) = self.workers.get_mut(&worker) {
                // Counted from here, so that a recall that brings nothing is not asked again at once.
                member.load.restart_clock(now);
            }
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
        if self.phase == Phase::Ended || self.rotation.is_empty() {
            return;
        }
        let ready: Vec<WorkerId> =
            self.workers.iter().filter(|(_, w)| w.stage == Stage::Ready && !w.road_full).map(|(&id, _)| id).collect();
        let mut busy = self.busy();
        for &worker in &ready {
            if busy < self.processes && self.workers[&worker].load.is_empty() && self.hand_over(worker, now) {
                busy += 1;
            }
        }
        for &worker in &ready {
            while self.wants_ahead(worker) && self.hand_over(worker, now) {}
        }
    }

    /// Whether a busy worker should be given the next frame before it asks for it.
    fn wants_ahead(&self, worker: WorkerId) -> bool {
        let member = &self.workers[&worker];
        let Some(queue) = self.rotation.front().map(|job| &self.jobs[job]) else { return false };
        let Some(item_ns) = queue.item_ns else { return false };
        let frame_ns = item_ns.saturating_mul(u64::from(queue.frame_items()));
        member.stage == Stage::Ready
            && !member.load.is_empty()
            && member.load.frames() < FRAMES_MAX
            && member.load.backlog_ns().saturating_add(frame_ns) <= BACKLOG_NS
    }

    /// Sends the next frame to the worker; false if there is none.
    fn hand_over(&mut self, worker: WorkerId, now: Instant) -> bool {
        let Some(job) = self.rotation.pop_front() else { return false };
        let member = self.workers.get_mut(&worker).expect("assign names live workers");
        let queue = self.jobs.get_mut(&job).expect("the rotation names open jobs");
        let span = queue.cut(queue.items_max(self.processes).min(member.load.allowance().unwrap_or(u64::MAX)).max(1));
        let item_ns = queue.item_ns.unwrap_or(BACKLOG_NS);
        if !queue.spans.is_empty() {
            self.rotation.push_back(job);
        }
        let number = member.load.push(span.clone(), item_ns, now);
        let spent = member.load.allowance() == Some(0);
        self.actions.push_back(Action::Send(worker, span, number));
        if spent {
            self.retire(worker);
        }
        true
    }

    fn retire(&mut self, worker: WorkerId) {
        let member = self.workers.get_mut(&worker).expect("only a live worker retires");
        member.stage = Stage::Retiring;
        self.actions.push_back(Action::Stop(worker));
    }

    /// Brings the number of workers to what the work and the phase ask for.
    fn balance(&mut self, now: Instant) {
        if self.phase == Phase::Closing && self.rotation.is_empty() && self.feeding == 0 {
            let ready: Vec<WorkerId> =
                self.workers.iter().filter(|(_, w)| w.stage == Stage::Ready).map(|(&id, _)| id).collect();
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

    /// Workers that hold work.
    fn busy(&self) -> usize {
        self.workers.values().filter(|w| !w.load.is_empty()).count()
    }

    /// Workers that stay, and starts that are on their way.
    fn alive(&self) -> usize {
        self.workers.values().filter(|w| w.stage != Stage::Retiring).count() + self.starts_pending
    }

    fn wanted(&self) -> usize {
        match self.phase {
            Phase::Running => self.processes,
            Phase::Closing if self.feeding > 0 => self.processes,
            Phase::Closing => {
                let queued: u64 = self.jobs.values().map(|queue| queue.queued_items).sum();
                usize::try_from(queued).unwrap_or(usize::MAX).min(self.processes)
            }
            Phase::Ended => 0,
        }
    }

    fn count_start_failure(&mut self, ending: Ending, now: Instant) {
        self.restarts.failed(ending, now);
        // A worker that still serves keeps the pool alive, however badly replacements fare.
        let serving = self.workers.values().any(|worker| worker.stage == Stage::Ready);
        if self.restarts.are_too_many(self.processes) && !serving && !self.broken && self.wanted() > 0 {
            self.broken = true;
            self.actions.push_back(Action::Break);
        }
    }

    /// The worker from which unread frames should come back, and since when it has been silent.
    ///
    /// Nobody, unless another may take them up at once: a replacement that waits for its predecessor to end may not.
    fn recall_candidate(&self) -> Option<(WorkerId, Instant)> {
        let somebody_idle = self.workers.values().any(|w| w.stage == Stage::Ready && w.load.is_empty());
        if !self.rotation.is_empty() || !somebody_idle || self.busy() >= self.processes {
            return None;
        }
        self.workers
            .iter()
            .filter(|(_, w)| w.load.frames() > 1)
            .filter_map(|(&id, w)| Some((id, w.load.silent_since()?)))
            .min_by_key(|&(_, silent_since)| silent_since)
    }

    /// What a worker no longer holds returns to the front of its queues, in order.
    fn put_back(&mut self, spans: Vec<Span>) {
        if self.phase == Phase::Ended {
            return;
        }
        for span in spans.into_iter().rev() {
            self.enqueue(span, End::Front);
        }
    }

    fn enqueue(&mut self, span: Span, end: End) {
        let job = span.batch.job;
        let queue = self.jobs.get_mut(&job).expect("work belongs to an open job");
        if queue.cancelled {
            self.dropped.push(span);
            return;
        }
        if queue.spans.is_empty() {
            match end {
                End::Front => self.rotation.push_front(job),
                End::Back => self.rotation.push_back(job),
            }
        }
        queue.queued_items += u64::from(span.len());
        match end {
            End::Front => queue.spans.push_front(span),
            End::Back => queue.spans.push_back(span),
        }
    }
}

#[cfg(test)]
mod walk;
