//! System calls, descriptors, sockets and threads: what the rest of the crate needs of Linux.

pub(crate) mod calls;
pub(crate) mod closer;
pub(crate) mod environ;
#[doc(hidden)]
pub mod failpoint;
pub(crate) mod faults;
pub(crate) mod fd;
pub mod image;
pub(crate) mod process;
pub(crate) mod socket;
pub mod threads;
pub(crate) mod unshared;
pub(crate) mod wait;
