//! Tells a stop that counts from one that was withdrawn. Pure.

/// Numbers the stops of one worker: only the last counts, and only until it is withdrawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StopNumber(u32);

impl StopNumber {
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}
