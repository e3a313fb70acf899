//! [`StartMethod`]: the three start methods by name, with their parsing.
//!
//! # Invariants
//!
//! - `Display` and `FromStr` are inverse to each other.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

/// How a child process is started.
///
/// The names are those of Python's `multiprocessing`.
///
/// # Examples
///
/// ```
/// use start_methods::StartMethod;
///
/// assert_eq!("spawn".parse(), Ok(StartMethod::Spawn));
/// assert_eq!(StartMethod::default().to_string(), "forkserver");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StartMethod {
    /// fork(2) of the calling process: the child sees the parent's memory. The parent must be single-threaded.
    Fork,
    /// The program is executed again: the slowest method; only the environment is inherited.
    Spawn,
    /// A small single-threaded server, executed once, forks the children on request.
    #[default]
    Forkserver,
}

impl StartMethod {
    /// All methods.
    ///
    /// # Examples
    ///
    /// ```
    /// let names = start_methods::StartMethod::ALL.map(|method| method.to_string());
    /// assert_eq!(names, ["fork", "spawn", "forkserver"]);
    /// ```
    pub const ALL: [Self; 3] = [Self::Fork, Self::Spawn, Self::Forkserver];

    fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Spawn => "spawn",
            Self::Forkserver => "forkserver",
        }
    }
}

impl fmt::Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for StartMethod {
    type Err = ParseStartMethodError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|method| method.name() == text)
            .ok_or_else(|| ParseStartMethodError { text: text.to_owned() })
    }
}

/// The text does not name a start method.
///
/// # Examples
///
/// ```
/// use start_methods::{ParseStartMethodError, StartMethod};
///
/// let error: ParseStartMethodError = "vfork".parse::<StartMethod>().unwrap_err();
/// assert!(error.to_string().starts_with("unknown start method \"vfork\""));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseStartMethodError {
    text: String,
}

impl fmt::Display for ParseStartMethodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown start method {:?}: it must be one of \"fork\", \"spawn\" and \"forkserver\"", self.text)
    }
}

impl std::error::Error for ParseStartMethodError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_parsed_from_its_own_name() {
        for method in StartMethod::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_three_known_ones() {
        let error = "Fork".parse::<StartMethod>().unwrap_err().to_string();

        for method in StartMethod::ALL {
            assert!(error.contains(&format!("{:?}", method.to_string())), "{error}");
        }
    }
}
