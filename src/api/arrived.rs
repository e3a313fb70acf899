//! Outcomes that have arrived for an `imap` and wait to be yielded, in the order of the input or of their arrival.

use std::collections::VecDeque;

use crate::error::TaskError;

/// The position of an item, as the caller counts.
pub(super) fn position(index: u64) -> usize {
    usize::try_from(index).expect("64 bits, as on every target of this crate")
}

pub(super) type Item<T> = Result<T, TaskError>;
/// An item that waits to be yielded. The error is boxed, since it is larger than most values, and rare, and thousands
/// of items may wait.
type Kept<T> = Result<T, Box<TaskError>>;

/// Which items are in flight, so that those that are lost together with the pool have their positions. As a sparse set
/// of bits: it has no more entries than items are in flight, however far apart those are.
#[derive(Debug, Default)]
struct InFlight {
    /// Chunk numbers, ascending, each with a bit for each item that is in flight.
    chunks: VecDeque<(u64, u64)>,
}

/// Items in one chunk.
const CHUNK: u64 = u64::BITS as u64;

impl InFlight {
    /// Adds `items` items, which follow all that were added before.
    fn add(&mut self, first: u64, items: u64) {
        let (mut index, end) = (first, first + items);
        while index < end {
            let (chunk, bit) = (index / CHUNK, index % CHUNK);
            let count = (CHUNK - bit).min(end - index);
            let added = (u64::MAX >> (CHUNK - count)) << bit;
            match self.chunks.back_mut() {
                Some((last, bits)) if *last == chunk => *bits |= added,
                _ => self.chunks.push_back((chunk, added)),
            }
            index += count;
        }
    }

    /// Removes consecutive items.
    fn remove(&mut self, first: u64, items: u64) {
        let (mut index, end) = (first, first + items);
        while index < end {
            let (chunk, bit) = (index / CHUNK, index % CHUNK);
            let count = (CHUNK - bit).min(end - index);
            self.remove_bits(chunk, (u64::MAX >> (CHUNK - count)) << bit);
            index += count;
        }
    }

    fn remove_bits(&mut self, chunk: u64, removed: u64) {
        // Most outcomes arrive nearly in order.
        let place = match self.chunks.front() {
            Some(&(first, _)) if first == chunk => 0,
            _ => match self.chunks.binary_search_by_key(&chunk, |&(chunk, _)| chunk) {
                Ok(place) => place,
                Err(_) => return,
            },
        };
        self.chunks[place].1 &= !removed;
        if self.chunks[place].1 == 0 {
            self.chunks.remove(place);
        }
    }

    /// All items, ascending. None is left.
    fn drain(&mut self) -> impl Iterator<Item = u64> {
        let chunks = std::mem::take(&mut self.chunks);
        chunks.into_iter().flat_map(|(chunk, bits)| {
            (0..CHUNK).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| chunk * CHUNK + bit)
        })
    }
}

/// Results in the order of the input: a window onto the positions from `next_index` on.
#[derive(Debug)]
pub(super) struct Reorder<T> {
    next_index: u64,
    slots: VecDeque<Option<Kept<T>>>,
}

/// Results in the order of arrival, each with its position in the input.
#[derive(Debug)]
pub(super) struct Arrivals<T> {
    items: VecDeque<(u64, Kept<T>)>,
    in_flight: InFlight,
}

/// What has arrived. See the head of this file.
#[derive(Debug)]
pub(super) enum Arrived<T> {
    Ordered(Reorder<T>),
    Unordered(Arrivals<T>),
}

impl<T> Arrived<T> {
    pub(super) fn ordered() -> Self {
        Self::Ordered(Reorder { next_index: 0, slots: VecDeque::new() })
    }

    pub(super) fn unordered() -> Self {
        Self::Unordered(Arrivals { items: VecDeque::new(), in_flight: InFlight::default() })
    }

    /// Items were submitted, and follow all that were before.
    pub(super) fn expect(&mut self, first: u64, items: u64) {
        if let Self::Unordered(Arrivals { in_flight, .. }) = self {
            in_flight.add(first, items);
        }
    }

    /// All of these items have been [put](Self::put).
    pub(super) fn complete(&mut self, first: u64, count: u64) {
        if let Self::Unordered(Arrivals { in_flight, .. }) = self {
            in_flight.remove(first, count);
        }
    }

