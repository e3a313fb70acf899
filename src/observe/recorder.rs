//! The recorder of a timeline: bounded memory, whatever a pool does and for how long.
//!
//! Runs of items and marks are in rings: the newest are kept. Runs of very short items are joined, up to a millisecond, so
//! that ten million items are some thousand runs. The depth of the queue is sampled, and thinned out when there are too
//! many samples.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::observe::event::Departure;
use crate::observe::record::CallSpan;
use crate::observe::record::Depth;
use crate::observe::record::Mark;
use crate::observe::record::Outcome;
use crate::observe::record::Records;
use crate::observe::record::Run;
use crate::observe::record::What;
use crate::observe::stamp::Stamp;
use crate::observe::times::Answered;
use crate::observe::times::Timed;
use crate::observe::times::Times;

/// How many marks and finished calls are kept.
const MARKS_MAX: usize = 65_536;
/// How many samples of the queue's depth are kept, and how soon one follows another at first.
const DEPTHS_MAX: usize = 4096;
const DEPTH_INTERVAL_NS: u64 = 100_000;
/// Joined runs are no longer than this, and the gaps in them no longer than that.
const JOINED_NS_MAX: u64 = 1_000_000;
const GAP_NS_MAX: u64 = 2_000;

/// Bounded: the newest are kept.
#[derive(Debug)]
struct Newest<T> {
    kept: VecDeque<T>,
    max: usize,
    dropped: u64,
}

impl<T> Newest<T> {
    fn new(max: usize) -> Self {
        Self { kept: VecDeque::new(), max, dropped: 0 }
    }

    fn push(&mut self, one: T) {
        if self.kept.len() == self.max {
            self.kept.pop_front();
            self.dropped += 1;
        }
        self.kept.push_back(one);
    }
}

/// Samples over the whole time, as dense as there is room.
#[derive(Debug)]
struct Depths {
    samples: Vec<Depth>,
    interval: u64,
}

impl Depths {
    fn is_due(&self, now: u64) -> bool {
        self.samples.last().is_none_or(|last| now >= last.at + self.interval)
    }

    fn push(&mut self, depth: Depth) {
        if self.samples.len() == DEPTHS_MAX {
            let mut place = 0;
            self.samples.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.interval *= 2;
        }
        self.samples.push(depth);
    }
}

/// A worker as the recorder knows it.
#[derive(Debug)]
struct Recorded {
    lane: u32,
    pid: u32,
    times: Times,
    /// Its last run, which may be joined with the next.
    last: Option<Run>,
}

impl Recorded {
    /// Adds a run to the last one if they can be told as one; returns the last one otherwise.
    fn add(&mut self, run: Run) -> Option<Run> {
        if let Some(last) = &mut self.last
            && let Some(joined) = joined(last, &run)
        {
            *last = joined;
            return None;
        }
        self.last.replace(run)
    }

    fn run(&self, timed: Timed) -> Run {
        let Timed { answered: Answered { call, first, items, outcome }, from, to, is_exact } = timed;
        Run { lane: self.lane, pid: self.pid, call, first, items, outcome, is_exact, from, to }
    }
}

/// Two runs as one, if that loses nothing: short items of which no single time is known, one behind the other.
fn joined(last: &Run, run: &Run) -> Option<Run> {
    let is_joinable = !last.is_exact
        && !run.is_exact
        && (last.call, last.first + u64::from(last.items)) == (run.call, run.first)
        && (last.outcome, run.outcome) == (Outcome::Value, Outcome::Value)
        && run.from.saturating_sub(last.to) <= GAP_NS_MAX
        && run.to.saturating_sub(last.from) <= JOINED_NS_MAX;
    let items = last.items.checked_add(run.items).filter(|_| is_joinable)?;
    Some(Run { items, to: run.to, ..*last })
}

/// What is recorded of a pool.
#[derive(Debug)]
pub(crate) struct Recorder {
    began: u64,
    runs: Newest<Run>,
    marks: Newest<Mark>,
    finished: Newest<CallSpan>,
    unfinished: BTreeMap<u64, CallSpan>,
    depths: Depths,
    workers: BTreeMap<u64, Recorded>,
    /// Scratch memory: stamps on their way.
    pub(crate) stamps: Vec<Stamp>,
}

impl Recorder {
    /// A recorder of so many runs.
    pub(crate) fn new(runs: usize, now: u64) -> Self {
        Self {
            began: now,
            runs: Newest::new(runs.max(1)),
            marks: Newest::new(MARKS_MAX),
            finished: Newest::new(MARKS_MAX),
            unfinished: BTreeMap::new(),
            depths: Depths { samples: Vec::new(), interval: DEPTH_INTERVAL_NS },
            workers: BTreeMap::new(),
            stamps: Vec::new(),
        }
    }

