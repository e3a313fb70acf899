//! The three start methods, and [`Starter`](crate::Starter), which chooses between them.

pub(crate) mod fork;
pub mod forkserver;
pub(crate) mod spawn;
pub(crate) mod starter;