    /// Adds an item. Of those that were [expected](Self::expect), the caller reports whole runs as
    /// [complete](Self::complete): that takes less time than one by one.
    #[inline]
    pub(super) fn put(&mut self, index: u64, item: Item<T>) {
        let item = item.map_err(Box::new);
        match self {
            Arrived::Unordered(Arrivals { items, .. }) => items.push_back((index, item)),
            Arrived::Ordered(Reorder { next_index, slots }) => {
                let slot = usize::try_from(index - *next_index).expect("a window fits memory");
                if slots.len() <= slot {
                    slots.resize_with(slot + 1, || None);
                }
                slots[slot] = Some(item);
            }
        }
    }

    /// Gives this error to all items below `drawn` that have not arrived.
    pub(super) fn fill(&mut self, drawn: u64, error: &TaskError) {
        match self {
            Arrived::Unordered(Arrivals { items, in_flight }) => {
                items.extend(in_flight.drain().map(|index| (index, Err(Box::new(error.clone())))));
            }
            Arrived::Ordered(Reorder { next_index, slots }) => {
                let len = usize::try_from(drawn - *next_index).expect("a window fits memory");
                slots.resize_with(len, || None);
                for slot in slots {
                    slot.get_or_insert_with(|| Err(Box::new(error.clone())));
                }
            }
        }
    }

    /// Takes out the next item, with its position in the input.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<(u64, Item<T>)> {
        let (index, item) = match self {
            Arrived::Unordered(Arrivals { items, .. }) => items.pop_front()?,
            Arrived::Ordered(Reorder { next_index, slots }) => {
                slots.front()?.as_ref()?;
                *next_index += 1;
                (*next_index - 1, slots.pop_front().flatten()?)
            }
        };
        Some((index, item.map_err(|error| *error)))
    }

    pub(super) fn has_next(&self) -> bool {
        match self {
            Arrived::Unordered(Arrivals { items, .. }) => !items.is_empty(),
            Arrived::Ordered(Reorder { slots, .. }) => slots.front().is_some_and(Option::is_some),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn indices(arrived: &mut Arrived<u64>) -> Vec<u64> {
        std::iter::from_fn(|| arrived.pop()).map(|(index, _)| index).collect()
    }

    #[test]
    fn memory_is_bounded_by_what_is_in_flight() {
        let mut in_flight = InFlight::default();
        in_flight.add(0, 1);
        for index in 1..100_000 {
            in_flight.add(index, 1);
            in_flight.remove(index, 1);
        }
        assert_eq!(in_flight.chunks.len(), 1, "item 0 is still in flight");
        assert_eq!(in_flight.drain().collect::<Vec<_>>(), [0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn runs_are_removed_whole(total in 1..400u64, first in 0..400u64, items in 0..400u64) {
            let mut in_flight = InFlight::default();
            in_flight.add(0, total);
            let (first, end) = (first.min(total), (first + items).min(total));
            in_flight.remove(first, end.saturating_sub(first));
            let left: Vec<u64> = (0..total).filter(|index| !(first..end).contains(index)).collect();
            prop_assert_eq!(in_flight.drain().collect::<Vec<_>>(), left);
        }

        #[test]
        fn every_item_is_yielded_once_with_its_index(arrivals in Just((0..200u64).collect::<Vec<_>>()).prop_shuffle(),
                                                     count in 0..200usize) {
            for mut arrived in [Arrived::ordered(), Arrived::unordered()] {
                arrived.expect(0, 77);
                arrived.expect(77, 123);
                for &index in &arrivals[..count] {
                    arrived.put(index, Ok(index));
                    arrived.complete(index, 1);
                }
                let mut yielded = indices(&mut arrived);
                arrived.fill(200, &TaskError::Terminated);
                yielded.extend(indices(&mut arrived));
                if matches!(arrived, Arrived::Unordered(_)) {
                    prop_assert_eq!(&yielded[..count], &arrivals[..count]);
                    prop_assert!(yielded[count..].is_sorted());
                    yielded.sort_unstable();
                }
                prop_assert_eq!(yielded, (0..200).collect::<Vec<_>>());
            }
        }
    }
}
