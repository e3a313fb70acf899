//! What was decided and is not carried out yet. Pure.
//!
//! A decision that is withdrawn stays where it is and is skipped when its turn comes: a search for it would take as many
//! steps as there are decisions.

use std::collections::VecDeque;

use crate::schedule::action::Action;
use crate::schedule::roster::Roster;
use crate::schedule::steps;
use crate::schedule::stop_number::StopNumber;
use crate::schedule::worker_id::WorkerId;
use crate::work::batch::Span;
use crate::work::unbegun::FrameNumber;

/// A decision. A frame counts only while its worker is to hold it.
#[derive(Debug)]
enum Decision {
    Send(WorkerId, Span, FrameNumber),
    Stop(WorkerId, StopNumber),
    Recall(WorkerId),
    Break,
}

/// Decisions in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    decisions: VecDeque<Decision>,
    /// Workers that are to be started, after all other decisions.
    starts: usize,
}

impl Agenda {
    pub(super) fn send(&mut self, worker: WorkerId, span: Span, number: FrameNumber) {
        self.decisions.push_back(Decision::Send(worker, span, number));
    }

    pub(super) fn stop(&mut self, worker: WorkerId, number: StopNumber) {
        self.decisions.push_back(Decision::Stop(worker, number));
    }

    pub(super) fn recall(&mut self, worker: WorkerId) {
        self.decisions.push_back(Decision::Recall(worker));
    }

    pub(super) fn break_pool(&mut self) {
        self.decisions.push_back(Decision::Break);
    }

    pub(super) fn start(&mut self) {
        self.starts += 1;
    }

    /// Withdraws a start. Whether there was one.
    pub(super) fn take_back_start(&mut self) -> bool {
        let has_one = self.starts > 0;
        self.starts -= usize::from(has_one);
        has_one
    }

    /// Withdraws everything. Returns how many starts were among it.
    pub(super) fn clear(&mut self) -> usize {
        std::mem::take(self).starts
    }

    /// The oldest decision that counts.
    pub(super) fn next(&mut self, roster: &Roster) -> Option<Action> {
        while let Some(decision) = self.decisions.pop_front() {
            steps::count();
            match decision {
                Decision::Send(worker, span, number) if roster.is_to_hold(worker, number) => {
                    return Some(Action::Send(worker, span, number));
                }
                Decision::Stop(worker, number) if roster.is_to_stop(worker, number) => {
                    return Some(Action::Stop(worker));
                }
                Decision::Send(..) | Decision::Stop(..) => {}
                Decision::Recall(worker) => return Some(Action::Recall(worker)),
                Decision::Break => return Some(Action::Break),
            }
        }
        self.take_back_start().then_some(Action::Start)
    }
}
