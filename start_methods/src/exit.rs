//! How a process ended, as far as that can be known.
//!
//! # Invariants
//!
//! - `Known` is the truth told by the kernel or by the process that reaped the child; a guess is `Unknown`.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The status the kernel kept for the one who reaps.
    Known(ExitStatus),
    /// The process has ended, but somebody else took its status: a `waitpid(-1)` elsewhere in this
    /// program, an ignored SIGCHLD, or a fork server that died first.
    Unknown,
}

impl Exit {
    /// From the status word of wait(2).
    pub(crate) fn from_raw(status: i32) -> Self {
        Self::Known(ExitStatus::from_raw(status))
    }

    /// The same, told by somebody who might be wrong: `None` for what is not the status of an end.
    pub(crate) fn from_word(word: i32) -> Option<Self> {
        // 0x7f says that it was stopped, or goes on.
        let is_an_end = word & !0xffff == 0 && word & 0x7f != 0x7f;
        is_an_end.then(|| Self::from_raw(word))
    }

    /// The status, when it is known.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        match self {
            Self::Known(status) => Some(*status),
            Self::Unknown => None,
        }
    }

    /// Whether the process is known to have ended with exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status().is_some_and(|status| status.success())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(status) => status.fmt(f),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_code_or_signal_or_that_nobody_knows() {
        assert_eq!(Exit::from_raw(3 << 8).to_string(), "exit status: 3");
        assert_eq!(Exit::from_raw(9).to_string(), "signal: 9 (SIGKILL)");
        assert_eq!(Exit::Unknown.to_string(), "unknown");
    }

    #[test]
    fn only_a_known_zero_is_success() {
        assert!(Exit::from_raw(0).success());
        assert!(!Exit::from_raw(1 << 8).success());
        assert!(!Exit::Unknown.success());
    }
}
