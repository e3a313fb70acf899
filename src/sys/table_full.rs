//! Whether a call failed because no descriptor was left.

use std::io;

/// Whether the descriptor table of this process, or that of the system, is full; open(2).
pub(crate) fn is_table_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
