//! The functions that every worker runs besides its items, encoded: the initializer and the finalizer.

use std::time::Duration;

use serde::Serialize;

use crate::transport::first_call::FirstCall;
use crate::work::function::LocalFunction;

/// How long a finalizer may run, if the user does not say.
pub(super) const FINALIZER_TIMEOUT: Duration = Duration::from_secs(10);

/// The hooks of a pool that is to be made; the text says why one cannot be sent to workers.
#[derive(Clone, Debug, Default)]
pub(super) struct Hooks {
    pub(super) initializer: Option<Result<FirstCall, String>>,
    pub(super) initializer_timeout: Option<Duration>,
    pub(super) finalizer: Option<Result<FirstCall, String>>,
    pub(super) finalizer_timeout: Option<Duration>,
}

impl Hooks {
    /// Whether workers with the other hooks are as good as workers with these.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        // All fields are listed, so that a new one is not forgotten.
        let Self { initializer, initializer_timeout, finalizer, finalizer_timeout } = self;
        are_alike(initializer, &other.initializer)
            && *initializer_timeout == other.initializer_timeout
            && are_alike(finalizer, &other.finalizer)
            && *finalizer_timeout == other.finalizer_timeout
    }
}

fn are_alike(ours: &Option<Result<FirstCall, String>>, theirs: &Option<Result<FirstCall, String>>) -> bool {
    match (ours, theirs) {
        (None, None) => true,
        (Some(Ok(ours)), Some(Ok(theirs))) => ours.is_like(theirs),
        _ => false,
    }
}

/// The call of a hook.
pub(super) fn encode<T: Serialize + 'static>(args: &T, function: LocalFunction) -> Result<FirstCall, String> {
    FirstCall::new(function, args).map_err(|error| error.to_string())
}
