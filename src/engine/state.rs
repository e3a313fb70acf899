//! The state of a pool, and the one place that puts events in order.
//!
//! ```text
//!   submit ─▶ Schedule ─▶ Link::send ═══════════════════▶ worker
//!                 ▲                                          │
//!   Job::log ◀─ settle ◀─ Link::next ◀═══════════════════════┘
//! ```
//!
//! # Order
//!
//! - What the schedule has decided is carried out ([`carry_out`](Engine::carry_out)) before anything is taken back from
//!   a link: otherwise the count of what is unread would be of the wrong frames.
//! - At the end of a worker, its answers are taken in first, then what it had not begun is taken back, and only then the
//!   schedule is asked which item was running ([`exits`](super::exits)).

use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use log::Level;

use crate::engine::config::Config;
use crate::engine::effects::Effects;
use crate::engine::job_table::JobTable;
use crate::engine::lanes::Lanes;
use crate::engine::observer::Observer;
use crate::engine::slow::SlowWatch;
use crate::engine::watch::Watch;
use crate::engine::worker_handle::Greeting;
use crate::engine::worker_handle::WorkerHandle;
use crate::engine::workers::Ringers;
use crate::engine::workers::Workers;
use crate::error::Origin;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::schedule::Action;
use crate::schedule::Lost;
use crate::schedule::Schedule;
use crate::schedule::WorkerId;
use crate::sys::processor;
use crate::sys::processor::Cpu;
use crate::sys::spin;
use crate::sys::waiters::Waiters;
use crate::transport::link::AnswerProbe;
use crate::transport::link::Holds;
use crate::transport::link::Inbox;
use crate::transport::link::Peer;
use crate::transport::note::Sent;
use crate::values::blob::BlobCache;
use crate::values::blob::IDLE_TIME;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::jobs::Cancelled;
use crate::work::jobs::Job;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::UnbegunWork;

/// How long a worker may take between SIGTERM and SIGKILL, if the caller does not say.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// Whether the pool takes tasks.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Running,
    Closed,
    /// Every later submission gets this error.
    Ended(PoolError),
}

/// All state of a pool.
pub(crate) struct Engine {
    pub(crate) phase: Phase,
    pub(crate) effects: Effects,
    pub(super) schedule: Schedule,
    pub(super) jobs: JobTable,
    pub(super) workers: Workers,
    pub(super) observer: Observer,
    pub(super) lanes: Lanes,
    pub(super) slow: Option<SlowWatch>,
    next_id: u64,
    pub(super) last_start_error: Option<PoolError>,
    /// The template of a fork pool has died, and a thread has tried in vain to replace it.
    pub(super) is_template_refused: bool,
    /// When SIGKILL follows, once the pool has ended.
    killed_by: Option<Instant>,
    /// Threads that wait for the end of workers without driving.
    watchers: Waiters,
    /// Reads results that did not fit a frame.
    pub(super) cache: Arc<BlobCache>,
    /// When the memory for large values is given back, if no other comes before.
    pub(super) cache_rests_at: Option<Instant>,
    pub(super) inbox: Inbox,
    pub(super) buffer: Vec<u8>,
    /// The resident memory with which a worker is replaced.
    pub(super) rss_max: Option<u64>,
    /// How long an initializer may run.
    pub(super) initializer_timeout: Option<Duration>,
    /// How long a finalizer may run.
    pub(super) finalizer_timeout: Duration,
    /// Workers whose answers are about to be taken in.
    pub(super) news: Vec<WorkerId>,
    /// How many processors this process may use.
    processors: usize,
}

