//! The settings of a new process beyond its entry: environment, directory, resource limits. Plain data, as the boot
//! message carries it.
//!
//! `spawn` executes the program with its [`Environment`]. All other settings are applied by the new process itself, in
//! `birth/born`, as the last step before its hello.
//!
//! # Invariants
//!
//! - An environment without an [invalid variable](Environment::invalid_variable) is accepted by execve(2), and
//!   is read back as it was set.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use serde::Deserialize;
use serde::Serialize;

/// A resource that [`Boot::rlimit`](crate::Boot::rlimit) can limit. See getrlimit(2).
///
/// Every limit has two values: the *soft* one is in force, and the *hard* one is the maximum to which the process
/// itself may raise the soft one.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, Resource};
///
/// fn run(_: Birth) -> u8 {
///     0
/// }
///
/// let boot = Boot::new(run).rlimit(Resource::CpuTime, 10, Some(20)).rlimit(Resource::OpenFiles, 64, None);
/// # let _ = boot;
/// ```
// In the order in which they are set: the limit that may leave too little for the next steps comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Resource {
    /// Descriptors (`RLIMIT_NOFILE`): a new descriptor has a number below the limit, or cannot be opened.
    ///
    /// Descriptors that a child already has keep working, whatever their numbers: its control socket and the
    /// descriptors it was given. With 0, nothing more can be opened, and no descriptor can be received.
    OpenFiles,
    /// Bytes of a core dump (`RLIMIT_CORE`). 0 by default, whatever the parent's limit is.
    CoreSize,
    /// Seconds of processor time (`RLIMIT_CPU`), counted from the start of the process; waiting does not count.
    ///
    /// SIGXCPU ends the process at the soft limit. If the process handles that signal, SIGKILL ends it at the hard
    /// limit.
    CpuTime,
    /// Bytes of address space (`RLIMIT_AS`).
    ///
    /// Everything that is mapped counts, used or not: the program, and after a fork the memory of the parent. Beyond
    /// the limit an allocation fails, which ends a Rust program by SIGABRT unless it allocates with `try_reserve` and
    /// the like.
    AddressSpace,
}

impl Resource {
    /// The value that means "no limit".
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, Resource};
    ///
    /// fn run(_: Birth) -> u8 {
    ///     0
    /// }
    ///
    /// let boot = Boot::new(run).rlimit(Resource::CpuTime, Resource::UNLIMITED, None);
    /// # let _ = boot;
    /// ```
    pub const UNLIMITED: u64 = libc::RLIM_INFINITY;
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OpenFiles => "open files",
            Self::CoreSize => "bytes of a core dump",
            Self::CpuTime => "seconds of processor time",
            Self::AddressSpace => "bytes of address space",
        })
    }
}

/// The two values of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) soft: u64,
    /// `None` keeps the hard limit that the process has.
    pub(crate) hard: Option<u64>,
}

/// All settings of a new process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) environment: Environment,
    /// An `OsString`, because a `Path` that is not UTF-8 does not serialize.
    pub(crate) directory: Option<OsString>,
    pub(crate) limits: BTreeMap<Resource, Limit>,
}

impl Settings {
    /// An upper bound of the bytes that they take in a message.
    pub(crate) fn size(&self) -> usize {
        let directory = self.directory.as_ref().map_or(0, |directory| directory.len());
        OVERHEAD + directory + self.environment.size()
    }
}

/// Changes to the environment that the process would have without them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// No inherited variable is kept.
    cleared: bool,
    /// `Some`: set to this value. `None`: removed.
    changes: BTreeMap<OsString, Option<OsString>>,
}

/// Upper bound of the bytes in a message for all limits, all lengths of single settings, and everything else that is
/// not counted by length.
const OVERHEAD: usize = 128;

/// Upper bound of the bytes in a message for one change of the environment, beyond its name and its value.
const CHANGE_OVERHEAD: usize = 16;

impl Environment {
    pub(crate) fn set(&mut self, name: &OsStr, value: &OsStr) {
        self.changes.insert(name.to_owned(), Some(value.to_owned()));
    }

    pub(crate) fn remove(&mut self, name: &OsStr) {
        self.changes.insert(name.to_owned(), None);
    }

    pub(crate) fn clear(&mut self) {
        self.changes.clear();
        self.cleared = true;
    }

    pub(crate) fn is_unchanged(&self) -> bool {
        !self.cleared && self.changes.is_empty()
    }

