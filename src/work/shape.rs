//! The shapes of calls: how a function is called on one item, or on a chunk of them.

use std::marker::PhantomData;

use crate::work::task::Args;
use crate::work::task::Outcome;

/// The shape of a call: the type of the function pointer and of what it is called with.
pub(crate) trait Shape: 'static {
    /// What all items of the call share.
    type Context: 'static;
    /// One item.
    type Input: 'static;
    /// What the function returns.
    type Output: 'static;
    /// The function pointer.
    type Pointer: Copy + 'static;

    fn address(f: Self::Pointer) -> usize;
    fn call(f: Self::Pointer, context: &Self::Context, input: Self::Input) -> Self::Output;
}

/// `map`: `fn(A) -> O`.
pub(crate) struct Map<A, O>(PhantomData<fn(A) -> O>);
/// `map` with a context: `fn(&C, A) -> O`.
pub(crate) struct MapWith<C, A, O>(PhantomData<fn(C, A) -> O>);
/// `starmap` and `apply`: `fn(A, B, …) -> O`.
pub(crate) struct Star<T, O>(PhantomData<fn(T) -> O>);
/// `starmap` and `apply` with a context: `fn(&C, A, B, …) -> O`.
pub(crate) struct StarWith<C, T, O>(PhantomData<fn(C, T) -> O>);

impl<A: 'static, O: 'static> Shape for Map<A, O> {
    type Context = ();
    type Input = A;
    type Output = O;
    type Pointer = fn(A) -> O;

    fn address(f: Self::Pointer) -> usize {
        f as usize
    }

    fn call(f: Self::Pointer, (): &(), input: A) -> O {
        f(input)
    }
}

impl<C: 'static, A: 'static, O: 'static> Shape for MapWith<C, A, O> {
    type Context = C;
    type Input = A;
    type Output = O;
    type Pointer = fn(&C, A) -> O;

    fn address(f: Self::Pointer) -> usize {
        f as usize
    }

    fn call(f: Self::Pointer, context: &C, input: A) -> O {
        f(context, input)
    }
}

impl<T: Args, O: 'static> Shape for Star<T, O> {
    type Context = ();
    type Input = T;
    type Output = O;
    type Pointer = T::Fp<O>;

    fn address(f: Self::Pointer) -> usize {
        T::address::<O>(f)
    }

    fn call(f: Self::Pointer, (): &(), input: T) -> O {
        input.call(f)
    }
}

impl<C: 'static, T: Args, O: 'static> Shape for StarWith<C, T, O> {
    type Context = C;
    type Input = T;
    type Output = O;
    type Pointer = T::FpWith<C, O>;

    fn address(f: Self::Pointer) -> usize {
        T::address_with::<C, O>(f)
    }

    fn call(f: Self::Pointer, context: &C, input: T) -> O {
        input.call_with(f, context)
    }
}

/// `reduce`: `fn(A, A) -> A`, over the items of a chunk from the first to the last.
pub(crate) struct Reduce<A>(PhantomData<fn(A) -> A>);
/// `reduce` with a context: `fn(&C, A, A) -> A`.
pub(crate) struct ReduceWith<C, A>(PhantomData<fn(C, A) -> A>);
/// `fold`: `fn(B, A) -> O`, over the items of a chunk from the first to the last. The context is the value to begin with.
pub(crate) struct Fold<B, A, O, M>(PhantomData<(B, A, O, M)>);
/// `fold` with a context: `fn(&C, B, A) -> O`.
pub(crate) struct FoldWith<C, B, A, O, M>(PhantomData<(C, B, A, O, M)>);

impl<A: 'static> Shape for Reduce<A> {
    type Context = ();
    type Input = Vec<A>;
    type Output = Option<A>;
    type Pointer = fn(A, A) -> A;

    fn address(f: Self::Pointer) -> usize {
        f as usize
    }

    fn call(f: Self::Pointer, (): &(), input: Vec<A>) -> Option<A> {
        input.into_iter().reduce(f)
    }
}

impl<C: 'static, A: 'static> Shape for ReduceWith<C, A> {
    type Context = C;
    type Input = Vec<A>;
    type Output = Option<A>;
    type Pointer = fn(&C, A, A) -> A;

    fn address(f: Self::Pointer) -> usize {
        f as usize
    }

    fn call(f: Self::Pointer, context: &C, input: Vec<A>) -> Option<A> {
        input.into_iter().reduce(|left, right| f(context, left, right))
    }
}

/// The output of a fold: an error of the function is one of the whole chunk.
fn fold<B: Clone, A, O: Outcome<M, Value = B>, M>(
    start: &B,
    input: Vec<A>,
    mut step: impl FnMut(B, A) -> O,
) -> anyhow::Result<B> {
    input
        .into_iter()
        .try_fold(start.clone(), |folded, item| step(folded, item).into_value())
        .map_err(anyhow::Error::msg)
}

impl<B, A, O, M> Shape for Fold<B, A, O, M>
where
    B: Clone + 'static,
    A: 'static,
    O: Outcome<M, Value = B>,
    M: 'static,
{
    type Context = B;
    type Input = Vec<A>;
    type Output = anyhow::Result<B>;
    type Pointer = fn(B, A) -> O;

    fn address(f: Self::Pointer) -> usize {
        f as usize
    }

    fn call(f: Self::Pointer, start: &B, input: Vec<A>) -> anyhow::Result<B> {
        fold(start, input, f)
    }
}

impl<C, B, A, O, M> Shape for FoldWith<C, B, A, O, M>
where
    C: 'static,
    B: Clone + 'static,
    A: 'static,
    O: Outcome<M, Value = B>,
    M: 'static,
{
    type Context = (C, B);
    type Input = Vec<A>;
    type Output = anyhow::Result<B>;
    type Pointer = fn(&C, B, A) -> O;

    fn address(f: Self::Pointer) -> usize {
        f as usize
    }

    fn call(f: Self::Pointer, (context, start): &(C, B), input: Vec<A>) -> anyhow::Result<B> {
        fold(start, input, |folded, item| f(context, folded, item))
    }
}
