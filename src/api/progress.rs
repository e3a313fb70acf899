//! An adaptor for iterators that tells how far they have come.

use std::fmt;
use std::iter::FusedIterator;

/// Tells a function, after each item of an iterator, how many have come. For any iterator, results of a pool included.
///
/// If a crate with a trait of the same method is in use as well (`indicatif::ProgressIterator`), import only one of them.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # procpool::init();
/// # let pool = procpool::Pool::new(2)?;
/// use procpool::ProgressExt;
///
/// let tell = |done: u64, total: Option<u64>| eprint!("\r{done} of {}", total.unwrap_or(done));
/// let squares = pool.imap(0..100u64, |x| x * x).progress(tell).collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(squares[9], 81);
/// # Ok(())
/// # }
/// ```
pub trait ProgressExt: Iterator + Sized {
    /// Calls `tell` after each item, with the number of items so far and, if the iterator knows it, of all.
    ///
    /// It is called on the thread that draws the items, once for each, so it should be quick. Named `tqdm` in Python.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::ProgressExt;
    ///
    /// let mut told = Vec::new();
    /// let sum: u32 = [1, 2, 3].into_iter().progress(|done, total| told.push((done, total))).sum();
    /// assert_eq!((sum, told.last()), (6, Some(&(3, Some(3)))));
    /// ```
    #[doc(alias = "tqdm")]
    fn progress<F: FnMut(u64, Option<u64>)>(self, tell: F) -> WithProgress<Self, F> {
        let total = self.size_hint().1.map(|items| items as u64);
        WithProgress { items: self, done: 0, total, tell }
    }
}

impl<I: Iterator> ProgressExt for I {}

/// An iterator that tells how far it has come, from [`ProgressExt::progress`].
///
/// # Examples
///
/// ```
/// use procpool::ProgressExt;
///
/// let mut items = [1, 2].into_iter().progress(|done, _| assert!(done <= 2));
/// assert_eq!(items.next(), Some(1));
/// ```
#[must_use = "an iterator does nothing until it is consumed"]
pub struct WithProgress<I, F> {
    items: I,
    done: u64,
    total: Option<u64>,
    tell: F,
}

impl<I: Iterator, F: FnMut(u64, Option<u64>)> Iterator for WithProgress<I, F> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let item = self.items.next()?;
        self.done += 1;
        (self.tell)(self.done, self.total);
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

impl<I: FusedIterator, F: FnMut(u64, Option<u64>)> FusedIterator for WithProgress<I, F> {}

impl<I, F> fmt::Debug for WithProgress<I, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithProgress").field("done", &self.done).field("total", &self.total).finish_non_exhaustive()
    }
}
