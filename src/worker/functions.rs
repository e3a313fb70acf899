//! The functions and contexts that a worker has been sent, and one item run by one of them.
//!
//! A *callee* is what items are passed to: a function with its context and time limit, or the reason why there is none.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Side;
use crate::sys::clock;
use crate::sys::failpoint::failpoint;
use crate::sys::owner_process::OwnerProcess;
use crate::sys::payload;
use crate::transport::control;
use crate::transport::frame::AnswerKind;
use crate::transport::frame::Body;
use crate::transport::record::broken;
use crate::values::attach;
use crate::values::attach::Source;
use crate::values::blob::BlobCache;
use crate::values::codec;
use crate::values::codec::Coding;
use crate::values::message;
use crate::values::output::Output;
use crate::values::parcel;
use crate::values::parcel::ReceivedFds;
use crate::work::batch::Target;
use crate::work::function::Completion;
use crate::work::function::Definition;
use crate::work::function::FunctionId;
use crate::work::function::ResolvedFunction;
use crate::worker::deadline::Limit;
use crate::worker::panics;
use crate::worker::panics::Caught;

/// The context that the items of one call share.
pub(super) enum Context {
    Open(Box<dyn Any>),
    /// It could not be decoded. Every item that needs it fails with this message.
    Failed(String),
}

/// What items are passed to.
pub(super) enum Callee {
    Ready(Ready),
    /// Every item is answered with this.
    Failed {
        kind: AnswerKind,
        message: String,
    },
}

/// A function with its context and time limit.
pub(super) struct Ready {
    pub(super) function: ResolvedFunction,
    context: Rc<Context>,
    pub(super) timeout: Option<Duration>,
}

impl Ready {
    pub(super) fn context(&self) -> &dyn Any {
        let Context::Open(context) = self.context.as_ref() else {
            unreachable!("a callee is ready only if its context is open");
        };
        context.as_ref()
    }
}

/// The functions and contexts that the worker has been sent, by their numbers.
pub(super) struct Functions {
    /// Only this process may answer, and no copy of it that a task has forked.
    pub(super) owner: OwnerProcess,
    pub(super) cache: Arc<BlobCache>,
    functions: HashMap<FunctionId, Result<ResolvedFunction, String>>,
    contexts: HashMap<u64, Rc<Context>>,
}

impl Functions {
    pub(super) fn new() -> Self {
        // Number 0 is the context of calls that have none.
        let contexts = HashMap::from([(0, Rc::new(Context::Open(Box::new(()))))]);
        Self { owner: OwnerProcess::here(), cache: BlobCache::of_worker(), functions: HashMap::new(), contexts }
    }

    pub(super) fn define(&mut self, function: FunctionId, definition: &[u8]) -> io::Result<()> {
        let definition: Definition = message::parse(definition).map_err(broken)?;
        self.functions.insert(function, ResolvedFunction::find(&definition));
        Ok(())
    }

    pub(super) fn open(&mut self, function: FunctionId, context: u64, body: Body<'_>, attached: Option<ReceivedFds>) {
        let open_attached = |function: &ResolvedFunction, frame_bytes| {
            let (bytes, carried) = parcel::open_received(frame_bytes, attached, &self.cache)?;
            let _delivery = attach::deliver(carried, Source::Parent);
            function.open(&bytes)
        };
        let opened = match self.functions.get(&function) {
            Some(Ok(function)) => match body {
                Body::Inline(bytes) => function.open(bytes),
                Body::Attached => open_attached(function, &[]),
                Body::Carrying(bytes) => open_attached(function, bytes),
            },
            // Its items fail because the function is missing, which is the cause.
            _ => Err("its function was not found".to_owned()),
        };
        self.contexts.insert(context, Rc::new(opened.map_or_else(Context::Failed, Context::Open)));
    }

    /// Drops a context. Its `Drop` is user code: a panic there belongs to no item, and is logged.
    pub(super) fn forget(&mut self, context: u64) {
        let context = self.contexts.remove(&context);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(context))) {
            log::warn!("a context panicked when it was dropped: {}", payload::into_text(payload));
        }
    }

    pub(super) fn select(&self, target: Target) -> io::Result<Callee> {
        let Target { function, context, timeout } = target;
        let function = match self.functions.get(&function) {
            Some(Ok(function)) => *function,
            Some(Err(error)) => {
                return Ok(Callee::Failed { kind: AnswerKind::FunctionNotFound, message: error.clone() });
            }
            None => return Err(broken("an item names a function that was never defined")),
        };
        let failed = |message: &str| {
            let kind = AnswerKind::Completion(Completion::NotDecoded(Side::Context));
            Callee::Failed { kind, message: message.to_owned() }
        };
        Ok(match self.contexts.get(&context) {
            None => failed("it never arrived"),
            Some(context) => match context.as_ref() {
                Context::Open(_) => Callee::Ready(Ready { function, context: Rc::clone(context), timeout }),
                Context::Failed(error) => failed(error),
            },
        })
    }
}

impl Callee {
    pub(super) fn is_timed(&self) -> bool {
        matches!(self, Callee::Ready(Ready { timeout: Some(_), .. }))
    }

    /// Runs one item. Returns the kind of the answer, and leaves its bytes in `out`.
    ///
    /// # Errors
    ///
    /// It panicked.
    pub(super) fn run(&self, item: Result<&[u8], &str>, out: &mut Output) -> Result<AnswerKind, Box<Caught>> {
        out.clear();
        let (ready, item) = match (self, item) {
            (Callee::Failed { kind, message }, _) => {
                out.append_encoded(message.as_bytes());
                return Ok(*kind);
            }
            (Callee::Ready(_), Err(error)) => {
                out.append_encoded(error.as_bytes());
                return Ok(AnswerKind::Completion(Completion::NotDecoded(Side::Argument)));
            }
            (Callee::Ready(ready), Ok(item)) => (ready, item),
        };
        let limit = ready.timeout.map(Limit::new);
        if let Some(limit) = &limit {
            limit.item_began(clock::monotonic_ns());
        }
        failpoint!("before_run");
        let ended = panics::caught(|| ready.function.call(ready.context(), item, out));
        failpoint!("after_run");
        ended.map(AnswerKind::Completion)
    }
}

/// Writes the answer to an item whose function has panicked, or whose argument or result has while it was decoded or encoded.
/// Call it once the item's time is over: it looks up symbols if there is a backtrace.
pub(crate) fn write_panic(panic: &Caught, out: &mut Output) -> AnswerKind {
    failpoint!("before_report");
    out.clear();
    match panic.during {
        None => {
            out.append_encoded(&control::encode(&panic.report()));
            AnswerKind::Panicked
        }
        Some(coding) => {
            out.append_encoded(codec::panic_text(coding, &panic.in_full()).as_bytes());
            AnswerKind::Completion(match coding {
                Coding::Deserialize => Completion::NotDecoded(Side::Argument),
                Coding::Serialize => Completion::NotEncoded,
            })
        }
    }
}
