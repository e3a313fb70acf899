//! What other processes write, read as arbitrary bytes: one function for each decoder, which says what must hold.
//!
//! Compiled for tests, which run each function over its corpus, over all that is near it, and over noise; and for
//! `cargo fuzz`, whose targets are these functions. Both the corpus and the targets are in the folder `fuzz` of the
//! repository. Nothing here is part of the crate's interface.

use std::fmt::Debug;

use serde::Deserialize;
use serde::Serialize;

use crate::transport::control;
use crate::transport::frame;
use crate::transport::frame::Answer;
use crate::transport::frame::Body;
use crate::transport::frame::Head;
use crate::transport::frame::ITEM_HEAD;
use crate::transport::frame::ItemReader;
use crate::transport::frame::Order;
use crate::transport::panic_record::PanicRecord;
use crate::transport::ring::parent::hostile;
use crate::values::codec;
use crate::work::batch::Batch;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::Span;

mod blobs;
#[cfg(test)]
mod drill;
#[cfg(test)]
mod heap;
#[cfg(test)]
mod record;
mod steps;
mod values;

pub use self::blobs::blob;
pub use self::steps::rings;
pub use self::steps::session;
pub use self::values::value;

/// A frame, whichever way it goes, and the items in it.
pub fn frame(data: &[u8]) {
    if let Ok(Answer { kind, sequence, body }) = frame::parse_answer(data) {
        assert_is(data, Head::answer(kind, sequence, body == Body::Attached), body);
    }
    if let Ok(order) = frame::parse_order(data) {
        written_again(order, data);
    }
    let mut read = 0;
    let mut items = ItemReader(data);
    for item in items.by_ref() {
        let Ok(item) = item else { break };
        assert_eq!(data[read..read + ITEM_HEAD], u32::try_from(item.len()).expect("it has a length").to_le_bytes());
        read += ITEM_HEAD + item.len();
        assert!(read <= data.len());
    }
    assert_eq!(items.next(), None, "an error is the end");
}

fn assert_is(data: &[u8], head: Head, body: Body<'_>) {
    match body {
        Body::Inline(bytes) => assert_eq!(data, [head.as_bytes(), bytes].concat()),
        Body::Attached => assert_eq!(data, head.as_bytes()),
    }
}

fn written_again(order: Order<'_>, data: &[u8]) {
    match order {
        Order::Define { function, definition } => assert_is(data, Head::define(function), Body::Inline(definition)),
        Order::Context { function, context, body } => {
            assert_is(data, Head::context(function, context, body == Body::Attached), body);
        }
        Order::Forget { context } => assert_eq!(data, Head::forget(context).as_bytes()),
        Order::Run { target, number, body: Body::Inline(bytes) } => {
            let items = Items::Inline { bytes: Vec::new(), ends: Vec::new() };
            let span = Span::whole(Batch { job: JobId(0), target, first_index: 0, items });
            assert_is(data, Head::run(&span, number), Body::Inline(bytes));
        }
        // Its head is written for a file that is there.
        Order::Run { body: Body::Attached, .. } => assert_eq!(data.len(), 17),
        Order::Stop => assert_eq!(data, Head::stop().as_bytes()),
        Order::Select { target } => assert_eq!(data, Head::select(target).as_bytes()),
    }
}

/// What a worker says on its control socket, and how it tells of a panic.
pub fn report(data: &[u8]) {
    if let Ok(report) = control::parse_report(data) {
        assert_written_is_read(&report, data.len());
    }
    if let Ok(record) = codec::parse_serialized::<PanicRecord>(data) {
        assert!(record.place().len() <= data.len() + ", at ".len());
        assert_written_is_read(&record, data.len());
    }
}

/// What was read is what would be written, which is no longer.
fn assert_written_is_read<T: Serialize + for<'de> Deserialize<'de> + PartialEq + Debug + 'static>(
    read: &T,
    len: usize,
) {
    let written = control::encode(read);
    assert!(written.len() <= len);
    assert_eq!(codec::parse_serialized::<T>(&written).as_ref(), Ok(read));
}

/// What a worker has left in its ring: the first byte says how many answers it claims, the second how many of them are
/// for one span.
pub fn arrivals(data: &[u8]) {
    if let [records, items_max, bytes @ ..] = data {
        hostile::take_apart(bytes, u32::from(*records) + 1, u32::from(*items_max) + 1);
    }
}
