//! Descriptors that are kept open so that they can be closed when one is needed.
//!
//! When other code of the process has used up the descriptor table, a result that arrives as a descriptor finds no room.
//! Then a spare one is closed, the result is received and copied into memory, its descriptor is closed, and a new spare
//! one is opened.

use std::fs::File;
use std::io;

use parking_lot::Mutex;
use start_methods::PrivateFd;

/// How many are kept. One is enough, unless another thread takes the number that was freed.
const SPARES: usize = 4;

/// The spare descriptors of one pool.
#[derive(Debug, Default)]
pub(super) struct Reserve(Mutex<Vec<PrivateFd>>);

impl Reserve {
    /// Opens what is missing, as far as the table has room, while `is_wanted`.
    pub(super) fn fill(&self, is_wanted: impl Fn() -> bool) {
        // Asked under the lock: what is opened for a cache that is being closed, `clear` closes.
        let mut spares = self.0.lock();
        while spares.len() < SPARES && is_wanted() {
            let Ok(spare) = spare() else { return };
            spares.push(spare);
        }
    }

    /// Closes a spare descriptor; false if there is none.
    pub(super) fn make_room(&self) -> bool {
        self.0.lock().pop().is_some()
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// A descriptor of the file of which no open, read or close can wait.
fn spare() -> io::Result<PrivateFd> {
    PrivateFd::adopt(File::open("/dev/null")?.into())
}
