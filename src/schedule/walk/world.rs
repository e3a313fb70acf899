//! The model of the world around the schedule: jobs, workers, links.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use super::event::Event;
use super::event::SendRefusal;
use super::model::ItemState;
use super::model::ModelJob;
use super::model::ModelWorker;
use crate::schedule::action::Action;
use crate::schedule::departure::Departure;
use crate::schedule::departure::FirstItem;
use crate::schedule::departure::Lost;
use crate::schedule::load::FinishedFrame;
use crate::schedule::load::ItemId;
use crate::schedule::policy::PoolPolicy;
use crate::schedule::restarts::Ending;
use crate::schedule::state::Schedule;
use crate::schedule::time_limit::TimeVerdict;
use crate::schedule::worker_id::WorkerId;
use crate::work::batch::Batch;
use crate::work::batch::ChunkSize;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;
use crate::work::batch::Target;
use crate::work::function::FunctionId;
use crate::work::progress::Progress;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::Grain;
use crate::work::unbegun::UnbegunWork;

pub(super) struct World {
    pub(super) schedule: Schedule,
    now: Instant,
    pub(super) jobs: BTreeMap<JobId, ModelJob>,
    workers: BTreeMap<WorkerId, ModelWorker>,
    next_id: u64,
    starts: usize,
    processes: usize,
    tasks_max: Option<u64>,
    grain: Grain,
    refusal: Option<SendRefusal>,
    /// Maximum busy workers: more than `processes` until a pool that was made smaller has shrunk.
    busy_max: usize,
    closed: bool,
    pub(super) broken: bool,
}

impl World {
    pub(super) fn new(policy: PoolPolicy) -> Self {
        let PoolPolicy { size, tasks_max, grain, .. } = policy;
        let processes = size.wanted();
        Self {
            schedule: Schedule::new(policy),
            now: Instant::now(),
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            next_id: 0,
            starts: processes,
            processes,
            tasks_max,
            grain,
            refusal: None,
            busy_max: processes,
            closed: false,
            broken: false,
        }
    }

    fn nth_job(&self, n: usize, wanted: impl Fn(&ModelJob) -> bool) -> Option<JobId> {
        let jobs: Vec<JobId> = self.jobs.iter().filter(|(_, job)| wanted(job)).map(|(&id, _)| id).collect();
        (!jobs.is_empty()).then(|| jobs[n % jobs.len()])
    }

    fn nth_worker(&self, n: usize, wanted: impl Fn(&ModelWorker) -> bool) -> Option<WorkerId> {
        let workers: Vec<WorkerId> = self.workers.iter().filter(|(_, w)| wanted(w)).map(|(&id, _)| id).collect();
        (!workers.is_empty()).then(|| workers[n % workers.len()])
    }

    /// Applies an event, carries out what the schedule decides, and checks its rules.
    pub(super) fn apply(&mut self, event: &Event) {
        match *event {
            Event::Open { fixed_chunk, feeding, retries, timeout_ms } if !self.closed => {
                let timeout = timeout_ms.map(Duration::from_millis);
                self.open(fixed_chunk, ModelJob { feeding, retries, timeout, ..ModelJob::default() });
            }
            Event::Submit { job, items } => self.submit(job, items),
            Event::Seal { job } => {
                if let Some(job) = self.nth_job(job, |job| !job.sealed) {
                    self.seal(job);
                }
            }
            Event::Cancel { job } => _ = self.cancel(job),
            Event::CancelPending { job } => _ = self.cancel(job).map(|job| self.take_back_pending(job)),
            Event::Start { works } => self.start(works),
            Event::Ready { worker } => {
                if let Some(worker) = self.nth_worker(worker, |worker| !worker.ready) {
                    self.workers.get_mut(&worker).unwrap().ready = true;
                    self.schedule.ready(worker, self.now);
                }
            }
            Event::Read { worker } => self.read(worker),
            Event::Answer { worker } => self.answer(worker),
            Event::Die { worker, killed } => {
                if let Some(worker) = self.nth_worker(worker, |_| true) {
                    self.die(worker, if killed { Ending::Killed } else { Ending::Other }, true);
                }
            }
            Event::Dismiss { worker } => {
                if let Some(worker) = self.nth_worker(worker, |worker| worker.ready && !worker.dismissed) {
                    self.workers.get_mut(&worker).unwrap().dismissed = true;
                    self.schedule.dismiss(worker, self.now);
                }
            }
            Event::Refuse { refusal } => self.refusal = Some(refusal),
            Event::Room { worker } => self.room(worker),
            Event::Wait { millis } => {
                self.now += Duration::from_millis(millis);
                self.check_deadlines();
                self.schedule.tick(self.now);
            }
            Event::Resize { processes } if !self.closed => {
                self.processes = processes;
                self.busy_max = processes.max(self.busy());
                self.schedule.resize(processes, self.now);
            }
            Event::Close => {
                self.closed = true;
                self.schedule.close(self.now);
            }
            Event::Open { .. } | Event::Resize { .. } => {}
        }
        self.carry_out();
        self.check_rules();
    }

