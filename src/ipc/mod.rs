//! Processes that talk, and memory that they share and change.
//!
//! ```text
//!   channel    what users call: senders, receivers, one-shot replies
//!   wait       waiting for the first of several things
//!   memory     what users call: atomics and arrays
//!   sync       what users call: locks and their kin
//!   gate       sleeping until the other side changes something, and waking it
//!   latch      a short lock whose holder may die
//!   segment    the memory that the processes share
//! ```
//!
//! The rules of the room. Every process that has an end of an object may write any byte of its segment at any time, so a
//! segment is touched by atomics and by copies only, and every number is checked in a copy. A process may die at any
//! instruction: a change is published by one store, and a death before it is as if nothing had happened. A segment
//! holds no pointer. The end of a process is told by the kernel, which closes its descriptors.

pub(crate) mod channel;
mod deadline;
mod gate;
mod latch;
pub(crate) mod memory;
mod segment;
pub(crate) mod sync;
pub(crate) mod wait;
