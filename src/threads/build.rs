//! The builder's way to a pool of threads.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use super::ThreadPool;
use crate::api::builder::PoolBuilder;
use crate::api::builder::ThreadSettings;
use crate::error::PoolError;
use crate::transport::first_call::FirstCall;
use crate::values::output::Output;
use crate::work::function::Completion;
use crate::work::function::ResolvedFunction;
use crate::worker::panics;

impl PoolBuilder {
    /// Makes a pool of threads of this process, with as many threads as this has [`processes`](Self::processes).
    ///
    /// The [initializer](Self::initializer) runs on each thread, and the [name](Self::name) is that of the threads. With the
    /// feature `threads` only. See [`ThreadPool`].
    ///
    /// # Errors
    ///
    /// - [`PoolError::Unsupported`]: a setting needs processes. It names the method.
    /// - [`PoolError::ZeroProcesses`]: there would be no thread.
    /// - [`PoolError::Initializer`]: it failed on a thread.
    /// - [`PoolError::System`]: the system refused a thread.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::{Pool, PoolError, Workers};
    ///
    /// let pool = Pool::builder().processes(2).build_threads()?;
    /// assert_eq!(pool.map(0..3u64, |x| x * x).unwrap(), [0, 1, 4]);
    ///
    /// let refused = Pool::builder().max_tasks_per_child(10).build_threads();
    /// assert!(matches!(refused, Err(PoolError::Unsupported { option: "max_tasks_per_child", .. })));
    /// # Ok::<(), PoolError>(())
    /// ```
    pub fn build_threads(self) -> Result<ThreadPool, PoolError> {
        let ThreadSettings { threads, name, initializer } = self.into_threads()?;
        ThreadPool::start(threads, &name, move || initializer.as_ref().map_or(Ok(()), initialize))
    }
}

/// Runs the initializer on this thread, by the way on which a worker would.
fn initialize(call: &FirstCall) -> Result<(), String> {
    let function = ResolvedFunction::find(call.definition())?;
    let mut out = Output::default();
    let run = |args: &[u8]| panics::recorded(|| catch_unwind(AssertUnwindSafe(|| function.call(&(), args, &mut out))));
    let ended = call.with_args(run).map_err(|error| error.to_string())?;
    match ended {
        Ok(Completion::Value) => Ok(()),
        Ok(_) => Err(String::from_utf8_lossy(&out.into_bytes()).into_owned()),
        Err(panic) => Err(panic.in_words()),
    }
}