    fn open(&mut self, fixed_chunk: Option<u32>, job: ModelJob) {
        self.next_id += 1;
        let id = JobId(self.next_id);
        let chunk = fixed_chunk.map_or(ChunkSize::Adaptive, ChunkSize::Fixed);
        let policy = JobPolicy { chunk, retries: job.retries, is_timed: job.timeout.is_some() };
        match job.feeding {
            true => self.schedule.open_feeding(id, policy),
            false => self.schedule.open(id, policy),
        }
        self.jobs.insert(id, job);
    }

    fn submit(&mut self, job: usize, items: u32) {
        let closed = self.closed;
        let Some(id) = self.nth_job(job, |job| !job.sealed && (!closed || job.feeding)) else { return };
        let job = self.jobs.get_mut(&id).unwrap();
        let first_index = job.items.len() as u64;
        job.items.extend((0..items).map(|_| ItemState::default()));
        let batch = Batch {
            job: id,
            target: Target { function: FunctionId(0), context: 0, timeout: job.timeout },
            first_index,
            items: Items::Inline { bytes: Vec::new(), ends: vec![0; items as usize] },
        };
        self.schedule.submit(Span::whole(batch), self.now);
    }

    fn seal(&mut self, id: JobId) {
        let job = self.jobs.get_mut(&id).unwrap();
        job.sealed = true;
        if std::mem::take(&mut job.feeding) {
            self.schedule.fed(self.now);
        }
        self.remove_if_done(id);
    }

    fn remove_if_done(&mut self, id: JobId) {
        let job = self.jobs.get_mut(&id).unwrap();
        if job.sealed && !job.removed && job.items.iter().all(|item| item.outcomes == 1) {
            job.removed = true;
            self.schedule.remove(id);
        }
    }

    fn start(&mut self, works: bool) {
        if self.starts == 0 {
            return;
        }
        self.starts -= 1;
        if works {
            self.next_id += 1;
            let worker = WorkerId(self.next_id);
            self.workers.insert(worker, ModelWorker::default());
            self.schedule.started(worker, self.now);
        } else {
            self.schedule.start_failed(Ending::Other, self.now);
        }
    }

    fn read(&mut self, worker: usize) {
        let idle = |worker: &ModelWorker| worker.ready && worker.reading.is_none() && !worker.unread.is_empty();
        let Some(id) = self.nth_worker(worker, idle) else { return };
        let worker = self.workers.get_mut(&id).unwrap();
        worker.read_next(self.grain);
        self.begin(id);
    }

    fn room(&mut self, worker: usize) {
        let Some(id) = self.nth_worker(worker, |worker| worker.full) else { return };
        self.workers.get_mut(&id).unwrap().full = false;
        self.schedule.clear_link_full(id);
        self.schedule.after_settled(self.now);
    }

    /// The worker begins the next item of what it has read.
    fn begin(&mut self, worker: WorkerId) {
        let worker = self.workers.get_mut(&worker).unwrap();
        let Some(span) = &worker.reading else { return };
        worker.begun += 1;
        let index = usize::try_from(span.index_of_first()).unwrap();
        self.jobs.get_mut(&span.batch.job).unwrap().items[index].started += 1;
    }

    fn settle(&mut self, job: JobId, index: u64) {
        self.jobs.get_mut(&job).unwrap().items[usize::try_from(index).unwrap()].outcomes += 1;
        self.remove_if_done(job);
    }

    fn answer(&mut self, worker: usize) {
        let Some(id) = self.nth_worker(worker, |worker| worker.reading.is_some()) else { return };
        let worker = self.workers.get_mut(&id).unwrap();
        let span = worker.reading.as_mut().unwrap();
        let (job, index) = (span.batch.job, span.index_of_first());
        span.start += 1;
        let more = !span.is_empty();
        if !more {
            worker.reading = None;
        }
        let running = self.schedule.running(id).unwrap();
        assert_eq!((running.job, running.index), (job, index), "the parent knows what is running");
        if let Some(FinishedFrame { job, items, elapsed_ns, .. }) = self.schedule.settled(id, 1, self.now) {
            self.schedule.measure(job, elapsed_ns, items);
        }
        self.settle(job, index);
        if more {
            self.begin(id);
        }
        self.schedule.after_settled(self.now);
    }

