//! Events of workers: started, ready, settled, refused, recalled, dismissed, exited.

use std::time::Instant;

use crate::schedule::departure::Departure;
use crate::schedule::departure::FirstItem;
use crate::schedule::departure::Lost;
use crate::schedule::load::FinishedFrame;
use crate::schedule::load::ItemId;
use crate::schedule::load::MayHaveBegun;
use crate::schedule::queue::DEATHS_MAX;
use crate::schedule::queue::JobQueue;
use crate::schedule::restarts::Ending;
use crate::schedule::roster::RosterEntry;
use crate::schedule::roster::Stage;
use crate::schedule::state::Lifecycle;
use crate::schedule::state::Schedule;
use crate::schedule::worker_id::WorkerId;
use crate::work::batch::JobId;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::UnbegunWork;

impl Schedule {
    /// A decided start has become a process.
    pub(crate) fn started(&mut self, worker: WorkerId, now: Instant) {
        self.starts_dropped(1);
        self.roster.insert(worker, RosterEntry::new(self.tasks_max, now));
        // The pool may have been made smaller since the start was decided.
        self.trim();
    }

    /// A decided start has failed before there was a process.
    pub(crate) fn start_failed(&mut self, ending: Ending, now: Instant) {
        self.starts_dropped(1);
        self.count_start_failure(ending, now);
        self.balance(now);
    }

    /// The cause of failed starts is gone.
    pub(crate) fn retry_starts(&mut self, now: Instant) {
        self.restarts.succeeded();
        self.balance(now);
    }

    /// The engine could not carry out so many decided starts, or no longer needed to.
    pub(crate) fn starts_dropped(&mut self, count: usize) {
        self.starts_pending = self.starts_pending.checked_sub(count).expect("a start is answered once");
    }

    /// How many starts have failed in a row.
    pub(crate) fn start_failures(&self) -> u32 {
        self.restarts.count()
    }

    /// The worker has run its initializer and waits for work.
    pub(crate) fn ready(&mut self, worker: WorkerId, now: Instant) {
        self.restarts.succeeded();
        let greeted = self.roster.change(worker, |entry| {
            if entry.stage == Stage::Starting {
                entry.stage = Stage::Ready;
                entry.ready_since = now;
                entry.idle_since = now;
            }
        });
        if greeted.is_some() {
            self.dispatch(now);
        }
    }

    /// Whether the worker holds nothing that was sent before this frame.
    pub(crate) fn holds_only(&self, worker: WorkerId, number: FrameNumber) -> bool {
        self.roster.get(worker).is_some_and(|entry| entry.load.front() == Some(number))
    }

    /// Whether nothing has been decided that makes the worker leave.
    pub(crate) fn is_staying(&self, worker: WorkerId) -> bool {
        self.roster.get(worker).is_some_and(RosterEntry::is_staying)
    }

    /// The item that the worker must answer next.
    pub(crate) fn running(&self, worker: WorkerId) -> Option<ItemId> {
        self.roster.get(worker)?.load.running()
    }

    /// How many items the worker holds.
    pub(crate) fn items_held(&self, worker: WorkerId) -> u64 {
        self.roster.get(worker).map_or(0, |entry| entry.load.items())
    }

    /// How many workers hold work.
    pub(crate) fn busy(&self) -> usize {
        self.roster.busy()
    }

    /// The worker has answered its next items, all of one frame. Returns the frame if it has no more items.
    pub(crate) fn settled(&mut self, worker: WorkerId, items: u32, now: Instant) -> Option<FinishedFrame> {
        self.roster.answered();
        self.roster.change_live(worker, |entry| {
            entry.link_full = false;
            entry.is_unresponsive = false;
            let finished = entry.load.settle(items, now);
            if entry.load.is_empty() {
                entry.idle_since = now;
            }
            finished
        })
    }

    /// Called after one or more [`settled`](Self::settled): sends the worker more work, and decides what else is due.
    pub(crate) fn after_settled(&mut self, now: Instant) {
        self.dispatch(now);
    }

    /// The link took only `items_taken` items of this frame, and will take none of the frames that were decided for the
    /// worker after it. All of that goes back to the front of its queues.
    pub(crate) fn send_refused(&mut self, worker: WorkerId, number: FrameNumber, items_taken: u32) {
        if self.lifecycle == Lifecycle::Ended {
            return;
        }
        let refused = self.roster.change(worker, |entry| {
            let returned = entry.load.take_from(number, items_taken);
            entry.link_full = true;
            // A stop behind the refused frames is withdrawn, unless the worker must leave in any case.
            let stays = entry.stage == Stage::Retiring && entry.load.allowance() != Some(0);
            if stays {
                entry.stage = Stage::Ready;
                entry.next_stop();
            }
            (returned, stays)
        });
        let Some((returned, stays)) = refused else { return };
        if stays {
            // The replacement that was decided with its retirement is not needed.
            self.take_back_start();
        }
        self.backlog.put_back(returned);
    }

