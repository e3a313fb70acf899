//! The options of one call, as views that have the same methods as the pool. The methods themselves are in `calls.rs`.

use std::fmt;
use std::sync::Arc;

use crate::api::prepare::Options;
use crate::api::request::Request;
use crate::driver::Backend;
use crate::values::codec;
use crate::values::output::Output;
use crate::work::function::LocalFunction;
use crate::work::task::Data;

/// The options of one call without a context, with the same methods as the pool.
///
/// Made by [`Pool::chunk_size`](crate::Pool::chunk_size), [`Pool::fail_fast`](crate::Pool::fail_fast),
/// [`Pool::timeout`](crate::Pool::timeout), [`Pool::retries`](crate::Pool::retries),
/// [`Pool::window`](crate::Pool::window) and [`Pool::label`](crate::Pool::label). It is `Copy`, and may be used for any number of calls, each with these options.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// let squares = pool.chunk_size(100).fail_fast().map(0..10_000u64, |x| x * x)?;
/// assert_eq!(squares[9], 81);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
#[must_use = "a view does nothing until it is called"]
pub struct Call<'p> {
    pub(super) backend: &'p Arc<dyn Backend>,
    pub(super) options: Options<'p>,
}

/// The options of one call with a context, with the same methods as the pool.
///
/// Made by [`Pool::with`](crate::Pool::with) and [`Call::with`]. Functions take the context by reference before their
/// arguments. It is `Copy`, and may be used for any number of calls; each sends the context anew.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// let words = vec!["zero".to_owned(), "one".to_owned()];
/// let call = pool.with(&words).retries(1);
/// assert_eq!(call.map(0..2usize, |words, i| words[i].len())?, [4, 3]);
/// assert_eq!(call.apply((1usize,), |words, i| words[i].clone())?, "one");
/// # Ok(())
/// # }
/// ```
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
    /// Gives the call a context, which every task gets by reference before its arguments.
    ///
    /// See [`Pool::with`](crate::Pool::with) for details.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let lengths = pool.chunk_size(1).with(&10u32).map(0..2u32, |base, i| base + i)?;
    /// assert_eq!(lengths, [10, 11]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with<C: Data>(self, context: &C) -> CallWith<'p, '_, C> {
        CallWith { call: self, context }
    }

    pub(super) fn request(&self, function: LocalFunction) -> Request<'_> {
        Request { backend: self.backend, options: self.options, function, context: None }
    }

    /// A request with what `encode` writes as its context.
    pub(super) fn request_with<'c>(
        &'c self,
        function: LocalFunction,
        encode: impl Fn(&mut Output) -> Result<(), String> + 'c,
    ) -> Request<'c> {
        Request { context: Some(Box::new(encode)), ..self.request(function) }
    }
}

impl<C: Data> CallWith<'_, '_, C> {
    pub(super) fn request(&self, function: LocalFunction) -> Request<'_> {
        let context = self.context;
        self.call.request_with(function, move |output| codec::encode(context, output))
    }
}
