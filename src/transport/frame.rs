//! The frames on a link, both ways, as bytes. Pure: no descriptor, no process.
//!
//! ```text
//! down   Define   kind  function u32   postcard(Definition)
//!        Context  kind  function u32   context u64   bytes, or attached
//!        Forget   kind  context u64
//!        Run      kind  target      number u32    items x (length u32, bytes), or one attached
//!        Stop     kind
//!        Select   kind  target
//!        Discard  kind  number u32
//! up     Answer   kind  sequence u32   bytes, or attached
//! ```
//!
//! A *target* is the function that items are passed to, and the time limit of each in nanoseconds, 0 for none: `function u32`,
//! `context u64`, `timeout u64`. Numbers are little-endian. The end of a frame is known from outside (a datagram, a length
//! in a ring). Two bits of the kind say what travels beside the frame, of a [`Parcel`](crate::values::parcel::Parcel):
//! *attached*, the file that has the bytes, and then the descriptors that the value carries; or *carrying*, these
//! descriptors only, and the bytes are in the frame. `sequence` counts the answers of one worker, so that an answer that is repeated or out of turn is
//! detected; by `number` the parent recognizes a `Run` that it has taken back. Every decoder takes arbitrary bytes, and
//! returns an error for bytes that are no frame.
//!
//! Also called: wire format.

use std::num::NonZero;
use std::time::Duration;

use crate::error::Side;
use crate::values::number;
use crate::values::parcel::BodyPlace;
use crate::values::parcel::Parcel;
use crate::work::batch::ITEM_HEAD;
use crate::work::batch::Span;
use crate::work::batch::Target;
use crate::work::batch::item_head;
use crate::work::batch::split_item;
use crate::work::function::Completion;
use crate::work::function::FunctionId;

/// The maximum length of a frame.
pub(crate) const FRAME_MAX: usize = 64 * 1024;

const DEFINE: u8 = 1;
const CONTEXT: u8 = 2;
const FORGET: u8 = 3;
const RUN: u8 = 4;
const STOP: u8 = 5;
const SELECT: u8 = 6;
const DISCARD: u8 = 7;

const VALUE: u8 = 16;
const FAILED: u8 = 17;
const PANICKED: u8 = 18;
const ARGUMENT_NOT_DECODED: u8 = 19;
const CONTEXT_NOT_DECODED: u8 = 20;
const RESULT_NOT_ENCODED: u8 = 21;
const FUNCTION_NOT_FOUND: u8 = 22;

const ATTACHED: u8 = 0x80;
const CARRYING: u8 = 0x40;
const FLAGS: u8 = ATTACHED | CARRYING;

/// Why some bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAFrame(pub(crate) &'static str);

/// A message from the parent to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order<'a> {
    /// From now on this number means this function.
    Define { function: FunctionId, definition: &'a [u8] },
    /// From now on this number means this context.
    Context { function: FunctionId, context: u64, body: Body<'a> },
    /// The context is needed no longer.
    Forget { context: u64 },
    /// Run the function on these items, in order, and answer each.
    Run { target: Target, number: u32, body: Body<'a> },
    /// Leave.
    Stop,
    /// From now on single items are for this function. Only on links that carry single items.
    Select { target: Target },
    /// Drop everything attached with a number before this one: it was taken back. Only on links that carry single items.
    Discard { before: u32 },
}

/// Bytes in the frame, or beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    Inline(&'a [u8]),
    Attached,
    /// In the frame, with descriptors beside it.
    Carrying(&'a [u8]),
}

/// Where the bytes of a frame that is being made are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    Inline,
    Attached,
    /// In the frame, with descriptors beside it.
    Carrying,
}

impl Placement {
    /// Where the bytes of a value are that may travel among others.
    pub(crate) fn of(parcel: &Parcel) -> Self {
        match parcel.place() {
            BodyPlace::File => Placement::Attached,
            BodyPlace::Frame if parcel.carried().is_empty() => Placement::Inline,
            BodyPlace::Frame => Placement::Carrying,
        }
    }

    fn of_kind(kind: u8) -> Result<Self, NotAFrame> {
        match kind & FLAGS {
            0 => Ok(Placement::Inline),
            ATTACHED => Ok(Placement::Attached),
            CARRYING => Ok(Placement::Carrying),
            _ => Err(NotAFrame("bytes both in the frame and attached")),
        }
    }

    fn flag(self) -> u8 {
        match self {
            Placement::Inline => 0,
            Placement::Attached => ATTACHED,
            Placement::Carrying => CARRYING,
        }
    }
}

/// How an item ended, as its worker reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    /// The task ran to its end, or its values would not travel.
    Completion(Completion),
    /// The bytes are postcard of a panic report.
    Panicked,
    /// The bytes are the reason.
    FunctionNotFound,
}

