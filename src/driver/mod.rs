//! Which thread drives the engine, and how the others wait.
//!
//! There is no dispatcher thread. *The thread that waits, drives*: a thread that is blocked in `get`, `map` or `next`
//! takes the **seat**, runs turns of the engine itself, and sleeps in the epoll set between them, so that the result it
//! waits for wakes it directly. At most one thread has the seat:
//!
//! ```text
//!   Empty ──────── a waiting thread ──────────▶ Foreground ── its wait is over ──▶ Empty, or the next waiter
//!   Empty ── not driven for a while ──────────▶ Background ── displaced by a waiter ─▶ Foreground
//! ```
//!
//! - A thread that must wait while the seat is taken *follows*: it sleeps on a condition variable of its own, and is
//!   woken when its job makes progress, or when the seat becomes empty and it may take it.
//! - The **background thread** drives when no thread waits: for results that are fetched later, for callbacks and
//!   wakers, for workers that die. It never takes the seat from a waiting thread. If it took over at once, every short
//!   call would cost two context switches, so it first watches for a while, unless a callback or a waker is due. While
//!   it has the seat it sleeps in poll(2) on the epoll set *and* a bell of its own, so that a waiter that displaces it
//!   does not compete with it for events.
//! - While the seat is empty, events wait in the kernel. None is lost.
//!
//! Invariant: every wait is for a condition on the engine that is checked under the lock, and the thread that makes the
//! condition true does so under the same lock and then wakes every thread that may sleep on it: a follower through its
//! condition variable, the driver through the doorbell. So no wake-up is lost.
//!
//! The API reaches all this through the verbs of [`Backend`] and never touches the engine.
//!
//! Also called: leader/followers, reactor, event loop without a dedicated thread.

mod backend;
mod background;
mod callbacks;
mod effects;
mod end;
mod listener;
mod outlet;
mod seat;
mod shared;
mod start;
pub(crate) mod told;
mod verbs;

pub(crate) use backend::Backend;
pub(crate) use backend::Exchange;
pub(crate) use backend::IfClosed;
pub(crate) use backend::More;
pub(crate) use backend::Opening;
pub(crate) use start::start;

pub(crate) use crate::engine::GRACE;
pub(crate) use crate::work::group::Completion;
pub(crate) use crate::work::group::DrivenBy;
pub(crate) use crate::work::group::Group;
pub(crate) use crate::work::jobs::Leftover;
