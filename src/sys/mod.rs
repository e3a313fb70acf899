//! Thin layers over the operating system: wake-ups, waiting, clocks, CPUs, stacks, how processes start, and what a process
//! knows of itself.

pub(crate) mod affinity;
pub(crate) mod bell;
pub(crate) mod clock;
pub(crate) mod condvar;
pub(crate) mod failpoint;
pub(crate) mod file_size;
pub(crate) mod generation;
pub(crate) mod id_hasher;
pub(crate) mod identity;
pub(crate) mod memfd;
pub(crate) mod owner_process;
pub(crate) mod payload;
pub(crate) mod pid_max;
pub(crate) mod poll;
pub(crate) mod processor;
pub(crate) mod resident;
pub(crate) mod spin;
pub(crate) mod stack;
pub(crate) mod start_choice;
pub(crate) mod table_full;
pub(crate) mod waiters;