/// One worker's answer for its next item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) kind: AnswerKind,
    pub(crate) sequence: u32,
    pub(crate) body: Body<'a>,
}

impl AnswerKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            AnswerKind::Completion(Completion::Value) => VALUE,
            AnswerKind::Completion(Completion::Failed) => FAILED,
            AnswerKind::Completion(Completion::NotDecoded(Side::Context)) => CONTEXT_NOT_DECODED,
            AnswerKind::Completion(Completion::NotDecoded(_)) => ARGUMENT_NOT_DECODED,
            AnswerKind::Completion(Completion::NotEncoded) => RESULT_NOT_ENCODED,
            AnswerKind::Panicked => PANICKED,
            AnswerKind::FunctionNotFound => FUNCTION_NOT_FOUND,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            VALUE => AnswerKind::Completion(Completion::Value),
            FAILED => AnswerKind::Completion(Completion::Failed),
            PANICKED => AnswerKind::Panicked,
            ARGUMENT_NOT_DECODED => AnswerKind::Completion(Completion::NotDecoded(Side::Argument)),
            CONTEXT_NOT_DECODED => AnswerKind::Completion(Completion::NotDecoded(Side::Context)),
            RESULT_NOT_ENCODED => AnswerKind::Completion(Completion::NotEncoded),
            FUNCTION_NOT_FOUND => AnswerKind::FunctionNotFound,
            _ => return None,
        })
    }
}

/// The head of a frame. The bytes that follow it are sent from where they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    bytes: [u8; 32],
    len: usize,
}

impl Head {
    fn new(kind: u8) -> Self {
        let mut bytes = [0; 32];
        bytes[0] = kind;
        Self { bytes, len: 1 }
    }

    fn with(mut self, number: &[u8]) -> Self {
        self.bytes[self.len..self.len + number.len()].copy_from_slice(number);
        self.len += number.len();
        self
    }

    fn with_target(self, target: Target) -> Self {
        let Target { function, context, timeout } = target;
        self.with(&function.0.to_le_bytes()).with(&context.to_le_bytes()).with(&nanos(timeout).to_le_bytes())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn define(function: FunctionId) -> Self {
        Self::new(DEFINE).with(&function.0.to_le_bytes())
    }

    pub(crate) fn context(function: FunctionId, context: u64, placement: Placement) -> Self {
        Self::new(CONTEXT | placement.flag()).with(&function.0.to_le_bytes()).with(&context.to_le_bytes())
    }

    pub(crate) fn forget(context: u64) -> Self {
        Self::new(FORGET).with(&context.to_le_bytes())
    }

    pub(crate) fn run(span: &Span, number: u32) -> Self {
        let placement = span.parcel().map_or(Placement::Inline, Placement::of);
        Self::new(RUN | placement.flag()).with_target(span.batch.target).with(&number.to_le_bytes())
    }

    pub(crate) fn stop() -> Self {
        Self::new(STOP)
    }

    pub(crate) fn select(target: Target) -> Self {
        Self::new(SELECT).with_target(target)
    }

    pub(crate) fn discard(before: u32) -> Self {
        Self::new(DISCARD).with(&before.to_le_bytes())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn answer(kind: AnswerKind, sequence: u32, placement: Placement) -> Self {
        Self::new(kind.code() | placement.flag()).with(&sequence.to_le_bytes())
    }
}

/// A time limit of centuries is none.
fn nanos(timeout: Option<Duration>) -> u64 {
    timeout.map_or(0, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(0))
}

/// Reads numbers from the front of a frame.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NotAFrame> {
        let (number, rest) = self.0.split_first_chunk().ok_or(NotAFrame("shorter than its head"))?;
        self.0 = rest;
        Ok(*number)
    }

