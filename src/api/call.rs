//! The options of one call, as views that have the same methods as the pool. The methods themselves are in `calls.rs`.

use std::fmt;
use std::sync::Arc;

use crate::api::prepare::Options;
use crate::api::request::Request;
use crate::driver::Backend;
use crate::work::function::LocalFunction;
use crate::work::task::Data;

/// Options for one call without a context: made by [`Pool::chunk_size`](crate::Pool::chunk_size),
/// [`Pool::fail_fast`](crate::Pool::fail_fast), [`Pool::timeout`](crate::Pool::timeout) and
/// [`Pool::retries`](crate::Pool::retries), with the same methods as the pool.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// let squares = pool.chunk_size(100).fail_fast().map(0..10_000u64, |x| x * x)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
#[must_use = "a view does nothing until it is called"]
pub struct Call<'p> {
    pub(super) backend: &'p Arc<dyn Backend>,
    pub(super) options: Options,
}

/// Options for one call with a context: made by [`Pool::with`](crate::Pool::with), with the same methods as the pool,
/// for functions that take the context by reference before their arguments.
#[must_use = "a view does nothing until it is called"]
pub struct CallWith<'p, 'c, C> {
    pub(super) call: Call<'p>,
    pub(super) context: &'c C,
}

impl<C> Clone for CallWith<'_, '_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for CallWith<'_, '_, C> {}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<C> fmt::Debug for CallWith<'_, '_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallWith").field("options", &self.call.options).finish_non_exhaustive()
    }
}

impl<'p> Call<'p> {
    /// Gives the call a context; see [`Pool::with`](crate::Pool::with).
    pub fn with<C: Data>(self, context: &C) -> CallWith<'p, '_, C> {
        CallWith { call: self, context }
    }

    pub(super) fn request(&self, function: LocalFunction) -> Request<'_, ()> {
        Request { backend: self.backend, options: self.options, function, context: None }
    }
}

impl<C: Data> CallWith<'_, '_, C> {
    pub(super) fn request(&self, function: LocalFunction) -> Request<'_, C> {
        Request { backend: self.call.backend, options: self.call.options, function, context: Some(self.context) }
    }
}
