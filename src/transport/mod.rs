//! The link to one worker: orders down, answers up, each in order and whole or not at all.
//!
//! ```text
//!   parent                                              worker
//!   send ─────────────── orders ──────────────────────▶ record
//!   next ◀────────────── answers ─────────────────────── answer, finish
//!   recall ◀──── orders that have not begun
//! ```
//!
//! There are two kinds: [rings](ring) in shared memory, which need no system call for an order while both sides are
//! awake; and a [socket], where the kernel, a security filter or the limits of a process refuse shared memory. Nothing
//! outside this folder knows which kind a worker has: the engine uses a [`Link`](link::Link), the worker a
//! [`WorkerLink`](worker_link::WorkerLink).
//!
//! Both kinds promise: the worker receives an order whole or never; an order that was taken back has not begun; answers
//! that the worker gave before it died can still be received; sending never blocks the parent.
//!
//! Also called: message passing, shared-memory queue, SPSC ring buffer.

pub(crate) mod answer;
pub(crate) mod arrival;
pub(crate) mod attachments;
pub(crate) mod control;
pub(crate) mod first_call;
pub(crate) mod frame;
pub(crate) mod introduction;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod note;
pub(crate) mod outlets;
pub(crate) mod panic_record;
pub(crate) mod record;
pub(crate) mod ring;
pub(crate) mod socket;
pub(crate) mod worker_link;