    /// A worker was started.
    pub(crate) fn started(&mut self, worker: u64, lane: u32, pid: u32, now: u64) {
        self.workers.insert(worker, Recorded { lane, pid, times: Times::new(now), last: None });
        self.mark(worker, What::Started, now);
    }

    /// Something happened to a worker.
    pub(crate) fn mark(&mut self, worker: u64, what: What, now: u64) {
        if let Some(Recorded { lane, pid, .. }) = self.workers.get(&worker) {
            self.marks.push(Mark { at: now, lane: *lane, pid: *pid, what });
        }
    }

    /// Something happened to a worker, which may be gone.
    pub(crate) fn mark_of(&mut self, mark: Mark) {
        self.marks.push(mark);
    }

    /// A worker is gone; the item that it was running, if any, and what becomes of it.
    pub(crate) fn gone(&mut self, worker: u64, how: Departure, cut_off: Option<Answered>, now: u64) {
        let Some(mut gone) = self.workers.remove(&worker) else { return };
        let mut runs = Vec::new();
        let from = gone.times.last_ns();
        gone.times.flush(|timed| runs.push(timed));
        let from = runs.iter().map(|timed| timed.to).max().unwrap_or(0).max(from);
        runs.extend(cut_off.map(|answered| Timed { answered, from, to: now.max(from), is_exact: false }));
        for timed in runs {
            let run = gone.run(timed);
            self.keep(gone.add(run));
        }
        self.keep(gone.last.take());
        self.marks.push(Mark { at: now, lane: gone.lane, pid: gone.pid, what: What::Gone(how) });
    }

    fn keep(&mut self, run: Option<Run>) {
        if let Some(run) = run {
            self.runs.push(run);
        }
    }

    /// A call begins.
    pub(crate) fn call_began(&mut self, call: u64, label: Option<Arc<str>>, now: u64) {
        self.unfinished.insert(call, CallSpan { call, label, from: now, to: None, items: 0, errors: 0 });
    }

    /// Every item of a call has an outcome.
    pub(crate) fn call_ended(&mut self, call: u64, items: u64, errors: u64, now: u64) {
        if let Some(span) = self.unfinished.remove(&call) {
            self.finished.push(CallSpan { to: Some(now), items, errors, ..span });
        }
    }

    /// A worker that held nothing is sent something.
    pub(crate) fn employed(&mut self, worker: u64, now: u64) {
        if let Some(recorded) = self.workers.get_mut(&worker) {
            recorded.times.idle_until(now);
        }
    }

    /// Answers were taken in, the last of them to the record before this number.
    pub(crate) fn answered(&mut self, worker: u64, answered: Answered, records: u64, now: u64) {
        if let Some(recorded) = self.workers.get_mut(&worker) {
            recorded.times.answered(answered, records, now);
        }
    }

    /// The [stamps](Self::stamps) of a worker have come, which has answered and was sent so many records. `None`: its link
    /// has no stamps.
    pub(crate) fn stamped(&mut self, worker: u64, records: Option<(u64, u64)>, now: u64) {
        let Self { workers, runs, stamps, .. } = self;
        let Some(recorded) = workers.get_mut(&worker) else { return };
        let mut times = std::mem::replace(&mut recorded.times, Times::new(now));
        let mut add = |timed| {
            let run = recorded.run(timed);
            if let Some(run) = recorded.add(run) {
                runs.push(run);
            }
        };
        match records {
            Some((received, sent)) => {
                times.received(received);
                times.stamped(stamps, sent, now);
                times.resolve(&mut add);
            }
            None => times.flush(&mut add),
        }
        recorded.times = times;
        stamps.clear();
    }

    /// Whether it is time for another sample of the queue's depth.
    pub(crate) fn depth_is_due(&self, now: u64) -> bool {
        self.depths.is_due(now)
    }

    pub(crate) fn depth(&mut self, depth: Depth) {
        self.depths.push(depth);
    }

