//! Checks of settings that more than one call takes.

use crate::error::PoolError;
use crate::sys::pid_max::pid_max;

/// Whether there can be a pool of this size.
pub(super) fn check_processes(processes: usize) -> Result<(), PoolError> {
    if processes == 0 {
        return Err(PoolError::ZeroProcesses);
    }
    let limit = pid_max();
    match processes < limit {
        true => Ok(()),
        false => Err(PoolError::TooManyProcesses { processes, limit }),
    }
}
