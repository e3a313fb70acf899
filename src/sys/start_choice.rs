//! How the processes of this program are started: one default, and what the user has chosen instead.

#![expect(unsafe_code, reason = "passes the user's own promises on")]

use std::path::PathBuf;
use std::time::Duration;

use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;

/// How long a process may take from its start to its hello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// What the user has chosen about starts. The default is that of all pools and processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartChoice {
    /// `None` until the user chooses one.
    pub(crate) method: Option<StartMethod>,
    pub(crate) executable: Option<PathBuf>,
    /// The methods that fork in spite of threads, as the user has promised that they may.
    despite_threads: Vec<StartMethod>,
}

impl StartChoice {
    /// Lets this method fork in spite of threads.
    ///
    /// # Safety
    ///
    /// As for [`Starter::fork_despite_threads`], or [`Starter::forkserver_despite_threads`].
    pub(crate) unsafe fn allow_despite_threads(&mut self, method: StartMethod) {
        self.despite_threads.push(method);
    }

    /// Whether some method may fork in spite of threads.
    #[cfg(feature = "threads")]
    pub(crate) fn forks_despite_threads(&self) -> bool {
        !self.despite_threads.is_empty()
    }

    /// The starter.
    ///
    /// # Errors
    ///
    /// As for [`Starter::new`].
    pub(crate) fn starter(&self) -> Result<Starter, StartError> {
        let method = self.method.unwrap_or_default();
        let starter = match (method, self.despite_threads.contains(&method)) {
            // SAFETY: the caller of `allow_despite_threads` made the same promise.
            (StartMethod::Fork, true) => unsafe { Starter::fork_despite_threads()? },
            // SAFETY: the caller of `allow_despite_threads` made the same promise.
            (StartMethod::Forkserver, true) => unsafe { Starter::forkserver_despite_threads()? },
            (StartMethod::Forkserver, false) if self.method.is_none() => Starter::automatic()?,
            (method, _) => Starter::new(method)?,
        };
        Ok(match &self.executable {
            Some(path) => starter.executable(path),
            None => starter,
        })
    }
}
