//! The lengths at which the transport of a value changes, and how long memory is kept.

use std::time::Duration;

/// How long memory for large values is kept when there are none.
pub(crate) const IDLE_TIME: Duration = Duration::from_secs(1);

/// The longest value that travels in a frame. A longer one travels as a blob.
pub(crate) const INLINE_MAX: usize = 60 * 1024;

/// The longest value whose file may be reused. A longer one has a file of its own.
pub(super) const REUSE_MAX: u64 = 16 << 20;

/// The shortest blob that is mapped. A shorter one is copied, however trustworthy its file is: that takes less time than
/// to map, to fault and to unmap.
pub(super) const MAP_MIN: u64 = 256 * 1024;
