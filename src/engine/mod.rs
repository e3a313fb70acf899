//! The engine: all state of a pool, behind one mutex, and what follows from each event.
//!
//! ```text
//!             requests (API)        turn (events)
//!                   │    ┌───────────────┤
//!                   │    │    limits   exits
//!                   │    │       │  ┌────┘
//!                   ▼    ▼       ▼  ▼
//!                  state ◀── answers, reports
//!          ┌─────────┼──────────┐
//!      job_table  Schedule   workers ── worker_handle ── Link
//! ```
//!
//! The two halves know nothing of each other: [`job_table`] keeps the jobs, [`workers`] keeps the workers. The schedule
//! decides and touches neither. [`state`] is the one place that puts events in order: it tells the schedule
//! what happened, and carries out what the schedule decides.
//!
//! The engine never blocks, and runs no code of the user: no serde, no iterator, no callback. Whatever must not be done
//! under the lock (starting a process, waking a task of the user's runtime, giving back large memory) is left in
//! [`effects`] for the thread that drives.
//!
//! Also called: event loop, reactor, supervisor.

mod answers;
pub(crate) mod config;
pub(crate) mod effects;
mod exits;
mod job_table;
mod lanes;
mod limits;
mod observer;
mod reports;
mod requests;
pub(crate) mod rounds;
mod sight;
mod slow;
mod starts;
mod state;
mod timeline;
mod trust;
mod turn;
pub(crate) mod watch;
mod worker_handle;
mod workers;

pub(crate) use self::state::Engine;
pub(crate) use self::state::GRACE;
pub(crate) use self::workers::Ringers;
