//! What must be done when the lock has been let go.

use std::sync::Arc;
use std::task::Waker;

use log::Level;
use start_methods::Child;

use crate::observe::event::Event;
use crate::observe::hook::EventLine;
use crate::values::blob::Kept;
use crate::values::parcel::Parcel;
use crate::work::jobs::Callback;
use crate::work::jobs::Log;

/// Something of the user's that is due.
pub(crate) enum Due {
    /// A callback, whose job has finished.
    Call(Callback, Arc<Log>),
    /// The waker of a task that awaits a job.
    Wake(Waker),
    /// A line for the user's logger.
    Log(Level, String),
    /// An event for the user's function.
    Event(Arc<EventLine>, Box<Event>),
}

/// What must be done when the lock has been let go.
#[derive(Default)]
pub(crate) struct Effects {
    /// Worker processes to be started, by the background thread.
    pub(crate) starts: usize,
    /// For the callback thread: users' callbacks, and lines for the user's logger.
    pub(crate) calls: Vec<Due>,
    /// For the callback thread too: events, if they are told.
    pub(crate) events: Vec<Event>,
    /// For the waker thread: the wakers of tasks for which there is news.
    pub(crate) wakers: Vec<Waker>,
    /// Processes that are not needed: dropping one waits for its end.
    pub(crate) unwanted: Vec<Child>,
    /// The template of a fork pool has died. Only a thread of the user's that waits for the pool may replace it: beside that
    /// thread there may be no foreign one.
    pub(crate) template_died: bool,
    /// A worker cannot use its link: later workers get one of another kind.
    pub(crate) link_refused: bool,
    /// Values that are not needed any more: giving their memory back takes the kernel a while, and the close of what they
    /// carry too.
    pub(crate) spent: Vec<Parcel>,
    /// Results that hold a descriptor too many: copying them into memory takes time.
    pub(crate) excess: Vec<Parcel>,
    /// Memory that was kept for large values, of which there are none any more.
    pub(crate) unused: Vec<Kept>,
}

impl Effects {
    /// The worker that had this argument has answered.
    pub(crate) fn release(&mut self, parcel: Parcel) {
        parcel.mark_answered();
        self.spent.push(parcel);
    }

    pub(crate) fn log(&mut self, level: Level, text: String) {
        self.calls.push(Due::Log(level, text));
    }

    /// Whether there is nothing for just any thread to do.
    pub(crate) fn is_settled(&self) -> bool {
        let is_dropped = self.unwanted.is_empty() && self.spent.is_empty() && self.unused.is_empty();
        let is_copied = self.excess.is_empty();
        let is_told = self.calls.is_empty() && self.events.is_empty();
        is_told && self.wakers.is_empty() && is_dropped && is_copied && !self.link_refused
    }
}
