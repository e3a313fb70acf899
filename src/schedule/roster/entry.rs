//! One worker as the schedule sees it.

use std::time::Duration;
use std::time::Instant;

use super::marks::Marks;
use crate::schedule::load::BACKLOG_NS;
use crate::schedule::load::FRAMES_MAX;
use crate::schedule::load::Load;
use crate::schedule::steps;
use crate::schedule::stop_number::StopNumber;

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::schedule) enum Stage {
    Starting,
    Ready,
    /// Told to stop: it runs what it holds and leaves. Its replacement is being started already.
    Retiring,
    /// As `Retiring`, but for good: a refused frame does not make it `Ready` again.
    Leaving,
}

/// One worker.
#[derive(Debug)]
pub(in crate::schedule) struct RosterEntry {
    pub(in crate::schedule) stage: Stage,
    pub(in crate::schedule) load: Load,
    /// Its link has refused a frame. Cleared by the next answer, or when the link reports that it has room.
    pub(in crate::schedule) link_full: bool,
    /// When it became ready.
    pub(in crate::schedule) ready_since: Instant,
    /// When it was last seen to run out of work.
    pub(in crate::schedule) idle_since: Instant,
    /// When work was last recalled from it.
    recalled_at: Option<Instant>,
    /// When its only item is recalled if it has not begun by then. A worker that runs begins it at once; one that is stopped
    /// may never.
    lone_due: Option<Instant>,
    /// An item was recalled from it that it had not begun in time. It is employed last, until it answers one.
    pub(in crate::schedule) is_unresponsive: bool,
    /// It was told to leave so that another takes its place.
    pub(in crate::schedule) is_recycled: bool,
    /// Its last stop, if it was not withdrawn.
    pub(in crate::schedule) stop: StopNumber,
    /// Where the indices have it.
    pub(super) marks: Marks,
}

impl RosterEntry {
    pub(in crate::schedule) fn new(tasks_max: Option<u64>, now: Instant) -> Self {
        Self {
            stage: Stage::Starting,
            load: Load::new(tasks_max),
            link_full: false,
            ready_since: now,
            idle_since: now,
            recalled_at: None,
            lone_due: None,
            is_unresponsive: false,
            is_recycled: false,
            stop: StopNumber::default(),
            marks: Marks::default(),
        }
    }

    pub(in crate::schedule) fn load(&self) -> &Load {
        steps::count();
        &self.load
    }

    /// Whether nothing has been decided that makes it leave.
    pub(in crate::schedule) fn is_staying(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Ready)
    }

    /// Whether it stays and is not idle.
    pub(super) fn is_staying_busy(&self) -> bool {
        steps::count();
        self.is_staying() && !self.is_idle()
    }

    /// Whether it waits for work and can be sent some.
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Ready && self.load.is_empty() && !self.link_full
    }

    /// How much work it has ahead, if it is busy and may be sent more.
    pub(super) fn light_ns(&self) -> Option<u64> {
        let is_light = self.stage == Stage::Ready
            && !self.link_full
            && !self.load.is_empty()
            && self.load.frames() < FRAMES_MAX
            && self.load.backlog_ns() < BACKLOG_NS;
        is_light.then(|| self.load.backlog_ns())
    }

    /// Since when it holds more than it runs, and nothing was sent to it or recalled from it.
    pub(super) fn stocked_since(&self) -> Option<Instant> {
        match self.load.items() > 1 {
            true => self.load.last_sent_at().max(self.recalled_at),
            false => None,
        }
    }

    /// It holds this one frame since now. If that has one item, it is recalled after `delay` if it has not begun.
    pub(in crate::schedule) fn set_lone_due(&mut self, delay: Duration, now: Instant) {
        self.lone_due = (self.load.items() == 1).then_some(now + delay);
    }

    /// When its only item must be recalled, if it has not begun by then.
    pub(super) fn lone_due(&self) -> Option<Instant> {
        self.lone_due.filter(|_| self.load.items() == 1)
    }

    /// Another stop is decided, or the last one is withdrawn.
    pub(in crate::schedule) fn next_stop(&mut self) -> StopNumber {
        self.stop = self.stop.next();
        self.stop
    }

    /// A recall was decided. If it returns nothing, the next one waits its time.
    pub(in crate::schedule) fn recalled(&mut self, now: Instant) {
        self.recalled_at = Some(now);
        // What is not returned has begun.
        self.lone_due = None;
    }
}