    /// Each changed variable: set to this value, or (`None`) removed.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (&OsStr, Option<&OsStr>)> {
        self.changes.iter().map(|(name, value)| (name.as_os_str(), value.as_deref()))
    }

    /// The name of a variable that no environment can hold, if there is one.
    pub(crate) fn invalid_variable(&self) -> Option<&OsStr> {
        let has_zero = |text: &OsStr| text.as_bytes().contains(&0);
        let is_invalid = |name: &OsStr, value: Option<&OsStr>| {
            name.is_empty() || name.as_bytes().contains(&b'=') || has_zero(name) || value.is_some_and(has_zero)
        };
        self.changes().find(|(name, value)| is_invalid(name, *value)).map(|(name, _)| name)
    }

    /// `variables` after the changes.
    pub(crate) fn applied_to(
        &self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> impl Iterator<Item = (OsString, OsString)> {
        let kept = variables.filter(|(name, _)| !self.cleared && !self.changes.contains_key(name));
        kept.chain(self.changes().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))))
    }

    /// See [`Settings::size`].
    fn size(&self) -> usize {
        self.changes().map(|(name, value)| CHANGE_OVERHEAD + name.len() + value.map_or(0, OsStr::len)).sum()
    }
}

/// Omits the values, which may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |wanted: bool| -> Vec<&OsStr> {
            self.changes().filter(|(_, value)| value.is_some() == wanted).map(|(name, _)| name).collect()
        };
        f.debug_struct("Environment")
            .field("cleared", &self.cleared)
            .field("set", &names(true))
            .field("removed", &names(false))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn environment(change: impl FnOnce(&mut Environment)) -> Environment {
        let mut environment = Environment::default();
        change(&mut environment);
        environment
    }

    #[test]
    fn what_is_not_named_stays() {
        let changed = environment(|environment| {
            environment.set("B".as_ref(), "two".as_ref());
            environment.remove("C".as_ref());
            environment.set("D".as_ref(), "".as_ref());
        });

        let after: Vec<_> = changed.applied_to(pairs(&[("A", "1"), ("B", "2"), ("C", "3")]).into_iter()).collect();

        assert_eq!(after, pairs(&[("A", "1"), ("B", "two"), ("D", "")]));
    }

    #[test]
    fn the_last_word_counts() {
        let changed = environment(|environment| {
            environment.set("A".as_ref(), "lost".as_ref());
            environment.clear();
            environment.remove("B".as_ref());
            environment.set("B".as_ref(), "kept".as_ref());
            environment.set("C".as_ref(), "lost".as_ref());
            environment.remove("C".as_ref());
        });

        let after: Vec<_> = changed.applied_to(pairs(&[("A", "1"), ("Z", "26")]).into_iter()).collect();

        assert_eq!(after, pairs(&[("B", "kept")]));
    }

    /// Each of these makes `set_var` or `remove_var` panic.
    #[test]
    fn impossible_variables_are_found() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("=A", "x"), ("A\0", "x"), ("A", "x\0")] {
            let set = environment(|environment| environment.set(name.as_ref(), value.as_ref()));
            assert_eq!(set.invalid_variable(), Some(OsStr::new(name)), "{name:?} {value:?}");
        }
        assert!(environment(|environment| environment.remove("".as_ref())).invalid_variable().is_some());
        assert!(environment(|environment| environment.set("A".as_ref(), "=".as_ref())).invalid_variable().is_none());
    }

    #[test]
    fn values_are_not_shown() {
        let secret = environment(|environment| environment.set("PASSWORD".as_ref(), "swordfish".as_ref()));
        let shown = format!("{secret:?}");
        assert!(shown.contains("PASSWORD") && !shown.contains("swordfish"), "{shown}");
    }

    #[test]
    fn the_size_is_never_less_than_what_is_sent() {
        let long = "x".repeat(20_000);
        let mut settings = Settings { directory: Some(long.clone().into()), ..Settings::default() };
        for resource in [Resource::OpenFiles, Resource::CoreSize, Resource::CpuTime, Resource::AddressSpace] {
            settings.limits.insert(resource, Limit { soft: u64::MAX, hard: Some(u64::MAX) });
        }
        assert!(postcard::to_allocvec(&settings).unwrap().len() <= settings.size());
        for number in 0..2_000 {
            settings.environment.set(format!("{number}").as_ref(), "".as_ref());
        }
        settings.environment.set(long.as_ref(), long.as_ref());
        assert!(postcard::to_allocvec(&settings).unwrap().len() <= settings.size());
    }
}