    fn u32(&mut self) -> Result<u32, NotAFrame> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, NotAFrame> {
        self.take().map(u64::from_le_bytes)
    }

    fn target(&mut self) -> Result<Target, NotAFrame> {
        let (function, context) = (FunctionId(self.u32()?), self.u64()?);
        let timeout = NonZero::new(self.u64()?).map(|nanos| Duration::from_nanos(nanos.get()));
        Ok(Target { function, context, timeout })
    }

    fn body(self, placement: Placement) -> Result<Body<'a>, NotAFrame> {
        match (placement, self.0) {
            (Placement::Inline, bytes) => Ok(Body::Inline(bytes)),
            (Placement::Carrying, bytes) => Ok(Body::Carrying(bytes)),
            (Placement::Attached, []) => Ok(Body::Attached),
            (Placement::Attached, _) => Err(NotAFrame("bytes both in the frame and attached")),
        }
    }

    fn end(self) -> Result<(), NotAFrame> {
        if self.0.is_empty() { Ok(()) } else { Err(NotAFrame("longer than it says")) }
    }
}

/// Parses an order.
pub(crate) fn parse_order(frame: &[u8]) -> Result<Order<'_>, NotAFrame> {
    let mut reader = Reader(frame);
    let [kind] = reader.take::<1>()?;
    let placement = Placement::of_kind(kind)?;
    let is_inline = placement == Placement::Inline;
    match kind & !FLAGS {
        DEFINE if is_inline => Ok(Order::Define { function: FunctionId(reader.u32()?), definition: reader.0 }),
        CONTEXT => {
            let (function, context) = (FunctionId(reader.u32()?), reader.u64()?);
            Ok(Order::Context { function, context, body: reader.body(placement)? })
        }
        FORGET if is_inline => {
            let context = reader.u64()?;
            reader.end().map(|()| Order::Forget { context })
        }
        RUN => {
            let (target, number) = (reader.target()?, reader.u32()?);
            Ok(Order::Run { target, number, body: reader.body(placement)? })
        }
        SELECT if is_inline => {
            let target = reader.target()?;
            reader.end().map(|()| Order::Select { target })
        }
        DISCARD if is_inline => {
            let before = reader.u32()?;
            reader.end().map(|()| Order::Discard { before })
        }
        STOP if is_inline => reader.end().map(|()| Order::Stop),
        _ => Err(NotAFrame("of no known kind")),
    }
}

/// The context that an order brings, if it brings one.
pub(crate) fn context_in(order: &[u8]) -> Option<u64> {
    match parse_order(order) {
        Ok(Order::Context { context, .. }) => Some(context),
        _ => None,
    }
}

/// Whether an order brings what items need: a function or a context.
pub(crate) fn introduces(order: &[u8]) -> bool {
    order.first().is_some_and(|kind| matches!(kind & !FLAGS, DEFINE | CONTEXT))
}

/// Parses an answer.
pub(crate) fn parse_answer(frame: &[u8]) -> Result<Answer<'_>, NotAFrame> {
    let mut reader = Reader(frame);
    let [code] = reader.take::<1>()?;
    let kind = AnswerKind::from_code(code & !FLAGS).ok_or(NotAFrame("of no known kind"))?;
    let sequence = reader.u32()?;
    Ok(Answer { kind, sequence, body: reader.body(Placement::of_kind(code)?)? })
}

/// Completes an item that was appended behind [`ITEM_HEAD`] bytes: writes its length into them.
#[inline]
pub(crate) fn close_item(bytes: &mut [u8], start: usize) {
    let head = item_head(bytes.len() - start - ITEM_HEAD);
    bytes[start..start + ITEM_HEAD].copy_from_slice(&head);
}

