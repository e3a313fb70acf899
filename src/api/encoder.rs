//! Encoding: the items of a call become batches, on the calling thread.

use std::any::Any;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;
use std::thread::AccessError;

use serde::Serialize;

use crate::api::input::Input;
use crate::api::input::Source;
use crate::error::Origin;
use crate::error::Side;
use crate::error::TaskError;
use crate::transport::frame::close_item;
use crate::transport::frame::number_item;
use crate::values::blob;
use crate::values::blob::INLINE_MAX;
use crate::values::codec;
use crate::values::codec::Coding;
use crate::values::number;
use crate::values::output::Output;
use crate::work::batch::Batch;
use crate::work::batch::ITEM_HEAD;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::batch::Target;
use crate::work::batch::Work;

/// A batch is submitted when it has this many bytes.
const BATCH_BYTES: usize = 32 * 1024;
/// A batch is submitted when it has this many items.
const BATCH_ITEMS: usize = 4096;

/// Which step of drawing an item a panic came from.
enum Step {
    Draw,
    Serialize,
    /// Code of this crate, or the drop of an item: the panic passes through.
    Other,
}

/// Turns the items of one job into batches.
///
/// Also called: serialization, batching, chunking.
#[derive(Debug)]
pub(super) struct Encoder {
    job: JobId,
    target: Target,
    /// Position of the next item.
    next_index: u64,
    /// The size of all items so far.
    total_bytes: u64,
    /// How many descriptors all items so far carried.
    total_fds: u64,
    output: Output,
    ends: Vec<u32>,
    work: Vec<Work>,
}

impl Encoder {
    pub(super) fn new(job: JobId, target: Target, output: Output) -> Self {
        Self { job, target, next_index: 0, total_bytes: 0, total_fds: 0, output, ends: Vec::new(), work: Vec::new() }
    }

    /// How many items have been pushed.
    pub(super) fn pushed(&self) -> u64 {
        self.next_index
    }

    /// The average size of an item, in bytes.
    pub(super) fn bytes_per_item(&self) -> u64 {
        self.total_bytes / self.next_index.max(1)
    }

    /// How many items may be encoded and not settled, by the descriptors that those so far carried.
    pub(super) fn ahead_max(&self) -> u64 {
        match self.total_fds.div_ceil(self.next_index.max(1)) {
            0 => u64::MAX,
            fds_per_item => (blob::descriptors_max() / fds_per_item).max(1),
        }
    }

    /// Whether a batch is full and should be submitted.
    pub(super) fn is_due(&self) -> bool {
        !self.work.is_empty()
    }

