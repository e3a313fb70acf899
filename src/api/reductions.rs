//! `fold` and `reduce`: many items to one value, in the workers over chunks and then here over what they have made.

use crate::api::call::Call;
use crate::api::call::CallWith;
use crate::api::pool::Pool;
use crate::error::TaskError;
use crate::values::codec;
use crate::work::function::LocalFunction;
use crate::work::shape::Fold;
use crate::work::shape::FoldWith;
use crate::work::shape::Reduce;
use crate::work::shape::ReduceWith;
use crate::work::task::Data;
use crate::work::task::Fallible;
use crate::work::task::Outcome;
use crate::work::task::Plain;

/// Two values of chunks, of which one may have had no items.
pub(crate) fn combine_some<A>(f: impl Fn(A, A) -> A) -> impl Fn(Option<A>, Option<A>) -> Option<A> {
    move |left, right| match (left, right) {
        (Some(left), Some(right)) => Some(f(left, right)),
        (left, right) => left.or(right),
    }
}

/// Reductions.
impl Pool {
    /// Folds the items into one value: `step` in the workers, over each chunk from `start` on, and `combine` here, over what
    /// the chunks have made.
    ///
    /// The order is fixed. Within a chunk `step` runs from the first item to the last, with a clone of `start`. The values of
    /// the chunks are combined from the first to the last: `combine(combine(one, two), three)`, each as soon as all
    /// before it have arrived. Chunks are as in [`map_chunks`](Self::map_chunks), and depend on neither the workers nor
    /// the machine. So the result is always the same, floating-point sums included; and it is that of a plain fold if
    /// `combine` is associative, and `combine(start, x)` is `x`. Without items it is `start`.
    ///
    /// Options hold for chunks, as in `map_chunks`. `step` is an `fn` pointer; `combine` runs on this thread and may capture.
    /// A panic in it unwinds through this call. Named `fold` and then `reduce` in rayon; not in CPython.
    ///
    /// # Errors
    ///
    /// The first one, in the order of the items, as [`map`](Self::map) lists them; an error of `step` is
    /// [`TaskError::Failed`]. Chunks that no worker has been given yet are not run.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// let squares = pool.fold(0..1000u64, 0, |sum, x| sum + x * x, |left, right| left + right)?;
    /// assert_eq!(squares, 332_833_500);
    ///
    /// // Mean and count in one pass; errors of a step are those of the call.
    /// let parse = |(count, sum): (u32, f64), text: String| -> anyhow::Result<_> {
    ///     Ok((count + 1, sum + text.parse::<f64>()?))
    /// };
    /// let texts = ["1.5", "2.5"].map(str::to_owned);
    /// let (count, sum) = pool.fold(texts, (0, 0.0), parse, |left, right| (left.0 + right.0, left.1 + right.1))?;
    /// assert_eq!((count, sum), (2, 4.0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn fold<I, A, B, O, M>(
        &self,
        items: I,
        start: B,
        step: fn(B, A) -> O,
        combine: impl FnMut(B, B) -> B,
    ) -> Result<B, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data,
        B: Data + Clone,
        O: Outcome<M, Value = B>,
        M: 'static,
    {
        self.call().fold(items, start, step, combine)
    }

    /// Reduces the items to one: `f` takes two neighbours and returns one. `None` without items.
    ///
    /// `f` runs in the workers over the items of each chunk, from the first to the last, and then here over what the chunks
    /// have made, from the first to the last. Order and chunks are fixed, as in [`fold`](Self::fold), so the result is always
    /// the same; and it is that of [`Iterator::reduce`] if `f` is associative. Named `reduce_with` in rayon; not in CPython,
    /// whose `functools.reduce` has one process.
    ///
    /// # Errors
    ///
    /// As for [`fold`](Self::fold).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # procpool::init();
    /// # let pool = procpool::Pool::new(2)?;
    /// fn longer(left: String, right: String) -> String {
    ///     if right.len() > left.len() { right } else { left }
    /// }
    ///
    /// let words = ["a", "bcd", "ef", "ghi"].map(str::to_owned);
    /// assert_eq!(pool.reduce(words, longer)?.as_deref(), Some("bcd"));
    /// assert_eq!(pool.reduce(0..0u64, u64::max)?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reduce<I, A>(&self, items: I, f: fn(A, A) -> A) -> Result<Option<A>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data,
    {
        self.call().reduce(items, f)
    }
}

/// Reductions. Both are documented at [`Pool`].
#[expect(clippy::missing_errors_doc, reason = "each is a link to the method of the pool")]
impl Call<'_> {
    /// Folds the items into one value: `step` in the workers, and `combine` here.
    ///
    /// See [`Pool::fold`](crate::Pool::fold) for details and an example.
    pub fn fold<I, A, B, O, M>(
        &self,
        items: I,
        start: B,
        step: fn(B, A) -> O,
        combine: impl FnMut(B, B) -> B,
    ) -> Result<B, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data,
        B: Data + Clone,
        O: Outcome<M, Value = B>,
        M: 'static,
    {
        let function = LocalFunction::task::<Fold<B, A, O, M>, Fallible>(step);
        let request = self.request_with(function, |output| codec::encode(&start, output));
        let folded = request.reduce(items.into_iter(), combine)?;
        Ok(folded.unwrap_or(start))
    }

    /// Reduces the items to one: `f` takes two neighbours and returns one.
    ///
    /// See [`Pool::reduce`](crate::Pool::reduce) for details and an example.
    pub fn reduce<I, A>(&self, items: I, f: fn(A, A) -> A) -> Result<Option<A>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data,
    {
        let request = self.request(LocalFunction::task::<Reduce<A>, Plain>(f));
        Ok(request.reduce(items.into_iter(), combine_some(f))?.flatten())
    }
}

/// Reductions. Both are documented at [`Pool`]; here the function takes the context before its arguments.
#[expect(clippy::missing_errors_doc, reason = "each is a link to the method of the pool")]
impl<C: Data> CallWith<'_, '_, C> {
    /// Folds the items into one value: `step` in the workers, and `combine` here.
    ///
    /// See [`Pool::fold`](crate::Pool::fold) for details and an example.
    pub fn fold<I, A, B, O, M>(
        &self,
        items: I,
        start: B,
        step: fn(&C, B, A) -> O,
        combine: impl FnMut(B, B) -> B,
    ) -> Result<B, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data,
        B: Data + Clone,
        O: Outcome<M, Value = B>,
        M: 'static,
    {
        let function = LocalFunction::task::<FoldWith<C, B, A, O, M>, Fallible>(step);
        let encode = |output: &mut _| codec::encode_pair((self.context, &start), output);
        let folded = self.call.request_with(function, encode).reduce(items.into_iter(), combine)?;
        Ok(folded.unwrap_or(start))
    }

    /// Reduces the items to one: `f` takes two neighbours and returns one.
    ///
    /// See [`Pool::reduce`](crate::Pool::reduce) for details and an example.
    pub fn reduce<I, A>(&self, items: I, f: fn(&C, A, A) -> A) -> Result<Option<A>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Data,
    {
        let request = self.request(LocalFunction::task::<ReduceWith<C, A>, Plain>(f));
        let combine = combine_some(|left, right| f(self.context, left, right));
        Ok(request.reduce(items.into_iter(), combine)?.flatten())
    }
}
