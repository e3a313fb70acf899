//! The functions that every worker runs besides its items, encoded: the initializer and the finalizer.

use std::time::Duration;

use serde::Serialize;

use crate::engine::config::HookArgs;
use crate::engine::config::HookCall;
use crate::values::codec;
use crate::values::output::Output;
use crate::work::function::LocalFunction;

/// Arguments that have more bytes than this travel as a descriptor beside the worker's birth message.
const INLINE_MAX: u64 = 16 * 1024;

/// How long a finalizer may run, if the user does not say.
pub(super) const FINALIZER_TIMEOUT: Duration = Duration::from_secs(10);

/// The hooks of a pool that is to be made; the text says why one cannot be sent to workers.
#[derive(Clone, Debug, Default)]
pub(super) struct Hooks {
    pub(super) initializer: Option<Result<HookCall, String>>,
    pub(super) initializer_timeout: Option<Duration>,
    pub(super) finalizer: Option<Result<HookCall, String>>,
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

fn are_alike(ours: &Option<Result<HookCall, String>>, theirs: &Option<Result<HookCall, String>>) -> bool {
    match (ours, theirs) {
        (None, None) => true,
        (Some(Ok(ours)), Some(Ok(theirs))) => ours.is_like(theirs),
        _ => false,
    }
}

/// Encodes the call of a hook.
///
/// # Errors
///
/// Why it cannot be sent to workers.
pub(super) fn encode<T: Serialize + 'static>(args: &T, function: LocalFunction) -> Result<HookCall, String> {
    let definition = function.definition()?;
    let mut output = Output::default();
    codec::encode(args, &mut output).map_err(|error| format!("its arguments do not serialize: {error}"))?;
    let args = match output.len() {
        0..=INLINE_MAX if !output.carries() => HookArgs::Inline(output.into_bytes()),
        _ => HookArgs::Attached(output.take_parcel()?),
    };
    Ok(HookCall { definition, args })
}