    /// Draws items and adds them, as long as `wants_more` returns true, until a batch is due or the input is over. A
    /// panic of the input, or in an item's `Serialize`, becomes the error of that item. A panic in an item's `Drop`
    /// passes through.
    pub(super) fn draw<I: Iterator<Item: Serialize + 'static>>(
        &mut self,
        input: &mut Input<I>,
        mut wants_more: impl FnMut(&Self) -> bool,
    ) {
        let mut step = Step::Other;
        let mut item = None;
        while !input.is_over() {
            // One `catch_unwind` for many items, since it costs more than a small item. Unwind safety: what a panic
            // left half done is repaired below.
            let drawn = catch_unwind(AssertUnwindSafe(|| {
                while !self.is_due() && wants_more(self) {
                    step = Step::Draw;
                    item = input.draw();
                    step = Step::Serialize;
                    match &item {
                        Some(item) => self.add(item),
                        None => break,
                    }
                    step = Step::Other;
                    item = None;
                }
            }));
            let Err(payload) = drawn else { return };
            match step {
                Step::Draw => self.push_error(input.panicked(payload)),
                Step::Serialize => {
                    self.fail_for_panic(payload);
                    // Dropped after its error is recorded, since its `Drop` may panic as well.
                    item = None;
                }
                Step::Other => resume_unwind(payload),
            }
        }
    }

    /// Adds one item. If it does not serialize, or panics, the error takes its place.
    pub(super) fn push<A: Serialize + 'static>(&mut self, item: &A) {
        // Unwind safety: what a panic leaves half done is repaired here.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.add(item))) {
            self.fail_for_panic(payload);
        }
    }

    /// As [`push`](Self::push), but a panic passes through, and must be reported to
    /// [`fail_for_panic`](Self::fail_for_panic).
    #[inline]
    fn add<A: Serialize + 'static>(&mut self, item: &A) {
        let bytes = self.output.bytes();
        let start = bytes.len();
        if let Some(number) = number::to_bytes(item) {
            let (item, len) = number_item(&number);
            bytes.extend_from_slice(&item[..len]);
            self.total_bytes += len as u64;
            return self.end_item();
        }
        bytes.extend_from_slice(&[0; ITEM_HEAD]);
        if let Err(message) = codec::append(item, &mut self.output) {
            return self.fail(message);
        }
        let len = ITEM_HEAD as u64 + self.output.len();
        self.total_bytes += len;
        if start as u64 + len > INLINE_MAX as u64 || self.output.carries() {
            self.split_off(start, len);
            return;
        }
        close_item(self.output.bytes(), start);
        self.end_item();
    }

    /// The item that was being added panicked: removes what there is of it, and records the error.
    fn fail_for_panic(&mut self, payload: Box<dyn Any + Send>) {
        self.output.roll_back();
        self.fail(codec::panic_in(Coding::Serialize, payload));
    }

    /// The item did not serialize, and only its head was written: removes that, and records the error.
    fn fail(&mut self, message: String) {
        let bytes = self.output.bytes();
        bytes.truncate(bytes.len() - ITEM_HEAD);
        self.push_error(not_encoded(message));
    }

    /// Records an error as the next item.
    pub(super) fn push_error(&mut self, error: TaskError) {
        self.close_batch();
        self.work.push(Err((self.next_index, error)));
        self.next_index += 1;
    }

    /// Takes everything that was pushed since the last call.
    pub(super) fn take(&mut self) -> Vec<Work> {
        self.close_batch();
        std::mem::take(&mut self.work)
    }

    /// Separates the item that begins at `start`, which does not fit behind those before it: it begins a new batch, or
    /// travels by itself.
    fn split_off(&mut self, start: usize, len: u64) {
        if len <= INLINE_MAX as u64 && !self.output.carries() {
            let mut item = self.output.bytes().split_off(start);
            self.close_batch();
            close_item(&mut item, 0);
            *self.output.bytes() = item;
            self.end_item();
            return;
        }
        self.total_fds += self.output.carried_len() as u64;
        let parcel = self.output.take_parcel();
        self.output.bytes().truncate(start);
        self.close_batch();
        match parcel {
            Ok(parcel) => {
                self.next_index += 1;
                self.finish(self.next_index - 1, Items::Parcel(parcel));
            }
            Err(message) => self.push_error(not_encoded(message)),
        }
    }

    /// The last item of the batch ends here.
    #[inline]
    fn end_item(&mut self) {
        let end = self.output.bytes().len();
        self.ends.push(u32::try_from(end).expect("a batch is cut at INLINE_MAX"));
        self.next_index += 1;
        if end >= BATCH_BYTES || self.ends.len() >= BATCH_ITEMS {
            self.close_batch();
        }
    }

    fn close_batch(&mut self) {
        if self.ends.is_empty() {
            return;
        }
        let first_index = self.next_index - self.ends.len() as u64;
        let bytes = std::mem::take(self.output.bytes());
        let ends = std::mem::take(&mut self.ends);
        if bytes.len() >= BATCH_BYTES / 2 {
            // The next batch is probably as large, and then need not grow.
            self.output.bytes().reserve_exact(bytes.len());
            self.ends.reserve_exact(ends.len());
        }
        self.finish(first_index, Items::inline(bytes, ends));
    }

    fn finish(&mut self, first_index: u64, items: Items) {
        let batch = Batch { job: self.job, target: self.target, first_index, items };
        self.work.push(Ok(Span::whole(batch)));
    }
}

thread_local! {
    /// Memory in which the next item is encoded that is encoded alone: its length is known only afterwards.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How much of this memory a thread keeps.
const SCRATCH_MAX: usize = 4096;

/// Encodes the one item of a call. A panic in its `Serialize` is an error as well.
///
/// # Errors
///
/// It does not serialize.
pub(super) fn encode_one<A: Serialize + 'static>(
    item: &A,
    output: impl FnOnce() -> Output,
) -> Result<Items, TaskError> {
    if let Some(number) = number::to_bytes(item) {
        let (item, len) = number_item(&number);
        return Ok(Items::One(item[..len].into()));
    }
    let mut output = output();
    *output.bytes() = SCRATCH.try_with(Cell::take).unwrap_or_default();
    output.bytes().extend_from_slice(&[0; ITEM_HEAD]);
    let encoded = codec::encode(item, &mut output).and_then(|()| {
        let len = ITEM_HEAD as u64 + output.len();
        if len > INLINE_MAX as u64 || output.carries() {
            return output.take_parcel().map(Items::Parcel);
        }
        close_item(output.bytes(), 0);
        Ok(Items::One(output.bytes().as_slice().into()))
    });
    let mut bytes = std::mem::take(output.bytes());
    if bytes.capacity() <= SCRATCH_MAX {
        bytes.clear();
        // A thread that ends keeps none.
        let _kept: Result<(), AccessError> = SCRATCH.try_with(|scratch| scratch.set(bytes));
    }
    encoded.map_err(not_encoded)
}

