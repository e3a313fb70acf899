//! Sets of processors that workers are bound to.

use std::io;

use nix::errno::Errno;
use nix::sched::CpuSet;
use nix::sched::sched_getaffinity;
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;

/// The calling thread, for the system calls of this file.
fn this_thread() -> Pid {
    Pid::from_raw(0)
}

/// Binds this thread, and those that it starts, to these processors.
///
/// # Errors
///
/// There is no such processor, or this process may use none of them.
pub(crate) fn bind(processors: &[usize]) -> io::Result<()> {
    Ok(sched_setaffinity(this_thread(), &set_of(processors)?)?)
}

/// Whether a thread of this process can be bound to these processors. This one is, for a moment.
///
/// # Errors
///
/// As for [`bind`].
pub(crate) fn try_bind(processors: &[usize]) -> io::Result<()> {
    let before = sched_getaffinity(this_thread())?;
    let bound = bind(processors);
    sched_setaffinity(this_thread(), &before)?;
    bound
}

/// The processors that this thread may use.
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(this_thread())?;
    Ok((0..CpuSet::count()).filter(|&processor| allowed.is_set(processor).unwrap_or(false)).collect())
}

fn set_of(processors: &[usize]) -> Result<CpuSet, Errno> {
    let mut set = CpuSet::new();
    processors.iter().try_for_each(|&processor| set.set(processor))?;
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_changes_nothing() {
        let before = allowed().unwrap();
        try_bind(&before[..1]).unwrap();
        for wrong in [&[][..], &[1 << 20]] {
            try_bind(wrong).unwrap_err();
        }
        assert_eq!(allowed().unwrap(), before);
    }
}
