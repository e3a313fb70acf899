//! The public API: the pool, its builder, its calls, and what they return.
//!
//! Values become bytes here, and bytes values, on the thread that made the call: iterators of the user and serde run in
//! no other layer of the parent. What lies below moves bytes, and is reached through the verbs of
//! [`Backend`](crate::driver::Backend) only.

mod arrived;
mod autosave;
pub(crate) mod builder;
pub(crate) mod call;
mod calls;
mod checks;
pub(crate) mod chunks;
mod encoder;
pub mod forkserver;
pub(crate) mod future;
mod hooks;
pub(crate) mod imap;
pub(crate) mod init;
mod input;
mod listening;
mod map;
pub(crate) mod observe;
mod pinning;
pub(crate) mod pool;
pub(crate) mod prepare;
pub(crate) mod progress;
mod pull;
pub(crate) mod reductions;
mod request;
pub(crate) mod results;
pub(crate) mod reusable;
pub(crate) mod stream;
mod worker_settings;
pub(crate) mod workers;
