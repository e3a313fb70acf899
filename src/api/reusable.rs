//! One pool for a whole program, made when it is first asked for: `reusable`.
//!
//! The pool is in a slot that is locked for moments only, never while a pool is made or ends: making one may fork, and
//! in a forked worker the lock would be held for ever.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::api::builder::PoolBuilder;
use crate::api::pool::Pool;
use crate::error::PoolError;

/// A pool, and the settings it was made with.
struct Kept {
    settings: PoolBuilder,
    pool: Arc<Pool>,
}

impl Kept {
    fn serves(&self, settings: &PoolBuilder) -> bool {
        self.pool.takes_tasks() && self.settings.is_like(settings)
    }
}

struct Slot {
    kept: Option<Kept>,
    /// Pools that were replaced, and closed: they may have work left.
    replaced: Vec<Arc<Pool>>,
}

static SLOT: Mutex<Slot> = Mutex::new(Slot { kept: None, replaced: Vec::new() });

/// The pool of this program with these settings: the one that the last call returned, if it had the same settings and
/// takes tasks; otherwise a new one.
///
/// For libraries and functions that need a pool and cannot be given one: the workers are started once, and not for each
/// call. A pool with other settings replaces the former one, which is closed: what it has accepted runs, its workers
/// leave, and handles resolve. Settings are compared by value; the arguments of an initializer by their bytes, and
/// functions by their place in the program. A pool that broke, or was closed or terminated by any holder, is replaced by
/// a new one too. It is never dropped by the program's end; its workers end with the process.
///
/// Named `get_reusable_executor` in loky; not in CPython.
///
/// # Errors
///
/// As for [`PoolBuilder::build`]. The former pool then stays.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use procpool::Pool;
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = procpool::reusable(Pool::builder().processes(2))?;
///     assert_eq!(pool.map(0..3u64, |x| x * x)?, [0, 1, 4]);
///     let again = procpool::reusable(Pool::builder().processes(2))?;
///     assert!(Arc::ptr_eq(&pool, &again));
///     let other = procpool::reusable(Pool::builder().processes(1))?;
///     assert!(!Arc::ptr_eq(&pool, &other));
///     Ok(())
/// }
/// ```
#[doc(alias = "get_reusable_executor")]
pub fn reusable(settings: PoolBuilder) -> Result<Arc<Pool>, PoolError> {
    release_replaced();
    if let Some(kept) = SLOT.lock().kept.as_ref().filter(|kept| kept.serves(&settings)) {
        return Ok(Arc::clone(&kept.pool));
    }
    let pool = Arc::new(settings.clone().build()?);
    let made = Kept { settings, pool: Arc::clone(&pool) };
    match put(made) {
        Put::Replaced(before) => {
            if let Some(before) = before {
                before.close();
                SLOT.lock().replaced.push(before);
            }
            Ok(pool)
        }
        // Another thread was quicker. The pool that was made here is dropped.
        Put::Found(pool) => Ok(pool),
    }
}

enum Put {
    Replaced(Option<Arc<Pool>>),
    Found(Arc<Pool>),
}

fn put(made: Kept) -> Put {
    let mut slot = SLOT.lock();
    match &slot.kept {
        Some(kept) if kept.serves(&made.settings) => Put::Found(Arc::clone(&kept.pool)),
        _ => Put::Replaced(slot.kept.replace(made).map(|kept| kept.pool)),
    }
}

/// Releases what replaced pools hold whose work is done. Does not wait.
fn release_replaced() {
    let replaced = std::mem::take(&mut SLOT.lock().replaced);
    let has_work = |pool: &Arc<Pool>| {
        matches!(
            pool.join_timeout(Duration::ZERO),
            Ok(false) | Err(PoolError::WouldDeadlock | PoolError::Unreaped { .. })
        )
    };
    let still: Vec<_> = replaced.into_iter().filter(has_work).collect();
    SLOT.lock().replaced.extend(still);
}