impl Engine {
    pub(crate) fn new(watch: Arc<Watch>, cache: Arc<BlobCache>, config: &Config) -> Self {
        let processors = processor::available_at_first();
        Self {
            phase: Phase::Running,
            effects: Effects::default(),
            schedule: Schedule::new(config.policy(processors)),
            jobs: JobTable::default(),
            workers: Workers::new(watch, processors),
            observer: Observer::new(config.events.is_some(), config.record),
            lanes: Lanes::default(),
            slow: config.slow_after.map(SlowWatch::new),
            next_id: 1,
            last_start_error: None,
            is_template_refused: false,
            killed_by: None,
            watchers: Waiters::default(),
            cache,
            cache_rests_at: None,
            inbox: Inbox::default(),
            buffer: Vec::new(),
            rss_max: config.max_rss_per_child,
            initializer_timeout: config.initializer_timeout,
            finalizer_timeout: config.finalizer_timeout,
            news: Vec::new(),
            processors,
        }
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.jobs.unfinished()
    }

    pub(crate) fn attended(&self) -> usize {
        self.jobs.attended()
    }

    /// When the workers of a pool that has ended are killed, at the latest; `None` if never.
    pub(crate) fn killed_by(&self) -> Option<Instant> {
        self.killed_by
    }

    /// How many workers the pool keeps.
    pub(crate) fn processes(&self) -> usize {
        self.schedule.processes()
    }

