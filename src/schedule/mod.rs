//! The scheduler: decides what every worker does next, and how many workers there are. Pure: it has no process, no
//! descriptor and no clock of its own.
//!
//! The engine reports each event by calling a method of [`Schedule`], and carries out the [`Action`]s that
//! [`Schedule::next_action`] then returns. The rules:
//!
//! - **FIFO per worker.** A worker runs its frames in the order in which they were sent, and answers item by item. So the
//!   parent always knows what a worker holds, and when it dies, at most one item was running: the first unanswered one.
//! - **Round robin between jobs**, first in first out inside one: a long `map` never starves a short `apply`.
//! - **Prefetch is measured.** A worker is sent work ahead only while the estimated time of what it holds is below
//!   [`BACKLOG_NS`](load::BACKLOG_NS). If the estimate was wrong and another worker is idle, what has not begun is recalled.
//! - **Busy workers never exceed `processes`**, though a replacement is started before the old worker has left.
//! - **An item is handed out once**, unless its call asks for retries: what a worker may have begun when it died is lost,
//!   and what it cannot have begun goes back to the front of its queue.
//! - **An item costs [`DEATHS_MAX`](queue::DEATHS_MAX) workers at most**, whatever they report: each death counts against the
//!   item that its worker held first.
//! - **A failed start counts; a worker that becomes ready resets the count.** Deaths in the middle of work never count.
//!
//! Also called: scheduler, load balancing, backpressure, prefetch, work stealing (here *recall*: the parent takes work
//! back from a busy worker for an idle one), autoscaling.

mod action;
mod agenda;
mod backlog;
mod decide;
mod departure;
mod jobs;
mod lifecycle;
pub(crate) mod load;
mod policy;
mod queue;
pub(crate) mod restarts;
mod roster;
#[cfg(test)]
mod scale;
pub(crate) mod size;
mod state;
mod steps;
mod stop_number;
pub(crate) mod time_limit;
mod timers;
mod view;
#[cfg(any(test, fuzzing))]
pub(crate) mod walk;
mod worker_id;
mod workers;

pub(crate) use self::action::Action;
pub(crate) use self::departure::Departure;
pub(crate) use self::departure::FirstItem;
pub(crate) use self::departure::Lost;
pub(crate) use self::policy::PoolPolicy;
pub(crate) use self::state::Schedule;
pub(crate) use self::view::WorkerView;
pub(crate) use self::worker_id::WorkerId;
