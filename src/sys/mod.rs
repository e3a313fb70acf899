//! Thin layers over the operating system: wake-ups, waiting, clocks, CPUs, stacks, and the identity of a process.

pub(crate) mod bell;
pub(crate) mod clock;
pub(crate) mod condvar;
pub(crate) mod failpoint;
pub(crate) mod file_size;
pub(crate) mod id_hasher;
pub(crate) mod memfd;
pub(crate) mod owner_process;
pub(crate) mod payload;
pub(crate) mod pid_max;
pub(crate) mod poll;
pub(crate) mod processor;
pub(crate) mod resident;
pub(crate) mod spin;
pub(crate) mod stack;
pub(crate) mod table_full;
pub(crate) mod waiters;
