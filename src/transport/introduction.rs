//! What items need, over a socket: the function and the context that a frame brings, and what a recall in their midst
//! means. Pure.
//!
//! Each order is a datagram, and the kernel gives it to one reader: the worker, or the parent that takes it back. While the
//! worker lives, both may read at the same time, so any part of what was sent may come back: the function without the
//! frame that needs it, or the frame without the function.
//!
//! - The worker passes over an order that needs what it has not read ([`Introduced::admits`]).
//! - The parent has read the socket to its end when a recall is over. So each order has been taken back or has been read,
//!   and the parent knows which of those that were read the worker passes over ([`Introduction::take_back`]). These have
//!   not begun, and never will.
//! - What was taken back the worker does not have. Work that needs it brings it again.
//!
//! Nothing is acknowledged, and nothing that the worker says is believed: the parent decides by what it holds in its hands.
//!
//! An item begins when the decoding of its context does. If the context was read and the frame behind it was not, the frame
//! is *bound*: it is sent to the same worker again. The worker may be decoding, for ever or to its death, and that is the
//! item's.
//!
//! For this to be exact, at most one frame is with the worker while an introduction is under way: the last thing that was
//! sent. See [`Link::send`](super::link::Link::send).

use crate::sys::id_hasher::IdSet;
use crate::transport::frame;
use crate::transport::frame::Order;
use crate::work::batch::Span;
use crate::work::function::FunctionId;
use crate::work::unbegun::FrameNumber;

/// What was sent that items need, and is not known to have been read. The parent's side.
#[derive(Debug, Default)]
pub(crate) struct Introduction {
    functions: Vec<FunctionId>,
    /// Each context, and its function.
    contexts: Vec<(u64, FunctionId)>,
    /// The frame that was sent behind them. Kept no longer than they are: its items may be large, or carry descriptors.
    frame: Option<(FrameNumber, Span)>,
}

/// What a recall has found out.
#[derive(Debug, Default)]
pub(crate) struct TakenBack {
    /// The frames that have not begun and never will.
    pub(crate) frames: Vec<FrameNumber>,
    /// What the worker does not have, although it was sent.
    pub(crate) functions: Vec<FunctionId>,
    pub(crate) contexts: Vec<u64>,
    /// What must be sent again, oldest first.
    pub(crate) again: Vec<Again>,
}

/// What is sent again.
#[derive(Debug)]
pub(crate) enum Again {
    /// An order that no item needs.
    Order(Vec<u8>),
    /// The frame whose context the worker has read.
    Bound(FrameNumber, Span),
}

impl Introduction {
    /// Whether anything was sent that may not have been read.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.functions.is_empty() || !self.contexts.is_empty()
    }

    /// An order that is not work was sent.
    pub(crate) fn order_sent(&mut self, order: &[u8]) {
        match frame::parse_order(order) {
            Ok(Order::Define { function, .. }) => self.functions.push(function),
            Ok(Order::Context { function, context, .. }) => self.contexts.push((context, function)),
            _ => {}
        }
    }

    /// A frame was sent.
    pub(crate) fn work_sent(&mut self, number: FrameNumber, span: &Span) {
        if self.is_under_way() {
            self.frame = Some((number, span.clone()));
        }
    }

    /// The worker has answered: it had read everything, since the frame was the last.
    pub(crate) fn answered(&mut self) {
        if self.is_under_way() {
            *self = Self::default();
        }
    }

    /// These orders were taken back, oldest first, and the socket is empty.
    pub(crate) fn take_back(&mut self, unread: Vec<Vec<u8>>) -> TakenBack {
        let mut taken = TakenBack::default();
        for order in unread {
            match frame::parse_order(&order) {
                Ok(Order::Define { function, .. }) => taken.functions.push(function),
                Ok(Order::Context { context, .. }) => taken.contexts.push(context),
                Ok(Order::Run { number, .. }) => self.take_frame(FrameNumber(number), &mut taken),
                _ => taken.again.push(Again::Order(order)),
            }
        }
        self.functions.clear();
        // The worker has passed over a context of a function that it does not have.
        let is_missed = |&(_, function): &(u64, FunctionId)| taken.functions.contains(&function);
        taken.contexts.extend(self.contexts.iter().filter(|&context| is_missed(context)).map(|&(context, _)| context));
        self.contexts.retain(|(context, _)| !taken.contexts.contains(context));
        self.frame.take_if(|(number, span)| {
            let target = span.batch.target;
            // And over a frame: it was read behind what was taken back.
            if taken.functions.contains(&target.function) || taken.contexts.contains(&target.context) {
                taken.frames.push(*number);
            }
            taken.frames.contains(number)
        });
        if !self.is_under_way() {
            // The worker has read all that it needs, and so the frame too, or that was taken back.
            self.frame = None;
        }
        taken
    }

    /// A frame was taken back. The orders before it have been dealt with.
    fn take_frame(&mut self, number: FrameNumber, taken: &mut TakenBack) {
        let lone = self.frame.take_if(|(lone, _)| *lone == number);
        let was_read = |&(context, function): &(u64, FunctionId)| {
            !taken.contexts.contains(&context) && !taken.functions.contains(&function)
        };
        match lone {
            Some((_, span))
                if self.contexts.iter().any(|sent| sent.0 == span.batch.target.context && was_read(sent)) =>
            {
                self.frame = Some((number, span.clone()));
                taken.again.push(Again::Bound(number, span));
            }
            _ => taken.frames.push(number),
        }
    }
}

