//! How far the pool trusts a worker, and why no further.

use crate::error::PoolError;

/// A worker's standing. It only ever falls.
#[derive(Debug, Default)]
pub(crate) enum Standing {
    #[default]
    Good,
    /// It gets nothing more to run, and ends what it runs: its control socket is closed, or has nonsense on it.
    Dismissed,
    /// It was killed for this. What it had answered before counts.
    Sentenced(PoolError),
    /// It was killed for what it left on its road, and nothing there counts.
    Silenced(PoolError),
}

impl Standing {
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Standing::Good)
    }

    pub(crate) fn is_dismissed(&self) -> bool {
        matches!(self, Standing::Dismissed)
    }

    /// Whether what it says counts.
    pub(crate) fn is_heard(&self) -> bool {
        !matches!(self, Standing::Silenced(_))
    }

    /// Why it was killed, if it was.
    pub(crate) fn sentence(&self) -> Option<&PoolError> {
        match self {
            Standing::Good | Standing::Dismissed => None,
            Standing::Sentenced(error) | Standing::Silenced(error) => Some(error),
        }
    }

    pub(crate) fn dismiss(&mut self) {
        if self.is_good() {
            *self = Standing::Dismissed;
        }
    }

    /// The first reason stands.
    pub(crate) fn convict(&mut self, error: PoolError) {
        if self.sentence().is_none() {
            *self = Standing::Sentenced(error);
        }
    }

    /// As [`convict`](Self::convict), and nothing it says counts.
    pub(crate) fn silence(&mut self, error: PoolError) {
        let error = self.sentence().cloned().unwrap_or(error);
        *self = Standing::Silenced(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_falls_and_the_first_reason_stands() {
        let mut standing = Standing::default();
        standing.dismiss();
        assert!(standing.is_dismissed() && standing.sentence().is_none());
        standing.convict(PoolError::Closed);
        standing.dismiss();
        standing.silence(PoolError::Terminated);
        standing.convict(PoolError::Terminated);
        assert!(!standing.is_heard() && !standing.is_dismissed());
        assert!(matches!(standing.sentence(), Some(PoolError::Closed)));
    }
}
