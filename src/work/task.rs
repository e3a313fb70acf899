//! What may be a task: the traits that the calls of the pool infer through.
//!
//! Tasks are `fn` pointers: closures that capture nothing coerce to one, and a capture is a compile error that names
//! the captured variable. Users never implement these traits; they appear in error messages and signatures only.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that can travel between processes: serializable, deserializable without borrowing, and `'static`.
///
/// Implemented for every such type. `&str` is not one: send a `String`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel to a worker process and back",
    note = "it must implement `serde::Serialize` and `serde::de::DeserializeOwned`, and borrow nothing: `String` for \
            `&str`, `Vec<T>` for `&[T]`"
)]
pub trait Data: Serialize + DeserializeOwned + 'static {}

impl<T: Serialize + DeserializeOwned + 'static> Data for T {}

/// Marks an [`Outcome`] that is the value itself.
#[derive(Debug)]
pub enum Plain {}

/// Marks an [`Outcome`] that is an `anyhow::Result`.
#[derive(Debug)]
pub enum Fallible {}

/// What a task may return. `M` is inferred.
///
/// - Any [`Data`] is the value itself, `Result<T, E>` with a serializable `E` included: it passes through untouched.
/// - `anyhow::Result<T>` is the analogue of raising: `Ok` gives `T`, and `Err` arrives as
///   [`TaskError::Failed`](crate::TaskError::Failed) with the whole chain of causes as text.
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`",
    note = "a task returns a value that implements `serde::Serialize` and `serde::de::DeserializeOwned`, or an \
            `anyhow::Result` of one"
)]
pub trait Outcome<M>: 'static {
    /// What the caller gets when the task succeeds.
    type Value: Data;

    /// The value, or the text of the error.
    #[doc(hidden)]
    fn into_value(self) -> Result<Self::Value, String>;
}

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

/// What an initializer may return: nothing, or a `Result` whose error can be shown.
pub trait Initialized: 'static {
    /// Whether the worker may go on, or the text of the error.
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

/// The arguments of one call as a tuple, of one to twelve elements: `(a,)`, `(a, b)`, …
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tuple of arguments",
    note = "`apply` and `starmap` take one tuple per call, of up to twelve elements; a single argument is `(a,)`"
)]
pub trait Args: sealed::Tuple + Sized + 'static {
    /// The function that takes these arguments.
    type Fp<O: 'static>: Copy + 'static;
    /// The function that takes a context and these arguments.
    type FpWith<C: 'static, O: 'static>: Copy + 'static;

    /// Where the function is.
    #[doc(hidden)]
    fn address<O: 'static>(f: Self::Fp<O>) -> usize;

    /// Where the function is.
    #[doc(hidden)]
    fn address_with<C: 'static, O: 'static>(f: Self::FpWith<C, O>) -> usize;

    /// Calls it.
    #[doc(hidden)]
    fn call<O: 'static>(self, f: Self::Fp<O>) -> O;

    /// Calls it.
    #[doc(hidden)]
    fn call_with<C: 'static, O: 'static>(self, f: Self::FpWith<C, O>, context: &C) -> O;
}

/// Only tuples are arguments: what `Args` says of its function pointers is relied on by code that turns addresses back
/// into functions.
mod sealed {
    #[expect(unnameable_types, reason = "nobody else may implement it, so nobody may name it")]
    #[doc(hidden)]
    pub trait Tuple {}
}

macro_rules! args {
    ($($T:ident $a:ident),+) => {
        impl<$($T: 'static),+> sealed::Tuple for ($($T,)+) {}

        impl<$($T: 'static),+> Args for ($($T,)+) {
            type Fp<O: 'static> = fn($($T),+) -> O;
            type FpWith<C: 'static, O: 'static> = fn(&C, $($T),+) -> O;

            fn address<O: 'static>(f: Self::Fp<O>) -> usize {
                f as usize
            }

            fn address_with<C: 'static, O: 'static>(f: Self::FpWith<C, O>) -> usize {
                f as usize
            }

            fn call<O: 'static>(self, f: Self::Fp<O>) -> O {
                let ($($a,)+) = self;
                f($($a),+)
            }

            fn call_with<C: 'static, O: 'static>(self, f: Self::FpWith<C, O>, context: &C) -> O {
                let ($($a,)+) = self;
                f(context, $($a),+)
            }
        }
    };
}

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
