//! The engine: the whole state of a pool, and one turn of it. Lives behind one mutex.
//!
//! ```text
//!   submit ─▶ Schedule ─▶ WorkerHandle::send ═══ road ═══▶ worker
//!                 ▲                                      │
//!   Job::log ◀─ settle ◀─ drain ◀═══════ road ═══════════┘
//! ```
//!
//! The engine hears what the epoll set reports, tells the schedule, and carries out what the schedule decides. It
//! never blocks, and nothing of the user's runs in it: no serde, no iterator, no callback. What must not be done under
//! the lock (starting a process, waking a task of the user's runtime) is left in [`Effects`] for the thread that
//! drives.
//!
//! # The end of a worker
//!
//! Its pidfd tells. What it had answered is then still in the road, and counts: the road is drained to the end, and
//! what the worker had never read is taken back, *before* the schedule is asked which item was running.

mod act;
mod answers;
pub(crate) mod config;
pub(crate) mod effects;
mod hear;
mod stop;
mod trust;
pub(crate) mod watch;
mod worker_handle;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use log::Level;
use parking_lot::Condvar;
use start_methods::Child;

use crate::engine::effects::Due;
use crate::engine::effects::Effects;
use crate::engine::watch::Source;
use crate::engine::watch::Watch;
use crate::engine::worker_handle::Greeting;
use crate::engine::worker_handle::WorkerHandle;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::schedule::PoolPolicy;
use crate::schedule::Schedule;
use crate::schedule::WorkerId;
use crate::sys::failpoint::shortened;
use crate::sys::processor;
use crate::transport::Road;
use crate::transport::ring::parent::Arrivals;
use crate::values::blob::BlobCache;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;
use crate::work::jobs::Cancelled;
use crate::work::jobs::ContextBody;
use crate::work::jobs::Job;
use crate::work::jobs::Jobs;
use crate::work::jobs::Settled;

/// How long a worker may take between SIGTERM and SIGKILL, if the caller does not say.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// Whether the pool takes tasks.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Running,
    Closed,
    /// With the answer that every later submission gets.
    Ended(PoolError),
}

/// Who will ring when a driver sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ringers {
    None,
    Some,
    /// Too late to sleep: there are answers already.
    Late,
}

/// All of a pool's state.
pub(crate) struct Engine {
    watch: Option<Arc<Watch>>,
    pub(crate) phase: Phase,
    pub(crate) effects: Effects,
    schedule: Schedule,
    jobs: Jobs,
    pub(crate) members: BTreeMap<WorkerId, WorkerHandle>,
    next_id: u64,
    /// Jobs that wait for something.
    unfinished: usize,
    /// Unfinished jobs that have a callback or a waker.
    attended: usize,
    last_start_error: Option<PoolError>,
    /// When SIGKILL follows, once the pool has ended.
    killed_by: Option<Instant>,
    /// Threads that wait for the end of workers without driving.
    watchers: Vec<Arc<Condvar>>,
    /// By which results are read that did not fit.
    cache: Arc<BlobCache>,
    buffer: Vec<u8>,
    arrivals: Arrivals,
    /// The memory with which a worker is replaced.
    rss_max: Option<u64>,
    /// Workers whose rings are about to be heard.
    news: Vec<WorkerId>,
    /// Processors that this process may use.
    processors: usize,
}

impl Engine {
    pub(crate) fn new(watch: Arc<Watch>, cache: Arc<BlobCache>, policy: PoolPolicy, rss_max: Option<u64>) -> Self {
        Self {
            watch: Some(watch),
            cache,
            phase: Phase::Running,
            effects: Effects::default(),
            schedule: Schedule::new(policy),
            rss_max,
            jobs: Jobs::default(),
            members: BTreeMap::new(),
            next_id: 1,
            unfinished: 0,
            attended: 0,
            last_start_error: None,
            killed_by: None,
            watchers: Vec::new(),
            buffer: Vec::new(),
            arrivals: Arrivals::default(),
            news: Vec::new(),
            processors: processor::available_at_first(),
        }
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished
    }

    pub(crate) fn attended(&self) -> usize {
        self.attended
    }

    /// When the workers of a pool that has ended are killed, at the latest; `None` if never.
    pub(crate) fn killed_by(&self) -> Option<Instant> {
        self.killed_by
    }

    /// How many workers the pool keeps.
    pub(crate) fn processes(&self) -> usize {
        self.schedule.processes()
    }