/// A number as an item: behind its length.
#[inline]
pub(crate) fn number_item(number: &number::NumberBytes) -> ([u8; ITEM_HEAD + number::LEN_MAX], usize) {
    let bytes = number.as_slice();
    let end = ITEM_HEAD + bytes.len();
    let mut item = [0; ITEM_HEAD + number::LEN_MAX];
    item[ITEM_HEAD..end].copy_from_slice(bytes);
    close_item(&mut item[..end], 0);
    (item, end)
}

/// The items of a `Run` frame, one after the other.
#[derive(Debug)]
pub(crate) struct ItemReader<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for ItemReader<'a> {
    type Item = Result<&'a [u8], NotAFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((item, rest)) = split_item(self.0) else {
            self.0 = &[];
            return Some(Err(NotAFrame("an item is longer than the frame")));
        };
        self.0 = rest;
        Some(Ok(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::batch::Batch;
    use crate::work::batch::Items;
    use crate::work::batch::JobId;

    fn frame(head: Head, body: &[u8]) -> Vec<u8> {
        [head.as_bytes(), body].concat()
    }

    #[test]
    fn orders_come_back_from_their_bytes() {
        let target = Target { function: FunctionId(7), context: 9, timeout: Some(Duration::from_millis(2)) };
        let batch = Batch {
            job: JobId(1),
            target,
            first_index: 0,
            items: Items::Inline { bytes: vec![1, 0, 0, 0, 42, 0, 0, 0, 0], ends: vec![5, 9] },
        };
        let span = Span::whole(batch);
        let run = frame(Head::run(&span, 2), span.bytes().unwrap());
        let Order::Run { target: selected, number: 2, body: Body::Inline(items) } = parse_order(&run).unwrap() else {
            panic!("{:?}", parse_order(&run))
        };
        assert_eq!(selected, target);
        let untimed = Target { timeout: None, ..target };
        assert_eq!(parse_order(Head::select(untimed).as_bytes()), Ok(Order::Select { target: untimed }));
        let items: Vec<_> = ItemReader(items).map(Result::unwrap).collect();
        assert_eq!(items, [&[42u8][..], &[]]);
        assert_eq!(parse_order(Head::stop().as_bytes()), Ok(Order::Stop));
        assert_eq!(parse_order(Head::forget(3).as_bytes()), Ok(Order::Forget { context: 3 }));
        let context = frame(Head::context(FunctionId(2), 3, Placement::Attached), &[]);
        let expected = Order::Context { function: FunctionId(2), context: 3, body: Body::Attached };
        assert_eq!(parse_order(&context), Ok(expected));
    }

    #[test]
    fn answers_come_back_from_their_bytes() {
        for code in VALUE..=FUNCTION_NOT_FOUND {
            let kind = AnswerKind::from_code(code).unwrap();
            let bytes = frame(Head::answer(kind, 5, Placement::Inline), b"xy");
            assert_eq!(parse_answer(&bytes), Ok(Answer { kind, sequence: 5, body: Body::Inline(b"xy") }));
        }
    }

    #[test]
    fn every_prefix_of_a_head_is_an_error() {
        for head in [Head::context(FunctionId(2), 3, Placement::Inline), Head::forget(3), Head::define(FunctionId(1))] {
            for len in 0..head.as_bytes().len() {
                parse_order(&head.as_bytes()[..len]).unwrap_err();
            }
        }
        let answer = Head::answer(AnswerKind::Panicked, 1, Placement::Inline);
        for len in 0..answer.as_bytes().len() {
            parse_answer(&answer.as_bytes()[..len]).unwrap_err();
        }
    }

    #[test]
    fn an_item_longer_than_its_frame_is_an_error() {
        let items: Vec<_> = ItemReader(&[1, 0, 0, 0, 42, 255, 255, 255, 255, 1]).collect();
        assert_eq!(items, [Ok(&[42u8][..]), Err(NotAFrame("an item is longer than the frame"))]);
    }
}
