//! The public face: the pool, its builder, its calls, and what they return.

pub(crate) mod builder;
pub(crate) mod call;
pub(crate) mod encoder;
pub mod forkserver;
pub(crate) mod imap;
pub(crate) mod init;
pub(crate) mod map;
pub(crate) mod pool;
pub(crate) mod results;