    /// Checks items that may have run for too long, as the engine does.
    fn check_deadlines(&mut self) {
        for id in self.schedule.checks_due(self.now) {
            let worker = &self.workers[&id];
            let progress = match worker.reading {
                Some(_) => Progress::Runs { since: None },
                None => Progress::Waits,
            };
            let item = self.schedule.running(id).expect("only an item that is held has a timer");
            match self.schedule.check_deadline(id, progress, self.now) {
                TimeVerdict::Wait => {}
                TimeVerdict::NeverReady => unreachable!("workers of this model obey at once"),
                verdict => {
                    self.workers.get_mut(&id).unwrap().dismissed = true;
                    self.schedule.dismiss(id, self.now);
                    self.carry_out();
                    if verdict == TimeVerdict::TimeIsUp {
                        assert_eq!(self.schedule.running(id), Some(item), "nothing was answered meanwhile");
                    }
                    self.die(id, Ending::Killed, verdict == TimeVerdict::NeverBegins);
                }
            }
            self.carry_out();
        }
    }

    fn die(&mut self, id: WorkerId, ending: Ending, may_retry: bool) {
        let worker = self.workers.remove(&id).unwrap();
        let numbers: Vec<FrameNumber> = worker.unread.iter().map(|(number, _)| *number).collect();
        let unbegun = match self.grain {
            Grain::Frame => UnbegunWork::Frames(numbers),
            Grain::Item => UnbegunWork::Last(worker.unread.iter().map(|(_, span)| u64::from(span.len())).sum()),
        };
        let departure = Departure { unbegun, first: FirstItem::AsReported, is_coherent: true, may_retry, ending };
        let lost = self.schedule.exited(id, departure, self.now);
        let running = worker.reading.map(|span| ItemId { job: span.batch.job, index: span.index_of_first() });
        let lost_now = running.filter(|item| {
            let job = &self.jobs[&item.job];
            let state = job.items[usize::try_from(item.index).unwrap()];
            !may_retry || job.cancelled || state.started > job.retries
        });
        let reported: Vec<ItemId> = lost.iter().map(|lost| lost.item).collect();
        assert_eq!(reported, Vec::from_iter(lost_now), "exactly the running item is lost, unless it is tried again");
        for Lost { item, workers } in lost {
            let state = self.jobs[&item.job].items[usize::try_from(item.index).unwrap()];
            assert_eq!(workers, state.started, "each try is counted");
            self.settle(item.job, item.index);
        }
    }

    /// Carries out the actions, as the engine does.
    fn carry_out(&mut self) {
        while let Some(action) = self.schedule.next_action() {
            match action {
                Action::Start => self.starts += 1,
                Action::Send(worker, span, number) => self.send(worker, span, number),
                Action::Stop(worker) => self.workers.get_mut(&worker).unwrap().stop_sent = true,
                Action::Recall(id) => self.recall(id),
                Action::Break => self.broken = true,
            }
        }
        for span in self.schedule.take_dropped() {
            for index in span.indices() {
                self.jobs[&span.batch.job].check_dropped(index);
                self.settle(span.batch.job, index);
            }
        }
    }

    fn send(&mut self, id: WorkerId, span: Span, number: FrameNumber) {
        let worker = self.workers.get_mut(&id).expect("work goes to a live worker");
        assert!(!worker.stop_sent, "nothing is sent behind a stop");
        assert!(!worker.dismissed, "nothing is sent to a worker that is not trusted");
        let alone = self.schedule.holds_only(id, number);
        assert_eq!(alone, worker.unread.is_empty() && worker.reading.is_none(), "the parent knows what is held");
        // Only a full link refuses a frame that the worker holds alone: `Later` waits for an answer, and none would come.
        let refusal = if worker.full { Some(SendRefusal::Full) } else { self.refusal };
        // A part of a frame is taken only if the grain is an item.
        let part = if self.grain == Grain::Item { span.len() / 2 } else { 0 };
        match refusal {
            None => worker.unread.push_back((number, span)),
            Some(SendRefusal::Later) if alone => worker.unread.push_back((number, span)),
            Some(SendRefusal::Part) if alone && part == 0 => worker.unread.push_back((number, span)),
            Some(refusal) => {
                worker.full |= refusal == SendRefusal::Full;
                self.refusal = None;
                let taken = if refusal == SendRefusal::Part { part } else { 0 };
                if taken > 0 {
                    let mut span = span;
                    worker.unread.push_back((number, span.split_front(taken)));
                }
                self.schedule.send_refused(id, number, taken);
            }
        }
    }

