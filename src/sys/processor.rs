//! CPU affinity: on which CPU a thread runs, and how it migrates to another; and how many CPUs there are.
//!
//! Two threads that wait for each other on one CPU must not spin: while one spins, the other cannot run. The kernel
//! often wakes a thread on the CPU of its waker, and where CPUs share no cache it does not search for an idle one; then
//! it may leave both threads there for many milliseconds.

use std::fs;
use std::num::NonZero;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use nix::sched::CpuSet;
use nix::sched::sched_getaffinity;
use nix::sched::sched_getcpu;
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;

/// The number of a CPU, or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu(Option<usize>);

impl Cpu {
    /// The CPU on which this thread runs.
    #[inline]
    pub(crate) fn current() -> Self {
        Self(sched_getcpu().ok())
    }

    /// Whether both are known and the same.
    pub(crate) fn is(self, other: Self) -> bool {
        self.0.is_some() && self == other
    }

    /// As a number for shared memory: zero, which fresh memory holds, is unknown.
    pub(crate) fn to_word(self) -> u64 {
        self.0.map_or(0, |number| number as u64 + 1)
    }

    /// The CPU that [`to_word`](Self::to_word) has encoded; unknown if the number is too large.
    pub(crate) fn from_word(word: u64) -> Self {
        Self(word.checked_sub(1).and_then(|number| usize::try_from(number).ok()))
    }

    /// Migrates this thread from this CPU to any other that it may use. Returns whether it has migrated; the kernel may
    /// bring it back at any time.
    ///
    /// Does nothing under a system call filter: filters may forbid sched_setaffinity(2), and often kill on a violation.
    pub(crate) fn migrate_away(self) -> bool {
        let this_thread = Pid::from_raw(0);
        if is_filtered() {
            return false;
        }
        let (Some(number), Ok(allowed)) = (self.0, sched_getaffinity(this_thread)) else { return false };
        let mut others = allowed;
        if others.unset(number).is_err() || sched_setaffinity(this_thread, &others).is_err() {
            // This thread may use no other CPU.
            return false;
        }
        // The kernel remembers the mask that was requested, and applies it when the cpuset changes. So a thread that was
        // unbound is made unbound again: requesting its present mask would bind it to these CPUs for ever.
        let unbound = sched_setaffinity(this_thread, &all_cpus()).and_then(|()| sched_getaffinity(this_thread));
        if unbound != Ok(allowed)
            && let Err(errno) = sched_setaffinity(this_thread, &allowed)
        {
            log::debug!("the CPU affinity of a worker was not restored: {errno}");
        }
        true
    }
}

/// The mask of an unbound thread.
fn all_cpus() -> CpuSet {
    let mut all = CpuSet::new();
    for number in 0..CpuSet::count() {
        all.set(number).expect("it is one of so many");
    }
    all
}

/// Whether this thread runs under seccomp(2), read from /proc: prctl(2) might be forbidden as well.
fn is_filtered() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    !status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "0"))
}

/// The number of CPUs that this process may use now: the affinity mask and the quotas of both versions of cgroups, as
/// the standard library reads them.
pub(crate) fn available() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// [`available`], cached at the first call: computing it takes as long as starting a process, and a hint is enough.
pub(crate) fn available_at_first() -> usize {
    // Relaxed: the number stands alone, and threads that race here store the same hint.
    static PROCESSORS: AtomicUsize = AtomicUsize::new(0);
    match PROCESSORS.load(Ordering::Relaxed) {
        0 => {
            let processors = available();
            PROCESSORS.store(processors, Ordering::Relaxed);
            processors
        }
        known => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_come_back_from_their_words() {
        for cpu in [Cpu(None), Cpu(Some(0)), Cpu(Some(191))] {
            assert_eq!(Cpu::from_word(cpu.to_word()), cpu);
        }
        assert!(!Cpu(None).is(Cpu(None)) && Cpu(Some(3)).is(Cpu(Some(3))));
        assert!(!Cpu::from_word(u64::MAX).is(Cpu::current()));
    }

    #[test]
    fn leaving_changes_nothing_that_lasts() {
        let allowed = || sched_getaffinity(Pid::from_raw(0)).unwrap();
        let (before, here) = (allowed(), Cpu::current());
        let count = (0..CpuSet::count()).filter(|&number| before.is_set(number).unwrap()).count();
        // The kernel may have moved the thread since `here` was read; then there is nothing to leave.
        assert!(here.migrate_away() || count == 1 || is_filtered());
        assert_eq!(allowed(), before);
        // A bound thread stays bound to the same CPUs.
        if let Some(first) = (0..CpuSet::count()).find(|&number| before.is_set(number).unwrap()) {
            let mut bound = before;
            bound.unset(first).unwrap();
            if sched_setaffinity(Pid::from_raw(0), &bound).is_ok() {
                Cpu::current().migrate_away();
                assert_eq!(allowed(), bound);
            }
        }
    }
}
