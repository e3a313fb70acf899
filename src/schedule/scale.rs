//! How the steps of decisions grow with the number of jobs and workers.

use std::time::Instant;

use super::Action;
use super::Departure;
use super::FirstItem;
use super::PoolPolicy;
use super::Schedule;
use super::WorkerId;
use super::restarts::Ending;
use super::size::Size;
use super::steps;
use crate::work::batch::Batch;
use crate::work::batch::ChunkSize;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::JobPolicy;
use crate::work::batch::Span;
use crate::work::batch::Target;
use crate::work::function::FunctionId;
use crate::work::unbegun::Grain;
use crate::work::unbegun::UnbegunWork;

/// A schedule whose workers answer when they are told to.
struct Stage {
    schedule: Schedule,
    now: Instant,
    jobs: u64,
    sent: Vec<(WorkerId, JobId)>,
    /// The links refuse everything.
    is_refused: bool,
}

impl Stage {
    fn new(workers: usize) -> Self {
        let policy = PoolPolicy {
            size: Size::fixed(workers),
            tasks_max: None,
            age_max: None,
            grain: Grain::Item,
            processors: 2,
        };
        let schedule = Schedule::new(policy);
        let mut stage = Self { schedule, now: Instant::now(), jobs: 0, sent: Vec::new(), is_refused: false };
        for worker in (0..workers as u64).map(WorkerId) {
            stage.schedule.started(worker, stage.now);
            stage.schedule.ready(worker, stage.now);
        }
        stage
    }

    /// A job of one item, as `apply_async` makes it.
    fn apply(&mut self) {
        self.submit(1);
    }

    /// A job of so many items, each in a frame of its own.
    fn submit(&mut self, items: usize) {
        self.jobs += 1;
        let job = JobId(self.jobs);
        let policy = JobPolicy { chunk: ChunkSize::Fixed(1), retries: 0, is_timed: false };
        let target = Target { function: FunctionId(0), context: 0, timeout: None };
        let items = Items::Inline { bytes: Vec::new(), ends: vec![0; items] };
        self.schedule.open(job, policy);
        self.schedule.submit(Span::whole(Batch { job, target, first_index: 0, items }), self.now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.schedule.next_action() {
            match action {
                Action::Send(worker, _, number) if self.is_refused => self.schedule.send_refused(worker, number, 0),
                Action::Send(worker, span, _) => self.sent.push((worker, span.batch.job)),
                _ => {}
            }
        }
        for span in self.schedule.take_dropped() {
            self.schedule.remove(span.batch.job);
        }
        self.schedule.next_timer();
    }

    /// The item that was sent last is answered.
    fn answer(&mut self) -> bool {
        let Some((worker, job)) = self.sent.pop() else { return false };
        self.schedule.settled(worker, 1, self.now);
        self.schedule.remove(job);
        self.schedule.after_settled(self.now);
        self.carry_out();
        true
    }

    fn with_jobs(workers: usize, jobs: usize) -> Self {
        let mut stage = Self::new(workers);
        (0..jobs).for_each(|_| stage.apply());
        stage
    }
}

/// Four times as many take about four times as many steps.
fn assert_linear(steps: impl Fn(usize) -> u64) {
    let (few, many) = (steps(1000), steps(4000));
    assert!(few > 0, "the steps are counted");
    assert!(many <= 5 * few, "{few} steps for 1000, {many} for 4000");
}

/// However many there are, the steps stay the same.
fn assert_constant(steps: impl Fn(usize) -> u64) {
    let (few, many) = (steps(4), steps(1000));
    assert!(few > 0, "the steps are counted");
    assert!(many <= few + 8, "{few} steps beside 4, {many} beside 1000");
}

#[test]
fn closing_takes_a_step_for_each_queued_job() {
    assert_linear(|jobs| {
        let mut stage = Stage::with_jobs(2, jobs);
        steps::of(|| {
            stage.schedule.close(stage.now);
            while stage.answer() {}
            assert_eq!(stage.schedule.busy(), 0);
        })
    });
}

fn assert_cancelling_is_linear(in_order: fn(&mut [JobId])) {
    assert_linear(|jobs| {
        let mut stage = Stage::with_jobs(1, jobs);
        let mut queued: Vec<JobId> = (2..=jobs as u64).map(JobId).collect();
        in_order(&mut queued);
        steps::of(|| {
            for job in queued {
                stage.schedule.cancel(job, stage.now);
                stage.carry_out();
            }
        })
    });
}

#[test]
fn cancelling_one_by_one_takes_a_step_for_each_queued_job() {
    assert_cancelling_is_linear(|_| {});
    assert_cancelling_is_linear(<[JobId]>::reverse);
}

#[test]
fn a_call_takes_as_many_steps_beside_many_idle_workers_as_beside_few() {
    assert_constant(|workers| {
        let mut stage = Stage::new(workers);
        steps::of(|| {
            stage.apply();
            assert!(stage.answer());
        })
    });
}

#[test]
fn a_call_takes_as_many_steps_beside_many_busy_workers_as_beside_few() {
    assert_constant(|workers| {
        let mut stage = Stage::with_jobs(workers, workers);
        steps::of(|| {
            stage.apply();
            assert!(stage.answer());
        })
    });
}

#[test]
fn a_smaller_pool_takes_a_step_for_each_worker_that_leaves() {
    assert_linear(|workers| {
        let mut stage = Stage::with_jobs(workers, workers);
        steps::of(|| {
            stage.schedule.resize(1, stage.now);
            stage.carry_out();
        })
    });
}

#[test]
fn refused_frames_take_a_step_each() {
    assert_linear(|workers| {
        let mut stage = Stage::new(workers);
        stage.is_refused = true;
        steps::of(|| stage.submit(2 * workers))
    });
}

/// A start that was decided and not carried out when the pool ends is not waited for.
#[test]
fn a_pool_that_ends_waits_for_no_start_that_was_only_decided() {
    let mut stage = Stage::new(2);
    stage.schedule.resize(3, stage.now);
    stage.schedule.end();
    for worker in [WorkerId(0), WorkerId(1)] {
        let unbegun = UnbegunWork::Last(0);
        let departure = Departure {
            unbegun,
            first: FirstItem::AsReported,
            is_coherent: true,
            may_retry: true,
            ending: Ending::Other,
        };
        stage.schedule.exited(worker, departure, stage.now);
    }
    assert!(stage.schedule.is_at_rest());
}
