//! The error of locks.

use std::error::Error;
use std::fmt;

/// Why there is no lock, or no permit, or why a change was not kept.
///
/// # Examples
///
/// ```
/// use procpool::sync::{Lock, LockError};
///
/// let lock = Lock::new()?;
/// let _guard = lock.lock()?;
/// assert_eq!(lock.lock().unwrap_err(), LockError::HeldByThisThread);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockError {
    /// A process died with this [`Lock`](crate::sync::Lock): what it guards may be half changed. It stays so until a thread
    /// calls [`recover`](crate::sync::Lock::recover).
    OwnerDied {
        /// The process.
        pid: u32,
    },
    /// This thread holds the lock, so it would wait for itself.
    HeldByThisThread,
    /// The value in the [`Mutex`](crate::sync::Mutex) is not one of this type. It stays as it is.
    #[non_exhaustive]
    Decode {
        /// What its `Deserialize` reported.
        message: String,
    },
    /// The changed value does not serialize, or has no room. The value before the change stays.
    #[non_exhaustive]
    Encode {
        /// What its `Serialize` reported, or how much room there is.
        message: String,
    },
    /// More processes or threads use it at once than it has room for.
    #[non_exhaustive]
    TooMany {
        /// How many it has room for.
        limit: usize,
    },
    /// It cannot be used: a process has written nonsense into it, or this is a forked copy of the process that has it.
    #[non_exhaustive]
    Broken {
        /// What is wrong.
        message: String,
    },
}

impl LockError {
    pub(super) fn forked() -> Self {
        let text = "this is a forked copy of the process that has it; a copy shares nothing with it";
        LockError::Broken { message: text.to_owned() }
    }

    pub(super) fn nonsense() -> Self {
        LockError::Broken { message: "a process that has it has written nonsense into its memory".to_owned() }
    }
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::OwnerDied { pid } => write!(
                f,
                "process {pid} died with the lock, and what it guards may be half changed: repair that, and call `recover`"
            ),
            LockError::HeldByThisThread => f.write_str("this thread holds the lock and would wait for itself"),
            LockError::Decode { message } => write!(f, "the value of the mutex does not deserialize: {message}"),
            LockError::Encode { message } => write!(f, "the value was not kept: {message}"),
            LockError::TooMany { limit } => write!(f, "more than {limit} use it at once"),
            LockError::Broken { message } => write!(f, "the lock is broken: {message}"),
        }
    }
}

impl Error for LockError {}