    /// Everything so far; `running` are the items that run, by worker, and since when if that is known.
    pub(crate) fn records(&self, running: &[(u64, Answered, Option<u64>)], now: u64) -> Records {
        let mut runs: Vec<Run> = self.runs.kept.iter().copied().collect();
        for recorded in self.workers.values() {
            let mut later = Recorded { times: recorded.times.clone(), ..*recorded };
            let mut times = std::mem::replace(&mut later.times, Times::new(now));
            times.flush(|timed| runs.extend(later.add(later.run(timed))));
            runs.extend(later.last.take());
        }
        for (worker, answered, since) in running {
            if let Some(recorded) = self.workers.get(worker) {
                let from = since.unwrap_or(0).max(recorded.times.last_ns()).min(now);
                runs.push(recorded.run(Timed { answered: *answered, from, to: now, is_exact: false }));
            }
        }
        runs.sort_by_key(|run| (run.from, run.lane));
        let mut calls: Vec<CallSpan> = self.finished.kept.iter().chain(self.unfinished.values()).cloned().collect();
        calls.sort_by_key(|span| span.call);
        Records {
            title: String::new(),
            from: self.began,
            to: now,
            runs,
            runs_dropped: self.runs.dropped,
            marks: self.marks.kept.iter().copied().collect(),
            calls,
            depths: self.depths.samples.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(first: u64, items: u32) -> Answered {
        Answered { call: 7, first, items, outcome: Outcome::Value }
    }

    fn stamped(recorder: &mut Recorder, worker: u64, stamps: &[(u64, u64)], now: u64) {
        recorder.stamps.extend(stamps.iter().map(|&(done, ns)| Stamp { done, ns }));
        recorder.stamped(worker, Some((0, 1 << 20)), now);
    }

    #[test]
    fn runs_of_short_items_are_joined_and_long_items_stay_apart() {
        let mut recorder = Recorder::new(100, 0);
        recorder.started(1, 0, 42, 0);
        let mut done = 0;
        for round in 0..100u64 {
            recorder.answered(1, values(done, 64), done + 64, 10 + round * 1000);
            stamped(&mut recorder, 1, &[(done, round * 1000), (done + 64, round * 1000 + 999)], 1 << 40);
            done += 64;
        }
        recorder.answered(1, values(done, 1), done + 1, 200_000);
        stamped(&mut recorder, 1, &[(done, 100_000), (done + 1, 150_000)], 1 << 40);
        let runs = recorder.records(&[], 1 << 40).runs;
        assert_eq!(runs.len(), 2, "{runs:?}");
        assert_eq!((runs[0].items, runs[0].first, runs[0].from, runs[0].to), (6400, 0, 0, 99_999));
        assert_eq!((runs[1].items, runs[1].first, runs[1].from, runs[1].to), (1, 6400, 100_000, 150_000));
    }

    #[test]
    fn the_newest_runs_are_kept() {
        let mut recorder = Recorder::new(3, 0);
        recorder.started(1, 0, 42, 0);
        for item in 0..10u64 {
            recorder.answered(1, values(item, 1), item + 1, 100);
            stamped(&mut recorder, 1, &[(item, item * 100), (item + 1, item * 100 + 50)], 5000);
        }
        let records = recorder.records(&[], 5000);
        let firsts: Vec<u64> = records.runs.iter().map(|run| run.first).collect();
        assert_eq!((firsts, records.runs_dropped), (vec![6, 7, 8, 9], 6));
    }

    #[test]
    fn an_item_that_is_cut_off_has_a_run_up_to_the_end_of_its_worker() {
        let mut recorder = Recorder::new(100, 0);
        recorder.started(1, 0, 42, 0);
        recorder.answered(1, values(0, 1), 1, 60);
        stamped(&mut recorder, 1, &[(0, 10), (1, 50)], 100);
        let lost = Answered { outcome: Outcome::Lost, ..values(1, 1) };
        recorder.gone(1, Departure::Died(None), Some(lost), 90);
        let records = recorder.records(&[], 100);
        assert_eq!((records.runs[1].outcome, records.runs[1].from, records.runs[1].to), (Outcome::Lost, 50, 90));
        let marks: Vec<What> = records.marks.iter().map(|mark| mark.what).collect();
        assert_eq!(marks, [What::Started, What::Gone(Departure::Died(None))]);
    }

    #[test]
    fn samples_of_the_depth_are_thinned_out_and_cover_the_whole_time() {
        let mut depths = Depths { samples: Vec::new(), interval: DEPTH_INTERVAL_NS };
        let mut now = 0;
        for _ in 0..5 * DEPTHS_MAX {
            now += DEPTH_INTERVAL_NS;
            if depths.is_due(now) {
                depths.push(Depth { at: now, queued: 1, held: 1 });
            }
        }
        assert!(depths.samples.len() <= DEPTHS_MAX && depths.samples.len() > DEPTHS_MAX / 4);
        assert_eq!(depths.samples[0].at, DEPTH_INTERVAL_NS);
        assert!(now - depths.samples.last().unwrap().at <= depths.interval);
    }
}
