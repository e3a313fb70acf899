//! The peer that has processes: `procspawn::Pool`, kept busy.

use std::collections::VecDeque;

use procspawn::JoinHandle;
use procspawn::Pool;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Every item is a call of its own; `take` gets the results in order, and `window` calls are under way at most.
///
/// Each call under way holds a few descriptors. A worker waits until its result is taken, and a call waits until a worker
/// has read its arguments if they are large: the window must then not be larger than the pool.
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
    let mut under_way = VecDeque::<JoinHandle<R>>::new();
    for item in items {
        if under_way.len() == window {
            if let Some(first) = under_way.pop_front() {
                take(first.join()?);
            }
        }
        under_way.push_back(pool.spawn(item, f));
    }
    for handle in under_way {
        take(handle.join()?);
    }
    Ok(())
}
