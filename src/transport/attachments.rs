//! What workers have sent on the control socket, beside answers: the files of large values, and what values carry.
//!
//! Also called: out-of-band data.

use std::collections::VecDeque;

use crate::values::parcel::Arrived;

/// What came from a worker beside its answer, or why that is nothing of the kind.
pub(crate) type Received = Result<Arrived, String>;

/// The attachments of one worker whose answers have not been taken in.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    arrived: VecDeque<(u32, Received)>,
    /// How many were lost, because this process's descriptor table was full.
    lost: u32,
}

impl Attachments {
    /// One has come, with its number.
    pub(crate) fn add(&mut self, number: u32, received: Received) {
        self.arrived.push_back((number, received));
    }

    /// One has come, and was lost, because no descriptor was left in this process.
    pub(crate) fn lose(&mut self) {
        self.lost += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.arrived.len()
    }

    /// Whether one of them carries descriptors.
    pub(crate) fn carry(&self) -> bool {
        self.arrived.iter().any(|(_, received)| received.as_ref().is_ok_and(|arrived| arrived.carried_len() > 0))
    }

    /// The one with this number, if it has come.
    pub(crate) fn take(&mut self, number: u32) -> Option<Received> {
        let position = self.arrived.iter().position(|(found, _)| *found == number)?;
        // Those before it belong to answers that did not come: a worker that numbers wrongly gains nothing.
        self.arrived.drain(..=position).next_back().map(|(_, received)| received)
    }

    /// Whether one was lost that no answer has told yet.
    pub(crate) fn has_loss(&self) -> bool {
        self.lost > 0
    }

    /// Whether one was lost, and with it an answer's value. Each loss is told once.
    pub(crate) fn take_loss(&mut self) -> bool {
        let is_lost = self.has_loss();
        self.lost -= u32::from(is_lost);
        is_lost
    }
}