/// What a worker has read. Its side.
#[derive(Debug, Default)]
pub(crate) struct Introduced {
    functions: IdSet<FunctionId>,
    contexts: IdSet<u64>,
}

impl Introduced {
    /// The worker has read an order. Whether it has all that the order needs; if not, it passes over it.
    pub(crate) fn admits(&mut self, order: &Order<'_>) -> bool {
        match *order {
            Order::Define { function, .. } => {
                self.functions.insert(function);
                true
            }
            Order::Context { function, context, .. } => {
                let is_known = self.functions.contains(&function);
                if is_known {
                    self.contexts.insert(context);
                }
                is_known
            }
            Order::Forget { context } => self.contexts.remove(&context),
            Order::Run { target, .. } => {
                // Number 0 is the context of calls that have none.
                let has_context = target.context == 0 || self.contexts.contains(&target.context);
                has_context && self.functions.contains(&target.function)
            }
            Order::Stop | Order::Select { .. } | Order::Discard { .. } => true,
        }
    }
}

/// A walk: calls with functions and contexts, and recalls during which the worker reads.
#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::transport::frame::Body;
    use crate::transport::frame::Head;
    use crate::transport::frame::Placement;
    use crate::work::batch::Batch;
    use crate::work::batch::Items;
    use crate::work::batch::JobId;
    use crate::work::batch::Target;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// A frame for this function, with this context unless that is 0; of both there are few.
        Send { function: u32, context: u64 },
        /// The calls end.
        Forget,
        /// The worker reads an order.
        Read,
        /// It answers, if it has begun a frame.
        Answer,
        /// A recall. Before each of the parent's looks the worker reads so many orders.
        Recall { reads: [u8; 4] },
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0..3u32, 0..3u64).prop_map(|(function, context)| Event::Send { function, context }),
            1 => Just(Event::Forget),
            3 => Just(Event::Read),
            2 => Just(Event::Answer),
            3 => proptest::array::uniform4(0..3u8).prop_map(|reads| Event::Recall { reads }),
        ]
    }

    /// A parent, a socket, and a worker.
    #[derive(Default)]
    struct World {
        introduction: Introduction,
        functions: BTreeSet<u32>,
        /// The contexts that the worker is believed to have, by the number under which each was sent.
        contexts: BTreeSet<u64>,
        /// What the worker is believed to hold, oldest first.
        held: VecDeque<FrameNumber>,
        frames: u32,
        forgotten: u64,
        socket: VecDeque<Vec<u8>>,
        worker: Introduced,
        /// The worker has decoded a context for the frame that it reads next.
        has_decoded: bool,
        /// Frames that the worker has read and not answered.
        begun: VecDeque<FrameNumber>,
        answered: BTreeSet<u32>,
        returned: BTreeSet<u32>,
    }

    impl World {
        fn apply(&mut self, event: Event) {
            match event {
                Event::Send { function, context } => self.send(function, context),
                Event::Forget => self.forget(),
                Event::Read => self.read(),
                Event::Answer => self.answer(),
                Event::Recall { reads } => self.recall(reads),
            }
        }

        fn give(&mut self, order: Vec<u8>) {
            self.introduction.order_sent(&order);
            self.socket.push_back(order);
        }

        /// A context belongs to one function, and its number is used once.
        fn id_of(&self, function: u32, context: u64) -> u64 {
            if context == 0 { 0 } else { (self.forgotten * 3 + u64::from(function)) * 3 + context }
        }

        fn send(&mut self, function: u32, context: u64) {
            let context = self.id_of(function, context);
            let brings_function = !self.functions.contains(&function);
            let brings_context = context != 0 && !self.contexts.contains(&context);
            let travels_alone = brings_function || brings_context || self.introduction.is_under_way();
            if travels_alone && !self.held.is_empty() {
                return;
            }
            if brings_function {
                self.functions.insert(function);
                self.give(Head::define(FunctionId(function)).as_bytes().to_vec());
            }
            if brings_context {
                self.contexts.insert(context);
                self.give(Head::context(FunctionId(function), context, Placement::Inline).as_bytes().to_vec());
            }
            self.frames += 1;
            let number = FrameNumber(self.frames);
            let target = Target { function: FunctionId(function), context, timeout: None };
            let items = Items::One(Box::new([0; 4]));
            let span = Span::whole(Batch { job: JobId(1), target, first_index: 0, items });
            self.socket.push_back(self.bytes_of(number, &span));
            self.introduction.work_sent(number, &span);
            self.held.push_back(number);
        }

        fn bytes_of(&self, number: FrameNumber, span: &Span) -> Vec<u8> {
            [Head::run(span, number.0).as_bytes(), span.frame_bytes()].concat()
        }

        fn forget(&mut self) {
            // A call ends when nothing of it is held.
            if !self.held.is_empty() {
                return;
            }
            for id in std::mem::take(&mut self.contexts) {
                self.give(Head::forget(id).as_bytes().to_vec());
            }
            self.forgotten += 1;
        }

        fn read(&mut self) {
            let Some(order) = self.socket.pop_front() else { return };
            let order = frame::parse_order(&order).unwrap();
            if !self.worker.admits(&order) {
                return;
            }
            match order {
                Order::Context { body, .. } => {
                    assert_eq!(body, Body::Inline(&[]));
                    self.has_decoded = true;
                }
                Order::Run { number, .. } => {
                    assert!(!self.returned.contains(&number), "{number} begins, and runs elsewhere too");
                    self.has_decoded = false;
                    self.begun.push_back(FrameNumber(number));
                }
                _ => {}
            }
        }

        fn answer(&mut self) {
            let Some(number) = self.begun.pop_front() else { return };
            assert_eq!(self.held.pop_front(), Some(number), "answers come in order");
            assert!(self.answered.insert(number.0), "{number:?} is answered twice");
            self.introduction.answered();
        }

        fn recall(&mut self, reads: [u8; 4]) {
            let mut unread = Vec::new();
            for count in reads.into_iter().chain(std::iter::repeat(0)) {
                (0..count).for_each(|_| self.read());
                let Some(order) = self.socket.pop_front() else { break };
                unread.push(order);
            }
            let taken = self.introduction.take_back(unread);
            self.functions.retain(|&function| !taken.functions.contains(&FunctionId(function)));
            self.contexts.retain(|context| !taken.contexts.contains(context));
            for number in taken.frames {
                assert!(!self.begun.contains(&number) && !self.answered.contains(&number.0), "{number:?} had begun");
                assert!(self.returned.insert(number.0), "{number:?} comes back twice");
                self.held.retain(|&held| held != number);
            }
            for again in taken.again {
                match again {
                    Again::Order(order) => self.give(order),
                    Again::Bound(number, span) => {
                        assert!(self.has_decoded && self.held.contains(&number));
                        self.socket.push_back(self.bytes_of(number, &span));
                    }
                }
            }
            self.check();
        }

        /// After a recall, the worker has read all that it will of what was sent before.
        fn check(&self) {
            assert!(self.introduction.is_under_way() || self.introduction.frame.is_none(), "nothing is kept");
            let bound = usize::from(self.has_decoded && self.held.len() > self.begun.len());
            assert_eq!(self.held.len(), self.begun.len() + bound, "what the worker holds, it has begun");
            let had = self.worker.functions.iter().map(|function| function.0).collect::<BTreeSet<_>>();
            assert_eq!(self.functions, had, "the worker has the functions that the parent believes");
            let forgotten: BTreeSet<u64> = self
                .socket
                .iter()
                .filter_map(|order| match frame::parse_order(order) {
                    Ok(Order::Forget { context }) => Some(context),
                    _ => None,
                })
                .collect();
            let had = self.worker.contexts.iter().copied().filter(|context| !forgotten.contains(context));
            assert_eq!(self.contexts, had.collect(), "and the contexts");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn what_is_taken_back_never_begins_and_all_else_does(events in proptest::collection::vec(event(), 1..80)) {
            let mut world = World::default();
            events.into_iter().for_each(|event| world.apply(event));
            while !world.socket.is_empty() {
                world.read();
            }
            while !world.begun.is_empty() {
                world.answer();
            }
            prop_assert!(world.introduction.frame.is_none(), "nothing is kept");
            prop_assert!(world.held.is_empty(), "the worker never answers {:?}", world.held);
            prop_assert_eq!(world.answered.len() + world.returned.len(), world.frames as usize);
        }
    }
}
