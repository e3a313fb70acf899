//! The memory of a process in RAM.

use nix::unistd::SysconfVar;

/// The memory of a process that lies in RAM, shared pages included; proc_pid_statm(5).
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(SysconfVar::PAGE_SIZE).ok()??;
    // A process that has ended and was not reaped has none.
    pages.checked_mul(u64::try_from(page).ok()?).filter(|&bytes| bytes > 0)
}
