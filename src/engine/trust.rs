//! How far the parent trusts a worker, and why no further.

use crate::error::PoolError;

/// How far the parent trusts a worker. Trust only ever falls.
#[derive(Debug, Default)]
pub(crate) enum Trust {
    #[default]
    Full,
    /// It gets nothing more to run, and ends what it runs: its control socket is closed, or carried nonsense.
    Dismissed,
    /// It was killed for this error. What it had answered before counts.
    Killed(PoolError),
    /// It was killed for what it left on its link, and nothing there counts.
    Distrusted(PoolError),
}

impl Trust {
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Trust::Full)
    }

    pub(crate) fn is_dismissed(&self) -> bool {
        matches!(self, Trust::Dismissed)
    }

    /// Whether what it sends counts.
    pub(crate) fn is_read(&self) -> bool {
        !matches!(self, Trust::Distrusted(_))
    }

    /// The error that it was killed for, if it was.
    pub(crate) fn killed_for(&self) -> Option<&PoolError> {
        match self {
            Trust::Full | Trust::Dismissed => None,
            Trust::Killed(error) | Trust::Distrusted(error) => Some(error),
        }
    }

    pub(crate) fn dismiss(&mut self) {
        if self.is_full() {
            *self = Trust::Dismissed;
        }
    }

    /// The first error stands.
    pub(crate) fn kill_for(&mut self, error: PoolError) {
        if self.killed_for().is_none() {
            *self = Trust::Killed(error);
        }
    }

    /// As [`kill_for`](Self::kill_for), and nothing that it sends counts.
    pub(crate) fn distrust(&mut self, error: PoolError) {
        let error = self.killed_for().cloned().unwrap_or(error);
        *self = Trust::Distrusted(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_falls_and_the_first_reason_stands() {
        let mut trust = Trust::default();
        trust.dismiss();
        assert!(trust.is_dismissed() && trust.killed_for().is_none());
        trust.kill_for(PoolError::Closed);
        trust.dismiss();
        trust.distrust(PoolError::Terminated);
        trust.kill_for(PoolError::Terminated);
        assert!(!trust.is_read() && !trust.is_dismissed());
        assert!(matches!(trust.killed_for(), Some(PoolError::Closed)));
    }
}