    /// Takes back what is unread, frame by frame, while the worker reads on.
    fn recall(&mut self, id: WorkerId) {
        let dismissed = self.workers[&id].dismissed;
        let is_leaving = dismissed || !self.schedule.is_staying(id);
        assert!(is_leaving || self.busy() < self.processes, "work comes back only if another may take it up");
        self.take_back(id);
    }

    fn cancel(&mut self, job: usize) -> Option<JobId> {
        let job = self.nth_job(job, |job| !job.removed)?;
        self.jobs.get_mut(&job).unwrap().cancelled = true;
        self.schedule.cancel(job, self.now);
        Some(job)
    }

    /// Takes back what has not begun of a cancelled job, as the engine does.
    fn take_back_pending(&mut self, job: JobId) {
        self.carry_out();
        for worker in self.schedule.holders(job) {
            self.take_back(worker);
            self.carry_out();
        }
        assert!(self.grain == Grain::Frame || !self.jobs[&job].waits(), "what has not begun is settled");
    }

    fn take_back(&mut self, id: WorkerId) {
        let worker = self.workers.get_mut(&id).unwrap();
        if self.grain == Grain::Item {
            let items = worker.unread.drain(..).map(|(_, span)| u64::from(span.len())).sum();
            assert_eq!(self.schedule.recalled(id, &UnbegunWork::Last(items), self.now), []);
            return;
        }
        let mut numbers = Vec::new();
        while let Some((number, _)) = self.workers.get_mut(&id).unwrap().unread.pop_front() {
            numbers.push(number);
            let worker = self.workers.get_mut(&id).unwrap();
            if worker.ready && worker.reading.is_none() && !worker.unread.is_empty() {
                worker.read_next(self.grain);
                self.begin(id);
            }
        }
        assert_eq!(self.schedule.recalled(id, &UnbegunWork::Frames(numbers), self.now), []);
    }

    fn busy(&self) -> usize {
        self.workers.values().filter(|w| w.reading.is_some() || !w.unread.is_empty()).count()
    }

    fn check_rules(&mut self) {
        self.schedule.check();
        for job in self.jobs.values() {
            for item in &job.items {
                assert!(item.started <= 1 + job.retries, "no item begins more often than it may");
                assert!(item.outcomes <= 1, "no item has two outcomes");
            }
        }
        assert!(self.busy() <= self.busy_max, "busy workers never exceed the pool's size");
        self.busy_max = self.busy().max(self.processes);
        let staying = self.workers.values().filter(|worker| !worker.stop_sent).count();
        // Starts that are being carried out when the pool is made smaller cannot be withdrawn.
        let most = self.processes.max(self.starts);
        assert!(staying + self.starts <= most, "never more workers stay than were asked for");
        for worker in self.workers.values() {
            assert!(self.tasks_max.is_none_or(|max| worker.begun <= max), "no worker runs more than its share");
        }
    }

    /// Closes the pool, and lets every worker go on until nothing is left to do.
    pub(super) fn run_out(&mut self) {
        self.refusal = None;
        self.apply(&Event::Close);
        let jobs: Vec<JobId> = self.jobs.iter().filter(|(_, job)| !job.sealed).map(|(&id, _)| id).collect();
        jobs.into_iter().for_each(|job| self.seal(job));
        for _ in 0..10_000 {
            self.carry_out();
            if self.schedule.is_at_rest() || self.broken {
                break;
            }
            for n in 0..self.workers.len() + 1 {
                self.apply(&Event::Start { works: true });
                self.apply(&Event::Ready { worker: n });
                self.apply(&Event::Room { worker: n });
                self.apply(&Event::Read { worker: n });
                self.apply(&Event::Answer { worker: n });
            }
            let done = |w: &ModelWorker| w.ready && w.stop_sent && w.unread.is_empty() && w.reading.is_none();
            while let Some(worker) = self.nth_worker(0, done) {
                self.die(worker, Ending::Other, true);
            }
            self.apply(&Event::Wait { millis: 100 });
        }
    }
}
