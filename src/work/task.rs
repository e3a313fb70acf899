//! The traits through which the calls of the pool infer what a task takes and returns.
//!
//! Tasks are `fn` pointers: a closure that captures nothing coerces to one, and a capture is a compile error that names
//! the captured variable. Users never implement these traits; they appear in error messages and signatures only.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that can travel between processes: serializable, deserializable without borrowing, and `'static`.
///
/// Implemented for every such type. `&str` is not one: send a `String`.
///
/// # Examples
///
/// Code that is generic over what a task takes or returns needs this bound:
///
/// ```
/// # use procpool::{Data, Pool};
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// fn longest<T: Data>(pool: &Pool, lists: Vec<Vec<T>>) -> anyhow::Result<usize> {
///     let lengths = pool.map(lists, |list| list.len())?;
///     Ok(lengths.into_iter().max().unwrap_or(0))
/// }
///
/// let pool = Pool::new(1)?;
/// assert_eq!(longest(&pool, vec![vec!["a".to_owned()], vec![]])?, 1);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel to a worker process and back: derive `serde::Serialize` and `serde::Deserialize`",
    label = "not serializable, or not deserializable",
    note = "items, results and contexts implement `serde::Serialize` and `serde::de::DeserializeOwned`, and own what \
            they hold: `String` instead of `&str`, `Vec<T>` instead of `&[T]`"
)]
pub trait Data: Serialize + DeserializeOwned + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + 'static> Data for T {}

/// Marks an [`Outcome`] that is the value itself.
///
/// # Examples
///
/// ```
/// use procpool::{Outcome, Plain};
///
/// fn assert_plain<O: Outcome<Plain>>(_: fn() -> O) {}
/// assert_plain(|| 1u32);
/// assert_plain(|| Err::<u32, String>("an error like this is data".to_owned()));
/// ```
#[derive(Debug)]
pub enum Plain {}

/// Marks an [`Outcome`] that is an `anyhow::Result`.
///
/// # Examples
///
/// ```
/// use procpool::{Fallible, Outcome};
///
/// fn assert_fallible<O: Outcome<Fallible, Value = u32>>(_: fn() -> O) {}
/// assert_fallible(|| Ok::<u32, anyhow::Error>(1));
/// ```
#[derive(Debug)]
pub enum Fallible {}

/// What a task may return. `M` is inferred: [`Plain`] or [`Fallible`].
///
/// - Any [`Data`] is the value itself. That includes `Result<T, E>` with a serializable `E`, which passes through as it
///   is.
/// - `anyhow::Result<T>` is the counterpart of raising an exception: `Ok` yields `T`, and `Err` arrives as
///   [`TaskError::Failed`](crate::TaskError::Failed) with the whole chain of causes as text.
///
/// # Examples
///
/// ```
/// # use procpool::{Pool, TaskError};
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// let pool = Pool::new(1)?;
/// let value: u64 = pool.apply((2, 10), u64::pow)?;
/// let data: Result<u8, String> = pool.apply((0u8,), |x| x.checked_sub(1).ok_or("underflow".to_owned()))?;
/// let failed: Result<u8, TaskError> = pool.apply((0u8,), |x| anyhow::Context::context(x.checked_sub(1), "underflow"));
/// assert_eq!((value, data), (1024, Err("underflow".to_owned())));
/// assert!(matches!(failed, Err(TaskError::Failed(failure)) if failure.message == "underflow"));
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`: return `anyhow::Result<T>` for errors, and `T` with serde's derives",
    label = "the result cannot travel back from a worker",
    note = "a task returns a value that implements `serde::Serialize` and `serde::de::DeserializeOwned`, or an \
            `anyhow::Result` of one; `std::io::Error` and `Box<dyn Error>` implement neither, and `?` turns both into an \
            `anyhow::Error`"
)]
pub trait Outcome<M>: 'static {
    /// What the caller receives when the task succeeds.
    type Value: Data;

    /// The value, or the text of the error.
    #[doc(hidden)]
    fn into_value(self) -> Result<Self::Value, String>;
}

#[diagnostic::do_not_recommend]
impl<T: Data> Outcome<Plain> for T {
    type Value = T;

    fn into_value(self) -> Result<T, String> {
        Ok(self)
    }
}

impl<T: Data> Outcome<Fallible> for anyhow::Result<T> {
    type Value = T;

    fn into_value(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:#}"))
    }
}

/// What an initializer may return: nothing, or a `Result` whose error implements `Display`.
///
/// # Examples
///
/// ```
/// # use procpool::Pool;
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// fn enter(folder: &'static str) -> std::io::Result<()> {
///     std::env::set_current_dir(folder)
/// }
///
/// let pool = Pool::builder().processes(1).initializer(("/",), enter).build()?;
/// assert_eq!(pool.apply((".".to_owned(),), |path| std::fs::canonicalize(path).is_ok_and(|path| path == *"/"))?, true);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "an initializer cannot return `{Self}`: return nothing, or a `Result<(), E>`",
    label = "the result of this initializer would be lost",
    note = "`E` is any error that implements `Display`, such as `anyhow::Error` and `std::io::Error`"
)]
pub trait Initialized: 'static {
    /// `Ok` if the worker may go on, or the text of the error.
    #[doc(hidden)]
    fn into_result(self) -> Result<(), String>;
}