    /// The process ids of all live workers.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(|(_, handle)| handle.pid()).collect()
    }

    /// Whether nothing is left to do: no worker, but for those that were given up, and no work for one.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.schedule.is_at_rest()
    }

    /// Whether nothing is left to wait for either.
    pub(crate) fn is_over(&self) -> bool {
        self.is_at_rest() && !self.workers.has_unreaped()
    }

    /// The process ids of all workers that have not ended, those included that were given up.
    pub(crate) fn unended(&self) -> Vec<u32> {
        self.workers.unended()
    }

    /// The threads that wait for this job, or for the end of workers, without driving.
    pub(crate) fn watchers(&mut self, job: Option<JobId>) -> &mut Waiters {
        match job {
            Some(job) => self.jobs.watchers(job),
            None => &mut self.watchers,
        }
    }

    /// The epoll set in which drivers sleep.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        self.workers.watch()
    }

    /// Whether anything can still happen.
    pub(crate) fn is_watched(&self) -> bool {
        self.workers.is_watched()
    }

    /// Gives back the descriptors of an engine whose workers are gone.
    pub(crate) fn take_watch(&mut self) -> Option<Arc<Watch>> {
        self.workers.take_watch()
    }

    /// Asks every busy worker to wake the driver at its next answer, unless it was asked for that answer already.
    pub(crate) fn ask_to_ring(&mut self) -> Ringers {
        self.workers.ask_to_ring()
    }

    /// From time to time, makes the next [`ask_to_ring`](Self::ask_to_ring) ask again those that were asked.
    pub(crate) fn recheck(&mut self, now: Instant) {
        self.workers.recheck(now);
    }

    /// Adds a probe for each worker that may answer soon; none if the workers need every processor, since a thread that
    /// spins would take one from them.
    pub(crate) fn probes(&self, probes: &mut Vec<AnswerProbe>) {
        if self.has_processor_to_spare() {
            self.workers.probes(Cpu::current(), probes);
        }
    }

    fn has_processor_to_spare(&self) -> bool {
        self.schedule.busy() < self.processors
    }

    /// Wakes the threads that wait for the end of workers.
    pub(super) fn notify_watchers(&self) {
        self.watchers.notify_all();
    }

    /// Wakes the threads that wait for the pool's end, whatever brought it about, if it has come.
    pub(super) fn notify_if_at_rest(&self) {
        if self.schedule.is_at_rest() {
            self.notify_watchers();
            self.workers.ring();
        }
    }

    /// Does everything that the schedule has decided.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.schedule.next_action() {
            match action {
                Action::Start => self.effects.starts += 1,
                Action::Send(worker, span, number) => self.send(worker, &span, number),
                Action::Stop(worker) => {
                    if let Some(sent) = self.workers.stop(worker) {
                        self.after_send(worker, sent);
                    }
                }
                Action::Recall(worker) => self.recall(worker),
                Action::Break => {
                    let last = self.last_start_error.take().expect("a start that fails leaves its error");
                    let failures = self.schedule.start_failures();
                    self.end(PoolError::Broken { failures, last: Box::new(last) }, GRACE);
                }
            }
        }
        for span in self.schedule.take_dropped() {
            self.skip(&span);
        }
    }

    fn send(&mut self, worker: WorkerId, span: &Span, number: FrameNumber) {
        let holds = if self.schedule.holds_only(worker, number) { Holds::Nothing } else { Holds::Other };
        let context = self.jobs.get(span.batch.job).and_then(|job| job.context.as_deref());
        let Some(sent) = self.workers.send(worker, (span, number), context, holds) else {
            self.schedule.send_refused(worker, number, 0);
            return;
        };
        self.on_sent(worker, holds);
        match sent {
            Ok(Sent::Taken) => self.allow_spinning(worker),
            Ok(Sent::Part(items)) => {
                self.schedule.send_refused(worker, number, items);
                self.allow_spinning(worker);
            }
            Ok(Sent::Full) => {
                self.schedule.send_refused(worker, number, 0);
                self.workers.wait_for_room(worker, &mut self.effects);
            }
            // The next answer asks again.
            Ok(Sent::Later) => {
                self.schedule.send_refused(worker, number, 0);
                // Or others would fill the worker again and again.
                self.schedule.serve_next(span.batch.job);
            }
            Ok(Sent::TooManyInFlight) => {
                self.schedule.send_refused(worker, number, 0);
                // The worker has room for what has no descriptors.
                self.schedule.clear_link_full(worker);
                self.schedule.serve_last(span.batch.job);
                self.workers.retry_soon(worker);
            }
            Err(error) => {
                self.schedule.send_refused(worker, number, 0);
                self.after_send(worker, Err(error));
            }
        }
    }

    /// Tells the worker how long it may spin for more work before it sleeps.
    fn allow_spinning(&mut self, worker: WorkerId) {
        let spin_ns = if self.has_processor_to_spare() { spin::SPIN_MAX_NS } else { 0 };
        if let Some(handle) = self.workers.get_mut(worker) {
            handle.link.allow_spinning(spin_ns);
        }
    }

    /// An order that is not work was given to the link.
    pub(super) fn after_send(&mut self, worker: WorkerId, sent: io::Result<Sent>) {
        match sent {
            Ok(Sent::Taken | Sent::Part(_) | Sent::Later) => {}
            Ok(Sent::Full) => self.workers.wait_for_room(worker, &mut self.effects),
            Ok(Sent::TooManyInFlight) => self.workers.retry_soon(worker),
            // It is dead, as its pidfd will tell, or a task has spoilt its link. The items that wait are not to blame.
            Err(error) => {
                let pid = self.workers.get(worker).map(WorkerHandle::pid).unwrap_or_default();
                let text = format!("worker {pid} gets no more, for its link broke: {error}");
                self.effects.log(Level::Debug, text);
                self.dismiss(worker);
            }
        }
    }

    /// Takes back the work that the worker has not begun; all other orders are sent again.
    pub(super) fn recall(&mut self, worker: WorkerId) {
        let unbegun = self.take_back(worker, Peer::Alive);
        let Some(sent) = self.workers.flush(worker) else { return };
        self.after_send(worker, sent);
        if unbegun.is_empty() {
            return;
        }
        let lost = self.schedule.recalled(worker, &unbegun, Instant::now());
        self.note_retries(worker);
        for Lost { item, workers } in lost {
            let pid = self.workers.get(worker).map_or(0, WorkerHandle::pid);
            let (status, panic, origin) = (None, None, Origin::default());
            let error = TaskError::WorkerDied { pid, status, attempts: workers, panic, origin };
            self.settle_error(item.job, item.index, error);
        }
    }

    /// Takes everything that the worker has not begun out of its link.
    pub(super) fn take_back(&mut self, worker: WorkerId, peer: Peer) -> UnbegunWork {
        let recalled = self.workers.get_mut(worker).map(|handle| handle.link.recall(peer));
        match recalled {
            Some(Ok(unbegun)) => unbegun,
            Some(Err(message)) => {
                self.workers.kill_for(worker, PoolError::Protocol { message }, &mut self.effects);
                UnbegunWork::Last(0)
            }
            None => UnbegunWork::Last(0),
        }
    }

    /// The worker gets nothing more. It may end the item that it is running, and then has a moment to leave.
    pub(super) fn dismiss(&mut self, worker: WorkerId) {
        let Some(handle) = self.workers.get_mut(worker) else { return };
        handle.trust.dismiss();
        if handle.greeting == Greeting::Ready {
            self.schedule.dismiss(worker, Instant::now());
        }
        self.kill_if_idle(worker);
    }

    /// Kills a dismissed worker soon that has nothing left to run.
    pub(super) fn kill_if_idle(&mut self, worker: WorkerId) {
        if self.workers.get(worker).is_some_and(|handle| handle.trust.is_dismissed())
            && self.schedule.running(worker).is_none()
        {
            self.workers.kill_soon(worker);
        }
    }

    /// Kills a worker whose link holds what no worker of this build leaves there.
    pub(super) fn distrust(&mut self, worker: WorkerId, message: impl Into<String>) {
        self.workers.distrust(worker, message.into(), &mut self.effects);
    }

    /// A large value has come or goes: the memory for such values is kept for a while.
    pub(super) fn keep_memory(&mut self, now: Instant) {
        self.cache.wake();
        self.cache_rests_at = Some(now + IDLE_TIME);
    }

    pub(crate) fn job(&mut self, id: JobId) -> &mut Job {
        self.jobs.held(id)
    }

    /// Settles one item with an error.
    pub(super) fn settle_error(&mut self, id: JobId, index: u64, error: TaskError) {
        self.observer.error(id, index, &error, &mut self.effects);
        let stops = self.jobs.settle_error(id, index, error);
        self.progress(id);
        if stops {
            self.cancel(id);
        }
    }

    /// Hands out nothing more of the job: its first error ends it, or its results are not wanted.
    pub(super) fn cancel(&mut self, id: JobId) {
        if self.jobs.cancel(id, Cancelled::ByItself) {
            self.schedule.cancel(id, Instant::now());
            self.carry_out();
        }
    }

    /// Settles items that no worker will run, because their job was cancelled.
    pub(super) fn skip(&mut self, span: &Span) {
        self.observer.errors(span.batch.job, u64::from(span.len()), &TaskError::Skipped);
        self.jobs.skip(span);
        self.progress(span.batch.job);
    }

    /// Something of the job was settled, or it was sealed.
    pub(super) fn progress(&mut self, id: JobId) {
        let Some(finished) = self.jobs.progress(id, &mut self.effects) else { return };
        self.observer.call_ended(id, finished.items, &mut self.effects);
        if finished.was_feeding {
            self.schedule.fed(Instant::now());
        }
        self.schedule.remove(id);
        if let Some(context) = finished.context {
            self.effects.spent.push(context.value);
            for (worker, sent) in self.workers.forget(context.id) {
                self.after_send(worker, sent);
            }
        }
    }

    /// Runs nothing more: every item without an outcome gets `error`, and every worker is asked to leave, and killed when
    /// `grace` has passed.
    pub(crate) fn end(&mut self, error: PoolError, grace: Duration) {
        let kill_at = Instant::now().checked_add(grace);
        if matches!(self.phase, Phase::Ended(_)) {
            // Its workers may not take longer than this.
            self.killed_by = [self.killed_by, kill_at].into_iter().flatten().min();
            self.workers.kill_by(kill_at);
            return;
        }
        self.killed_by = kill_at;
        let outcome = match &error {
            PoolError::Terminated => TaskError::Terminated,
            error => TaskError::Refused(error.clone()),
        };
        self.phase = Phase::Ended(error);
        self.schedule.end();
        let starts = std::mem::take(&mut self.effects.starts);
        self.drop_starts(starts);
        for id in self.jobs.end(&outcome) {
            let job = self.jobs.held(id);
            let unsettled = job.submitted - job.settled;
            self.observer.errors(id, unsettled, &outcome);
            self.progress(id);
        }
        self.notify_watchers();
        self.workers.end(kill_at, &mut self.effects);
    }
}