    /// Whether nothing is left to be waited for: no worker, and no work for one.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.schedule.is_at_rest()
    }

    /// Who waits for this job, or for the end of workers.
    pub(crate) fn watchers(&mut self, job: Option<JobId>) -> &mut Vec<Arc<Condvar>> {
        match job {
            Some(job) => &mut self.job(job).watchers,
            None => &mut self.watchers,
        }
    }

    /// Where drivers park.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        Arc::clone(self.watch.as_ref().expect("events come only while there is a watch"))
    }

    /// Whether anything can still happen.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Gives back the descriptors of an engine whose workers are gone.
    pub(crate) fn put_watch_away(&mut self) -> Option<Arc<Watch>> {
        self.watch.take()
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    // ---- jobs ----------------------------------------------------------------------------------------------------

    /// A number that no other context of this pool has.
    pub(crate) fn new_context_id(&mut self) -> u64 {
        self.new_id()
    }

    /// Why the pool takes no more tasks, if it does not.
    pub(crate) fn refusal(&self) -> Option<PoolError> {
        match &self.phase {
            Phase::Running => None,
            Phase::Closed => Some(PoolError::Closed),
            Phase::Ended(error) => Some(error.clone()),
        }
    }

    /// Begins a job, unless the pool takes no more.
    pub(crate) fn open(&mut self, policy: JobPolicy, job: Job) -> Result<JobId, PoolError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let id = JobId(self.new_id());
        self.schedule.open(id, policy, job.feeding);
        self.unfinished += 1;
        self.jobs.insert(id, job);
        Ok(id)
    }

    /// More items for a job: encoded ones as a span, or one that could not be encoded as its error.
    pub(crate) fn submit(&mut self, id: JobId, work: Result<Span, (u64, TaskError)>) -> Result<(), PoolError> {
        let refusal = self.refusal();
        let job = self.jobs.get_mut(&id).expect("items are submitted to an open job");
        match refusal {
            // A call that was accepted before the close is served to its end.
            Some(PoolError::Closed) if job.feeding => {}
            Some(error) => return Err(error),
            None => {}
        }
        match work {
            Ok(span) if job.cancelled.is_some() => {
                job.submitted += u64::from(span.len());
                self.skip(&span);
            }
            Ok(span) => {
                job.submitted += u64::from(span.len());
                self.schedule.submit(span, Instant::now());
            }
            Err((index, error)) => {
                job.submitted += 1;
                self.settle_error(id, index, error);
            }
        }
        self.carry_out();
        Ok(())
    }

    /// The job takes no more items.
    pub(crate) fn seal(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.sealed = true;
        if std::mem::take(&mut job.feeding) {
            self.schedule.fed(Instant::now());
            self.carry_out();
        }
        self.progress(id);
        self.tell_if_at_rest();
    }

    /// Nobody holds the job any more. If `cancel`, what has not been handed out is not run either. What is left of the
    /// job, if anything, may be large, and is to be dropped outside the lock.
    pub(crate) fn abandon(&mut self, id: JobId, cancel: bool) -> Option<Job> {
        let job = self.jobs.get_mut(&id)?;
        job.abandoned = true;
        if job.is_finished() {
            return self.jobs.remove(&id);
        }
        self.seal(id);
        if cancel {
            self.cancel(id);
        }
        None
    }

    pub(crate) fn job(&mut self, id: JobId) -> &mut Job {
        self.jobs.get_mut(&id).expect("a held job is in the table")
    }

    /// A callback or a waker has been attached to an unfinished job that had none.
    pub(crate) fn attend(&mut self) {
        self.attended += 1;
    }

    /// Items that may be under way at once, for a job whose input is drawn as it goes.
    pub(crate) fn window(&self, id: JobId) -> u64 {
        self.schedule.window(id)
    }

    fn cancel(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id)
            && job.cancelled.is_none()
        {
            job.cancelled = Some(Cancelled::ByItself);
            self.schedule.cancel(id, Instant::now());
            self.carry_out();
        }
    }

    fn settle_error(&mut self, id: JobId, index: u64, error: TaskError) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.settle(index, Settled::Error(Box::new(error)));
        let stop = job.fail_fast && job.cancelled.is_none();
        self.progress(id);
        if stop {
            self.cancel(id);
        }
    }

    /// Tells whoever waits for the job, and finishes it if that was the last outcome.
    fn progress(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        for watcher in &job.watchers {
            watcher.notify_all();
        }
        if !job.is_complete() || job.is_finished() {
            return;
        }
        self.unfinished -= 1;
        self.attended -= usize::from(job.is_attended());
        let log = Arc::new(std::mem::take(&mut job.log));
        self.effects.calls.extend(job.waker.take().map(Due::Wake));
        let callbacks = job.callbacks.drain(..).map(|callback| Due::Call(callback, Arc::clone(&log)));
        self.effects.calls.extend(callbacks);
        job.finished = Some(log);
        let context = job.context.take();
        if std::mem::take(&mut job.feeding) {
            self.schedule.fed(Instant::now());
        }
        if job.abandoned {
            self.jobs.remove(&id);
        }
        self.schedule.remove(id);
        if let Some(context) = context {
            if let ContextBody::Blob(blob) = context.body {
                self.effects.spent.push(blob);
            }
            let workers: Vec<WorkerId> = self.members.keys().copied().collect();
            for worker in workers {
                let member = self.members.get_mut(&worker).expect("the key was there");
                let sent = member.forget(context.id);
                self.after_send(worker, sent);
            }
        }
    }

    // ---- workers -------------------------------------------------------------------------------------------------

    /// A worker process has been started.
    pub(crate) fn started(&mut self, child: Child, road: Road) {
        let worker = WorkerId(self.new_id());
        if matches!(self.phase, Phase::Ended(_)) {
            // Asked for before the end.
            self.effects.unwanted.push(child);
            self.drop_starts(1);
            return;
        }
        let member =
            WorkerHandle::new(child, road, Instant::now() + shortened!("hello_timeout", config::HELLO_TIMEOUT));
        if let Err(error) = self.watch_member(worker, &member) {
            self.unwatch_member(&member);
            self.effects.unwanted.push(member.child);
            let errno = error.raw_os_error().unwrap_or_default();
            self.start_failed(PoolError::System { doing: "watching a new worker", errno });
            return;
        }
        self.schedule.started(worker, Instant::now());
        self.members.insert(worker, member);
        self.carry_out();
    }

    fn watch_member(&self, worker: WorkerId, member: &WorkerHandle) -> std::io::Result<()> {
        match &member.road {
            Road::Ring(_, bell) => self.watch().add_edge(bell.as_fd(), Source::Road(worker))?,
            Road::Socket(road) => self.watch().add(road.fd(), Source::Road(worker))?,
        }
        self.watch().add(member.child.control().as_fd(), Source::Control(worker))?;
        self.watch().add(member.child.pidfd(), Source::End(worker))?;
        match member.child.status_fd() {
            Some(fd) => self.watch().add(fd, Source::Status(worker)),
            None => Ok(()),
        }
    }

    fn unwatch_member(&self, member: &WorkerHandle) {
        let Some(watch) = &self.watch else { return };
        watch.remove(member.road.fd());
        watch.remove(member.child.control().as_fd());
        watch.remove(member.child.pidfd());
        if let Some(fd) = member.child.status_fd() {
            watch.remove(fd);
        }
    }

    /// Workers that were to be started will not be.
    pub(crate) fn drop_starts(&mut self, count: usize) {
        for _ in 0..count {
            self.schedule.start_dropped();
        }
        self.tell_if_at_rest();
    }

    fn tell_watchers(&self) {
        for watcher in &self.watchers {
            watcher.notify_all();
        }
    }

    /// Whoever waits for the pool's end must hear of it, whatever brought it about.
    fn tell_if_at_rest(&self) {
        if self.schedule.is_at_rest() {
            self.tell_watchers();
            if let Some(watch) = &self.watch {
                watch.ring();
            }
        }
    }

    /// A worker process could not be started.
    pub(crate) fn start_failed(&mut self, error: PoolError) {
        self.effects.log(Level::Warn, error.to_string());
        self.last_start_error = Some(error);
        self.schedule.start_failed(Instant::now());
        self.carry_out();
        self.tell_if_at_rest();
    }

    // ---- one turn ------------------------------------------------------------------------------------------------

    /// Takes in what has happened and does what follows from it.
    pub(crate) fn turn(&mut self, sources: &[Source]) {
        if !self.is_watched() {
            // Another thread has joined the pool while this one slept: there is nothing left to happen.
            return;
        }
        for &source in sources {
            match source {
                Source::Doorbell => self.watch().quiet(),
                Source::Road(worker) => self.on_link(worker),
                Source::Control(worker) => self.on_control(worker),
                Source::End(worker) => self.on_exit(worker),
                Source::Status(worker) => self.on_status(worker),
            }
            // At once: what has been decided must be on the road before anything is taken back from it, or the
            // count of what is unread would be of the wrong frames.
            self.carry_out();
        }
        self.on_timers();
        self.carry_out();
    }

    /// When [`turn`](Self::turn) must be called at the latest, if nothing happens.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let members = self.members.values().filter_map(|member| {
            let hello_due = match member.greeting {
                Greeting::Awaited(due) if member.trust.killed_for().is_none() => Some(due),
                _ => None,
            };
            [hello_due, member.status_due, member.kill_at].into_iter().flatten().min()
        });
        members.chain(self.schedule.next_timer()).min()
    }
}
