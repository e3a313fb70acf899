//! How many processes the system can have at once; proc_sys_kernel(5).

/// The most that any Linux kernel allows (`PID_MAX_LIMIT`), for a system without /proc.
const PID_MAX_LIMIT: usize = 1 << 22;

/// No process id reaches this number.
pub(crate) fn pid_max() -> usize {
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(PID_MAX_LIMIT)
}
