//! [`Exit`]: how a process ended, as far as that is known.
//!
//! # Invariants
//!
//! - `Known` comes from the kernel or from the process that reaped the child. Anything less certain is `Unknown`.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a process ended.
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
