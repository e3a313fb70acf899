//! Channels between processes: many senders, many receivers, always bounded.
//!
//! ```text
//!   sender ──▶ encode ──▶ senders' latch: wake, write, publish ──▶ ring ──▶ receivers' latch: copy, wake, publish ──▶ decode ──▶ receiver
//!                         large: a file ──────────────────────▶ socket ──▶
//! ```
//!
//! What always holds, whichever process dies at whichever instruction:
//!
//! - A message is received once at most. It is lost only if a receiver dies that has taken it.
//! - Messages of one sender arrive in the order in which it sent them.
//! - The channel never holds more messages than it may.
//! - No process that lives waits for one that is dead: latches of the dead are opened by the kernel, sleepers of a
//!   [`gate`](crate::ipc::gate) are woken by the next change, and the end of a side is told by the kernel.

mod attachments;
mod counts;
mod duplex;
mod end;
mod error;
mod message;
mod oneshot;
mod open;
mod position;
mod receiver;
mod record;
mod sender;
mod shared;

#[cfg(test)]
mod tests;

pub use self::duplex::Duplex;
pub use self::duplex::duplex;
pub use self::error::RecvError;
pub use self::error::SendError;
pub use self::oneshot::Answer;
pub use self::oneshot::Reply;
pub use self::oneshot::oneshot;
pub use self::open::Options;
pub use self::open::bounded;
pub use self::receiver::IntoIter;
pub use self::receiver::Iter;
pub use self::receiver::Receiver;
pub use self::sender::Sender;