impl Initialized for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display + 'static> Initialized for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        // `{:#}` is the whole chain for an `anyhow::Error`, and the plain text for most others.
        self.map_err(|error| format!("{error:#}"))
    }
}

/// The arguments of one call, as a tuple of up to twelve elements: `()`, `(a,)`, `(a, b)`, …
///
/// # Examples
///
/// ```
/// # use procpool::Pool;
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// let pool = Pool::new(1)?;
/// assert_ne!(pool.apply((), std::process::id)?, std::process::id());
/// assert_eq!(pool.apply((-3i32,), i32::abs)?, 3);
/// assert_eq!(pool.apply((5u8, 1, 3), u8::clamp)?, 3);
/// assert_eq!(pool.starmap([(2u32, 3), (3, 2)], u32::pow)?, [8, 9]);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tuple of arguments: pass `(a,)`, `(a, b)` or `()` first, and the function last",
    label = "not a tuple of arguments",
    note = "`apply`, `starmap` and `initializer` take a tuple of up to twelve elements for each call"
)]
pub trait Args: sealed::Tuple + Sized + 'static {
    /// The function that takes these arguments.
    type Fp<O: 'static>: Copy + Send + Sync + 'static;
    /// The function that takes a context and these arguments.
    type FpWith<C: 'static, O: 'static>: Copy + Send + Sync + 'static;

    /// The address of the function.
    #[doc(hidden)]
    fn address<O: 'static>(f: Self::Fp<O>) -> usize;

    /// The address of the function.
    #[doc(hidden)]
    fn address_with<C: 'static, O: 'static>(f: Self::FpWith<C, O>) -> usize;

    /// Calls `f` with these arguments.
    #[doc(hidden)]
    fn call<O: 'static>(self, f: Self::Fp<O>) -> O;

    /// Calls `f` with `context` and these arguments.
    #[doc(hidden)]
    fn call_with<C: 'static, O: 'static>(self, f: Self::FpWith<C, O>, context: &C) -> O;
}

/// Only tuples of this crate's choice are [`Args`]: unsafe code turns addresses back into functions, and relies on what
/// `Args` states about its function pointers.
mod sealed {
    #[expect(unnameable_types, reason = "no other crate may implement it, so none needs to name it")]
    #[doc(hidden)]
    pub trait Tuple {}
}

macro_rules! args {
    ($($T:ident $a:ident),*) => {
        impl<$($T: 'static),*> sealed::Tuple for ($($T,)*) {}

        impl<$($T: 'static),*> Args for ($($T,)*) {
            type Fp<O: 'static> = fn($($T),*) -> O;
            type FpWith<C: 'static, O: 'static> = fn(&C, $($T),*) -> O;

            fn address<O: 'static>(f: Self::Fp<O>) -> usize {
                f as usize
            }

            fn address_with<C: 'static, O: 'static>(f: Self::FpWith<C, O>) -> usize {
                f as usize
            }

            fn call<O: 'static>(self, f: Self::Fp<O>) -> O {
                let ($($a,)*) = self;
                f($($a),*)
            }

            fn call_with<C: 'static, O: 'static>(self, f: Self::FpWith<C, O>, context: &C) -> O {
                let ($($a,)*) = self;
                f(context, $($a),*)
            }
        }
    };
}

args!();
args!(A a);
args!(A a, B b);
args!(A a, B b, C_ c);
args!(A a, B b, C_ c, D d);
args!(A a, B b, C_ c, D d, E e);
args!(A a, B b, C_ c, D d, E e, F g);
args!(A a, B b, C_ c, D d, E e, F g, G h);
args!(A a, B b, C_ c, D d, E e, F g, G h, H i);
args!(A a, B b, C_ c, D d, E e, F g, G h, H i, I j);
args!(A a, B b, C_ c, D d, E e, F g, G h, H i, I j, J k);
args!(A a, B b, C_ c, D d, E e, F g, G h, H i, I j, J k, K l);
args!(A a, B b, C_ c, D d, E e, F g, G h, H i, I j, J k, K l, L m);
