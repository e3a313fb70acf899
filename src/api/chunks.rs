//! The items of a call in chunks: each a `Vec` that is one item of the call.

/// By default the input makes so many chunks.
const COUNT: usize = 256;
/// A chunk has at most so many items by default: small ones then fit a frame.
const SIZE_MAX: usize = 4096;
/// The size of a chunk of an input that tells nothing of its length.
const SIZE_IF_UNKNOWN: usize = 256;

/// An iterator over chunks.
#[derive(Debug)]
pub(crate) struct Chunks<I> {
    items: I,
    size: usize,
}

impl<I: Iterator> Chunks<I> {
    /// Chunks of `size` items, the last one with fewer.
    pub(crate) fn new(items: I, size: usize) -> Self {
        Self { items, size }
    }

    /// The size by default: it depends on what `items` announces, and on nothing else.
    pub(crate) fn size_for(items: &I) -> usize {
        match items.size_hint() {
            (0, None) => SIZE_IF_UNKNOWN,
            (low, high) => high.unwrap_or(low).div_ceil(COUNT).clamp(1, SIZE_MAX),
        }
    }
}

impl<I: Iterator> Iterator for Chunks<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.items.next()?;
        let announced = self.items.size_hint().0.saturating_add(1);
        let mut chunk = Vec::with_capacity(announced.min(self.size).min(SIZE_MAX));
        chunk.push(first);
        chunk.extend(self.items.by_ref().take(self.size - 1));
        Some(chunk)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (low, high) = self.items.size_hint();
        (low.div_ceil(self.size), high.map(|high| high.div_ceil(self.size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_in_one_chunk() {
        for (len, size) in [(0, 3), (1, 3), (3, 3), (4, 3), (9, 1), (10, 100)] {
            let chunks = Chunks::new(0..len, size);
            let count = chunks.size_hint();
            let chunks: Vec<Vec<usize>> = chunks.collect();
            assert_eq!(count, (chunks.len(), Some(chunks.len())));
            assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.len() == size));
            assert_eq!(chunks.concat(), (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_size_follows_the_announced_length() {
        let of_len = |len: usize| Chunks::size_for(&(0..len));
        assert_eq!([0, 1, 256, 257, 10_000_000].map(of_len), [1, 1, 1, 2, 4096]);
        assert_eq!(Chunks::size_for(&(0..512).filter(|x| x % 2 == 0)), 2);
        assert_eq!(Chunks::size_for(&std::iter::from_fn(|| Some(1))), 256);
    }
}
