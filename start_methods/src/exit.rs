//! [`Exit`]: how a process ended, as far as that is known.
//!
//! # Invariants
//!
//! - `Known` comes from the kernel or from the process that reaped the child. Anything less certain is `Unknown`.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

/// The signals that dump a core where the limit of core files allows it; see signal(7).
const DUMPS_CORE: [i32; 10] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGSYS,
];

/// How a process ended.
///
/// Printed in words: `exited with code 3`, `killed by SIGSEGV, core not dumped`.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, Exit, StartMethod};
///
/// fn three(_: Birth) -> u8 {
///     3
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     start_methods::init();
///     let child = start_methods::start(StartMethod::Spawn, &Boot::new(three))?;
///     match child.wait()? {
///         Exit::Known(status) => assert_eq!(status.code(), Some(3)),
///         Exit::Unknown => panic!("another waiter of this program took the status"),
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The status that the kernel kept for the process that reaps it.
    Known(ExitStatus),
    /// The process has ended, but its status was lost: taken by a `waitpid(-1)` elsewhere in this program, discarded
    /// because SIGCHLD is ignored, or lost with a fork server that died first.
    Unknown,
}

impl Exit {
    /// From the status word of wait(2).
    pub(crate) fn from_raw(status: i32) -> Self {
        Self::Known(ExitStatus::from_raw(status))
    }

    /// The same, from a source that may be wrong: `None` if the word is not the status of a process that has ended.
    pub(crate) fn from_word(word: i32) -> Option<Self> {
        // 0x7f marks a process that was stopped or continued.
        let is_an_end = word & !0xffff == 0 && word & 0x7f != 0x7f;
        is_an_end.then(|| Self::from_raw(word))
    }

    /// The status, if it is known.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::Exit;
    ///
    /// assert_eq!(Exit::Unknown.status(), None);
    /// ```
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        match self {
            Self::Known(status) => Some(*status),
            Self::Unknown => None,
        }
    }

    /// Whether the process is known to have ended with exit code 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::ExitStatus;
    ///
    /// use start_methods::Exit;
    ///
    /// assert!(Exit::Known(ExitStatus::default()).success());
    /// assert!(!Exit::Unknown.success());
    /// ```
    #[must_use]
    pub fn success(&self) -> bool {
        self.status().is_some_and(|status| status.success())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exited with code {code}"),
                (None, Some(signal)) => write_signal(f, signal, status.core_dumped()),
                (None, None) => status.fmt(f),
            },
            Self::Unknown => f.write_str("exit status unknown"),
        }
    }
}

fn write_signal(f: &mut fmt::Formatter<'_>, signal: i32, core_dumped: bool) -> fmt::Result {
    match Signal::try_from(signal) {
        Ok(signal) => write!(f, "killed by {signal}")?,
        Err(_) => write!(f, "killed by signal {signal}")?,
    }
    match (core_dumped, signal) {
        (true, _) => f.write_str(", core dumped"),
        (false, libc::SIGKILL) => f.write_str(" (by the OOM killer, unless a process sent it: see dmesg)"),
        (false, signal) if DUMPS_CORE.contains(&signal) => f.write_str(", core not dumped"),
        (false, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_code_or_signal_or_that_nobody_knows() {
        assert_eq!(Exit::from_raw(3 << 8).to_string(), "exited with code 3");
        assert_eq!(Exit::from_raw(libc::SIGTERM).to_string(), "killed by SIGTERM");
        assert!(Exit::from_raw(libc::SIGKILL).to_string().starts_with("killed by SIGKILL ("));
        assert_eq!(Exit::from_raw(libc::SIGSEGV).to_string(), "killed by SIGSEGV, core not dumped");
        assert_eq!(Exit::from_raw(libc::SIGSEGV | 0x80).to_string(), "killed by SIGSEGV, core dumped");
        assert_eq!(Exit::from_raw(40).to_string(), "killed by signal 40");
        assert_eq!(Exit::Unknown.to_string(), "exit status unknown");
    }

    #[test]
    fn only_a_known_zero_is_success() {
        assert!(Exit::from_raw(0).success());
        assert!(!Exit::from_raw(1 << 8).success());
        assert!(!Exit::Unknown.success());
    }
}
