//! How far the pool trusts a worker, and why no further.

use crate::error::PoolError;

/// A worker's trust. It only ever falls.
#[derive(Debug, Default)]
pub(crate) enum Trust {
    #[default]
    Good,
    /// It gets nothing more to run, and ends what it runs: its control socket is closed, or has nonsense on it.
    Dismissed,
    /// It was killed for this. What it had answered before counts.
    Killed(PoolError),
    /// It was killed for what it left on its road, and nothing there counts.
    Distrusted(PoolError),
}

impl Trust {
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Trust::Good)
    }

    pub(crate) fn is_dismissed(&self) -> bool {
        matches!(self, Trust::Dismissed)
    }

    /// Whether what it says counts.
    pub(crate) fn is_trusted(&self) -> bool {
        !matches!(self, Trust::Distrusted(_))
    }

    /// Why it was killed, if it was.
    pub(crate) fn killed_for(&self) -> Option<&PoolError> {
        match self {
            Trust::Good | Trust::Dismissed => None,
            Trust::Killed(error) | Trust::Distrusted(error) => Some(error),
        }
    }

    pub(crate) fn dismiss(&mut self) {
        if self.is_good() {
            *self = Trust::Dismissed;
        }
    }

    /// The first reason stands.
    pub(crate) fn kill_for_error(&mut self, error: PoolError) {
        if self.killed_for().is_none() {
            *self = Trust::Killed(error);
        }
    }

    /// As [`kill_for_error`](Self::kill_for_error), and nothing it says counts.
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
        trust.kill_for_error(PoolError::Closed);
        trust.dismiss();
        trust.distrust(PoolError::Terminated);
        trust.kill_for_error(PoolError::Terminated);
        assert!(!trust.is_trusted() && !trust.is_dismissed());
        assert!(matches!(trust.killed_for(), Some(PoolError::Closed)));
    }
}
