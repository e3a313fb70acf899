//! Frames, reports and ring records, from arbitrary bytes.

use std::fmt::Debug;

use serde::Deserialize;
use serde::Serialize;

use crate::transport::control;
use crate::transport::frame;
use crate::transport::frame::Answer;
use crate::transport::frame::Body;
use crate::transport::frame::Head;
use crate::transport::frame::ItemReader;
use crate::transport::frame::Order;
use crate::transport::frame::Placement;
use crate::transport::panic_record::PanicRecord;
use crate::transport::ring::parent::hostile;
use crate::values::message;
use crate::work::batch::Batch;
use crate::work::batch::ITEM_HEAD;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::Span;

/// A frame in either direction, and the items in it. What parses is encoded again, to the same bytes.
pub fn frame(data: &[u8]) {
    if let Ok(Answer { kind, sequence, body }) = frame::parse_answer(data) {
        assert_is(data, Head::answer(kind, sequence, placement_of(body)), body);
    }
    if let Ok(order) = frame::parse_order(data) {
        assert_order_is(order, data);
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

/// The bytes are this frame.
fn assert_is(data: &[u8], head: Head, body: Body<'_>) {
    match body {
        Body::Inline(bytes) | Body::Carrying(bytes) => assert_eq!(data, [head.as_bytes(), bytes].concat()),
        Body::Attached => assert_eq!(data, head.as_bytes()),
    }
}

fn placement_of(body: Body<'_>) -> Placement {
    match body {
        Body::Inline(_) => Placement::Inline,
        Body::Attached => Placement::Attached,
        Body::Carrying(_) => Placement::Carrying,
    }
}

/// The bytes are the frame of this order.
fn assert_order_is(order: Order<'_>, data: &[u8]) {
    match order {
        Order::Define { function, definition } => assert_is(data, Head::define(function), Body::Inline(definition)),
        Order::Context { function, context, body } => {
            assert_is(data, Head::context(function, context, placement_of(body)), body);
        }
        Order::Forget { context } => assert_eq!(data, Head::forget(context).as_bytes()),
        Order::Run { target, number, body: Body::Inline(bytes) } => {
            let items = Items::Inline { bytes: Vec::new(), ends: Vec::new() };
            let span = Span::whole(Batch { job: JobId(0), target, first_index: 0, items });
            assert_is(data, Head::run(&span, number), Body::Inline(bytes));
        }
        // Its head can be encoded only with real descriptors, so only the length is compared.
        Order::Run { body: Body::Attached, .. } => assert_eq!(data.len(), 25),
        Order::Run { body: Body::Carrying(item), .. } => assert_eq!(data.len(), 25 + item.len()),
        Order::Discard { before } => assert_eq!(data, Head::discard(before).as_bytes()),
        Order::Stop => assert_eq!(data, Head::stop().as_bytes()),
        Order::Select { target } => assert_eq!(data, Head::select(target).as_bytes()),
    }
}

/// A report on a worker's control socket, and the record of a panic.
pub fn report(data: &[u8]) {
    if let Ok(report) = control::parse_report(data) {
        assert_round_trip(&report, data.len());
    }
    if let Ok(record) = message::parse::<PanicRecord>(data) {
        assert_round_trip(&record, data.len());
    }
}

/// What was decoded encodes to at most `len` bytes, which decode to the same.
fn assert_round_trip<T: Serialize + for<'de> Deserialize<'de> + PartialEq + Debug + 'static>(decoded: &T, len: usize) {
    let encoded = control::encode(decoded);
    assert!(encoded.len() <= len);
    assert_eq!(message::parse::<T>(&encoded).as_ref(), Ok(decoded));
}

/// The answers that a worker has left in its ring. The first byte is the number of answers that it claims, the second the
/// number of items in one span.
pub fn arrivals(data: &[u8]) {
    if let [records, items_max, bytes @ ..] = data {
        hostile::split_all(bytes, u32::from(*records) + 1, u32::from(*items_max) + 1);
    }
}