/// The error of an item that did not serialize. Its origin is set where it is read.
fn not_encoded(message: String) -> TaskError {
    TaskError::Encode { side: Side::Argument, message, origin: Origin::default() }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::sys::payload;
    use crate::work::function::FunctionId;

    fn encoder() -> Encoder {
        let target = Target { function: FunctionId(1), context: 0, timeout: None };
        Encoder::new(JobId(1), target, Output::default())
    }

    #[test]
    fn small_items_share_a_batch() {
        let mut encoder = encoder();
        (0..10u8).for_each(|item| encoder.push(&item));
        let work = encoder.take();
        assert_eq!(work.len(), 1);
        assert_eq!(work[0].as_ref().unwrap().indices(), 0..10);
    }

    #[test]
    fn an_item_too_large_for_a_frame_travels_alone() {
        let mut encoder = encoder();
        encoder.push(&"small");
        encoder.push(&"x".repeat(INLINE_MAX + 1));
        encoder.push(&"small");
        let indices: Vec<_> = encoder.take().into_iter().map(|work| work.unwrap().indices()).collect();
        assert_eq!(indices, [0..1, 1..2, 2..3]);
    }

    #[test]
    fn a_batch_never_outgrows_a_frame() {
        let mut encoder = encoder();
        for len in [1000, 31_000, 60_000, 20_000, 50_000, 59_000] {
            encoder.push(&"x".repeat(len));
        }
        let mut next = 0;
        for span in encoder.take().into_iter().map(Result::unwrap) {
            assert!(span.bytes().unwrap().len() <= INLINE_MAX);
            assert_eq!(span.index_of_first(), next);
            next = span.indices().end;
        }
        assert_eq!(next, 6);
    }

    #[test]
    fn an_item_that_does_not_serialize_costs_only_itself() {
        struct Bad;
        impl Serialize for Bad {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("bad"))
            }
        }
        let mut encoder = encoder();
        encoder.push(&1u8);
        encoder.push(&Bad);
        encoder.push(&3u8);
        let work = encoder.take();
        assert_eq!(work[0].as_ref().unwrap().indices(), 0..1);
        assert!(matches!(work[1], Err((1, TaskError::Encode { side: Side::Argument, .. }))));
        assert_eq!(work[2].as_ref().unwrap().indices(), 2..3);
    }

    fn outcomes(work: Vec<Work>) -> Vec<Result<Range<u64>, (u64, String)>> {
        let outcome = |work: Work| match work {
            Ok(span) => Ok(span.indices()),
            Err((index, error)) => Err((index, error.to_string())),
        };
        work.into_iter().map(outcome).collect()
    }

    #[test]
    fn an_input_that_panics_is_not_asked_again() {
        let mut asked = 0;
        let mut input = Input::new((0..3).map(|x| {
            asked += 1;
            if x == 1 { panic!("one") } else { x }
        }));
        let mut encoder = encoder();
        encoder.draw(&mut input, |_| true);
        assert!(input.is_over());
        encoder.draw(&mut input, |_| true);
        assert!(!input.has_another());
        let outcomes = outcomes(encoder.take());
        assert_eq!(outcomes[0], Ok(0..1));
        assert!(matches!(&outcomes[1..], [Err((1, text))] if text.contains("one")), "{outcomes:?}");
        assert_eq!(asked, 2);
    }

    /// Panics when it is serialized, or when it is dropped.
    struct Bad {
        number: u8,
        in_drop: bool,
    }

    impl Serialize for Bad {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            assert!(self.number != 2, "two");
            serializer.serialize_u8(self.number)
        }
    }

    impl Drop for Bad {
        fn drop(&mut self) {
            assert!(!self.in_drop, "dropped");
        }
    }

    #[test]
    fn an_item_that_panics_in_serialize_costs_only_itself() {
        let mut input = Input::new((0..5).map(|number| Bad { number, in_drop: false }));
        let mut encoder = encoder();
        let mut outcomes_of_all = Vec::new();
        while !input.is_over() {
            encoder.draw(&mut input, |_| true);
            outcomes_of_all.extend(outcomes(encoder.take()));
        }
        assert_eq!(outcomes_of_all[0], Ok(0..2));
        assert!(matches!(&outcomes_of_all[1], Err((2, text)) if text.contains("panic in Serialize: two")));
        assert_eq!(outcomes_of_all[2..], [Ok(3..5)]);
    }

    #[test]
    fn a_panic_of_an_item_that_is_dropped_passes_through() {
        for number in [1, 2] {
            let mut input = Input::new(std::iter::repeat_with(|| Bad { number, in_drop: true }));
            let mut encoder = encoder();
            let drawn = catch_unwind(AssertUnwindSafe(|| encoder.draw(&mut input, |_| true)));
            assert_eq!(payload::into_text(drawn.unwrap_err()), "dropped");
            assert_eq!(encoder.pushed(), 1);
        }
    }
}
