//! What a timeline is made of. All times are nanoseconds of CLOCK_MONOTONIC.

use std::sync::Arc;

use crate::observe::event::Departure;

/// What became of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Value,
    Failed,
    /// Its worker died.
    Lost,
    TimedOut,
    Cancelled,
    /// It still runs.
    Running,
}

/// Items with consecutive positions that one worker ran, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) lane: u32,
    pub(crate) pid: u32,
    pub(crate) call: u64,
    pub(crate) first: u64,
    pub(crate) items: u32,
    pub(crate) outcome: Outcome,
    pub(crate) is_exact: bool,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What happened to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Started,
    Up,
    Gone(Departure),
    Retried { call: u64, index: u64 },
    Slow { call: u64, index: u64 },
}

/// A moment in the life of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) at: u64,
    pub(crate) lane: u32,
    pub(crate) pid: u32,
    pub(crate) what: What,
}

/// A call, from its beginning to the last outcome; `to` is `None` while it is unfinished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallSpan {
    pub(crate) call: u64,
    pub(crate) label: Option<Arc<str>>,
    pub(crate) from: u64,
    pub(crate) to: Option<u64>,
    pub(crate) items: u64,
    pub(crate) errors: u64,
}

/// How many items waited for a worker, and how many workers held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) at: u64,
    pub(crate) queued: u64,
    pub(crate) held: u64,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    /// The pool's name, and its workers' start method.
    pub(crate) title: String,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) runs: Vec<Run>,
    /// Older runs for which there was no room.
    pub(crate) runs_dropped: u64,
    pub(crate) marks: Vec<Mark>,
    pub(crate) calls: Vec<CallSpan>,
    pub(crate) depths: Vec<Depth>,
}

impl Records {
    /// How many lanes there are.
    pub(crate) fn lanes(&self) -> u32 {
        let of_runs = self.runs.iter().map(|run| run.lane + 1);
        let of_marks = self.marks.iter().map(|mark| mark.lane + 1);
        of_runs.chain(of_marks).max().unwrap_or(0)
    }

    /// A moment as seconds since the beginning.
    pub(crate) fn seconds(&self, at: u64) -> f64 {
        at.saturating_sub(self.from) as f64 / 1e9
    }

    pub(crate) fn label(&self, call: u64) -> Option<&Arc<str>> {
        let place = self.calls.binary_search_by_key(&call, |span| span.call).ok()?;
        self.calls[place].label.as_ref()
    }

    /// The longest items whose time is known, longest first.
    pub(crate) fn slowest(&self, count: usize) -> Vec<&Run> {
        let mut single: Vec<&Run> = self.runs.iter().filter(|run| run.items == 1).collect();
        single.sort_by_key(|run| (std::cmp::Reverse(run.to - run.from), run.call, run.first));
        single.truncate(count);
        single
    }
}
