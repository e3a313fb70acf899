//! What workers tell beside their answers: settings for their logs and their output.

use log::LevelFilter;

use crate::driver::told::Hook;
use crate::driver::told::Hooks;
use crate::transport::outlets::Wanted;

/// The settings.
#[derive(Clone, Debug, Default)]
pub(super) struct Listening {
    /// `None`: that of this process.
    pub(super) level: Option<LevelFilter>,
    pub(super) hooks: Hooks,
}

impl Listening {
    /// What leaves the workers of a pool that is built now.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted::new(self.level.unwrap_or_else(log::max_level), self.hooks.on_output.is_some())
    }

    /// Whether the other settings do the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let Self { level, hooks: Hooks { on_log, on_output } } = self;
        *level == other.level
            && are_same(on_log.as_ref(), other.hooks.on_log.as_ref())
            && are_same(on_output.as_ref(), other.hooks.on_output.as_ref())
    }
}

fn are_same<T>(ours: Option<&Hook<T>>, theirs: Option<&Hook<T>>) -> bool {
    match (ours, theirs) {
        (None, None) => true,
        (Some(ours), Some(theirs)) => ours.is(theirs),
        _ => false,
    }
}