    /// The job is served next, if it has work: what was refused must not be overtaken for ever.
    pub(crate) fn serve_next(&mut self, job: JobId) {
        self.backlog.serve_next(job);
    }

    /// The job is served after the others that have work.
    pub(crate) fn serve_last(&mut self, job: JobId) {
        self.backlog.serve_last(job);
    }

    /// The link to the worker may have room again. Decides nothing yet.
    pub(crate) fn clear_link_full(&mut self, worker: WorkerId) {
        if self.roster.get(worker).is_some_and(|entry| entry.link_full) {
            self.roster.change(worker, |entry| entry.link_full = false);
        }
    }

    /// This work was taken back before the worker had begun it. Frames need not be the last ones: the worker may read one
    /// while the parent takes the next. Returns the item that is lost for good, if any: one that worker after worker
    /// leaves without having begun it, as each reports.
    pub(crate) fn recalled(&mut self, worker: WorkerId, unbegun: &UnbegunWork, now: Instant) -> Vec<Lost> {
        if self.lifecycle == Lifecycle::Ended {
            return Vec::new();
        }
        // Taken back because its call was cancelled, and not because the worker is slow to begin it.
        let is_cancelled = |item: ItemId| self.backlog.queue(item.job).is_some_and(JobQueue::is_cancelled);
        let is_unwanted = self.running(worker).is_some_and(is_cancelled);
        let returned = self.roster.change(worker, |entry| {
            let first = entry.load.running();
            let is_lone = entry.stage == Stage::Ready && entry.load.items() == 1 && !is_unwanted;
            let returned = entry.load.take_unbegun(unbegun);
            let is_lone = is_lone && entry.load.is_empty();
            entry.is_unresponsive |= is_lone;
            if entry.load.is_empty() {
                // No answer will come that would show that the link has room.
                entry.link_full = false;
                entry.idle_since = now;
            }
            let is_left = entry.stage == Stage::Leaving && entry.load.is_empty();
            (returned, first.filter(|_| is_left), is_lone)
        });
        let Some((mut returned, left, is_lone)) = returned else { return Vec::new() };
        if is_lone {
            self.roster.lone_recalled();
        }
        let deaths = left.map_or(0, |item| self.backlog.count_death(item));
        let lost = match deaths >= DEATHS_MAX {
            true => self.backlog.lose_first(&mut returned),
            false => Vec::new(),
        };
        self.backlog.put_back(returned);
        self.dispatch(now);
        lost
    }

    /// The worker is sent nothing more: it ends what it is running and leaves.
    pub(crate) fn dismiss(&mut self, worker: WorkerId, now: Instant) {
        if self.lifecycle != Lifecycle::Ended {
            self.make_leave(worker);
            self.dispatch(now);
        }
    }

    /// As [`dismiss`](Self::dismiss), for a worker that is sound and is to be replaced.
    pub(crate) fn replace(&mut self, worker: WorkerId, now: Instant) {
        if self.lifecycle != Lifecycle::Ended {
            self.recycle(worker);
            self.dispatch(now);
        }
    }

    /// The worker has ended, and all its answers have been settled. Returns the items that are lost with it and are not
    /// run again: those that it may have been running, at most one unless its departure is incoherent.
    pub(crate) fn exited(&mut self, worker: WorkerId, departure: Departure, now: Instant) -> Vec<Lost> {
        let Departure { unbegun, first, is_coherent, may_retry, ending } = departure;
        let Some(mut entry) = self.roster.remove(worker) else { return Vec::new() };
        if self.lifecycle == Lifecycle::Ended {
            // What it held was settled with the pool.
            return Vec::new();
        }
        let deaths = entry.load.running().map_or(0, |item| self.backlog.count_death(item));
        let unbegun = match first == FirstItem::Blamed || deaths >= DEATHS_MAX {
            true => unbegun.with_first_begun(entry.load.items(), entry.load.front()),
            false => unbegun,
        };
        let may_have_begun = match unbegun {
            UnbegunWork::Frames(_) if is_coherent => MayHaveBegun::First,
            _ => MayHaveBegun::All,
        };
        let returned = entry.load.take_unbegun(&unbegun);
        let (lost, not_begun) = entry.load.into_lost(may_have_begun);
        self.backlog.put_back(returned);
        self.backlog.put_back(not_begun);
        let lost = self.backlog.lose(lost, may_retry);
        if entry.stage == Stage::Starting {
            self.count_start_failure(ending, now);
        }
        self.dispatch(now);
        lost
    }
}
