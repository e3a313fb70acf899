//! The peer with processes: `procspawn::Pool`, kept busy.

use std::collections::VecDeque;

use procspawn::JoinHandle;
use procspawn::Pool;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One call per item; `take` receives the results in order, and at most `window` calls are pending.
///
/// Each pending call holds a few descriptors. A worker blocks until its result is taken. With large arguments a call
/// blocks until a worker has read them, so the window must then not exceed the number of workers.
pub(crate) fn one_by_one<A, R>(
    pool: &Pool,
    window: usize,
    items: impl Iterator<Item = A>,
    f: fn(A) -> R,
    mut take: impl FnMut(R),
) -> anyhow::Result<()>
where
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    let mut pending = VecDeque::<JoinHandle<R>>::new();
    for item in items {
        if pending.len() == window {
            if let Some(first) = pending.pop_front() {
                take(first.join()?);
            }
        }
        pending.push_back(pool.spawn(item, f));
    }
    for handle in pending {
        take(handle.join()?);
    }
    Ok(())
}
