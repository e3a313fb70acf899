//! The worker process: receive, run, answer.
//!
//! One thread, the main one. An order is received, its items are run one after the other, and each answer is sent
//! before the next item begins: so the parent, which counts answers, knows at any moment which item this worker can
//! be running. A panic in a task is an answer like any other; whatever else a task does to its process is seen by the
//! parent as the end of the process.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;

use start_methods::Birth;
use start_methods::PrivateFd;
use start_methods::Socket;

use crate::blob::Blob;
use crate::blob::INLINE_MAX;
use crate::codec;
use crate::error::Side;
use crate::frame;
use crate::frame::AnswerKind;
use crate::frame::Body;
use crate::frame::FRAME_MAX;
use crate::frame::Head;
use crate::frame::ItemReader;
use crate::frame::Order;
use crate::function::Definition;
use crate::function::FunctionId;
use crate::function::ResolvedFunction;
use crate::function::Verdict;
use crate::message;
use crate::message::Initializer;
use crate::message::Report;
use crate::message::Setup;
use crate::panics;
use crate::panics::LastWords;
use crate::transport::WorkerRoad;

/// The exit code of a worker whose initializer failed.
const EXIT_INITIALIZER_FAILED: u8 = 113;
/// The exit code of a worker whose parent broke the protocol: a bug of ours.
const EXIT_PROTOCOL: u8 = 114;

/// The life of a worker, from its birth to its exit code.
pub(crate) fn main(birth: Birth) -> u8 {
    match run(birth) {
        Ok(code) => code,
        Err(error) => {
            log::error!("a worker leaves: {error}");
            EXIT_PROTOCOL
        }
    }
}

fn run(birth: Birth) -> io::Result<u8> {
    let setup: Setup = codec::parse(&birth.payload).map_err(broken)?;
    let mut fds = birth.fds.into_iter();
    let road = WorkerRoad::from_fd(fds.next().ok_or_else(|| broken("born without a road"))?);
    panics::install_hook();
    if let Some(initializer) = setup.initializer
        && let Err(message) = initialize(initializer, fds.next())
    {
        let message = message::cut_text(message, message::REPORT_TEXT_MAX);
        report(&birth.control, &Report::InitializerFailed { message })?;
        return Ok(EXIT_INITIALIZER_FAILED);
    }
    report(&birth.control, &Report::Ready)?;
    let road = Rc::new(road);
    panics::set_last_words(last_words(Rc::clone(&road)));
    Worker { answers: Answers { road, sequence: 0 }, functions: HashMap::new(), contexts: HashMap::new() }.serve()
}

fn broken(detail: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.into())
}

/// Sends the report of a panic that this process will not survive, from inside the panic hook.
fn last_words(road: Rc<WorkerRoad>) -> LastWords {
    Box::new(move |record| {
        let head = Head::answer(AnswerKind::LastWords, 0, false);
        // The process is about to abort: if the report does not get through, there is nobody else to tell.
        drop(road.send(head.as_bytes(), &message::encode(record), None));
    })
}

fn report(control: &Socket, report: &Report) -> io::Result<()> {
    control.send(&[IoSlice::new(&message::encode(report))], &[])
}

fn initialize(initializer: Initializer, attached: Option<PrivateFd>) -> Result<(), String> {
    let function = ResolvedFunction::find(&initializer.definition)?;
    let args = match (initializer.args, attached) {
        (Some(args), _) => args,
        (None, Some(fd)) => Blob::receive(fd).and_then(|blob| blob.read()).map_err(|error| error.to_string())?,
        (None, None) => return Err("its arguments did not arrive".to_owned()),
    };
    let mut out = Vec::new();
    let verdict = panics::recorded(|| catch_unwind(AssertUnwindSafe(|| function.call(&(), &args, &mut out))));
    match verdict {
        Ok(Verdict::Value) => Ok(()),
        Ok(_) => Err(String::from_utf8_lossy(&out).into_owned()),
        Err(panic) => Err(format!("panic: {}{}", panic.message, panic.place())),
    }
}

/// A context that is shared by the items of one call.
enum Context {
    Open(Box<dyn Any>),
    /// It could not be decoded; each item that needs it is told why.
    Failed(String),
}

struct Worker {
    answers: Answers,
    functions: HashMap<FunctionId, Result<ResolvedFunction, String>>,
    contexts: HashMap<u64, Context>,
}

impl Worker {
    fn serve(mut self) -> io::Result<u8> {
        let mut buffer = vec![0; FRAME_MAX];
        self.contexts.insert(0, Context::Open(Box::new(())));
        while let Some(received) = self.answers.road.recv(&mut buffer)? {
            let order = frame::parse_order(&buffer[..received.len]).map_err(|error| broken(error.0))?;
            match order {
                Order::Define { function, definition } => {
                    let definition: Definition = codec::parse(definition).map_err(broken)?;
                    self.functions.insert(function, ResolvedFunction::find(&definition));
                }
                Order::Context { function, context, body } => {
                    let opened = self.open_context(function, body, received.attached);
                    self.contexts.insert(context, opened);
                }
                Order::Forget { context } => self.forget(context),
                Order::Run { function, context, body, .. } => {
                    self.run(function, context, body, received.attached)?;
                }
                Order::Stop => return Ok(0),
            }
        }
        // The parent is gone, and nobody will read another answer.
        Ok(0)
    }

    fn open_context(&self, function: FunctionId, body: Body<'_>, attached: Option<PrivateFd>) -> Context {
        let Some(Ok(function)) = self.functions.get(&function) else {
            // The items will be told that the function is missing, which is the cause.
            return Context::Failed("its function was not found".to_owned());
        };
        let opened = match body {
            Body::Inline(bytes) => function.open(bytes),
            Body::Attached => read_attached(attached).and_then(|bytes| function.open(&bytes)),
        };
        opened.map_or_else(Context::Failed, Context::Open)
    }

    /// Drops a context. Its `Drop` is the user's: a panic there is nobody's answer, and is swallowed.
    fn forget(&mut self, context: u64) {
        if let Some(Context::Open(context)) = self.contexts.remove(&context)
            && let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(context)))
        {
            log::warn!("a context panicked when it was dropped: {}", codec::payload_text(payload));
        }
    }

    fn run(
        &mut self,
        function: FunctionId,
        context: u64,
        body: Body<'_>,
        attached: Option<PrivateFd>,
    ) -> io::Result<()> {
        let function = match self.functions.get(&function) {
            Some(Ok(function)) => Ok(function),
            Some(Err(error)) => Err((AnswerKind::FunctionNotFound, error.as_str())),
            None => return Err(broken("a task names a function that was never defined")),
        };
        let task = function.and_then(|function| match self.contexts.get(&context) {
            Some(Context::Open(context)) => Ok((function, context.as_ref())),
            Some(Context::Failed(error)) => {
                Err((AnswerKind::Verdict(Verdict::NotDecoded(Side::Context)), error.as_str()))
            }
            None => Err((AnswerKind::Verdict(Verdict::NotDecoded(Side::Context)), "it never arrived")),
        });
        match body {
            Body::Inline(items) => {
                for item in ItemReader(items) {
                    let item = item.map_err(|error| broken(error.0))?;
                    self.answers.run_item(&task, Ok(item))?;
                }
                Ok(())
            }
            Body::Attached => {
                let item = read_attached(attached);
                self.answers.run_item(&task, item.as_deref().map_err(String::as_str))
            }
        }
    }
}

fn read_attached(attached: Option<PrivateFd>) -> Result<Vec<u8>, String> {
    let fd = attached.ok_or("its bytes did not arrive")?;
    Blob::receive(fd).and_then(|blob| blob.read()).map_err(|error| error.to_string())
}

type Task<'a> = Result<(&'a ResolvedFunction, &'a dyn Any), (AnswerKind, &'a str)>;

/// The way back.
struct Answers {
    road: Rc<WorkerRoad>,
    sequence: u32,
}

impl Answers {
    fn run_item(&mut self, task: &Task<'_>, item: Result<&[u8], &str>) -> io::Result<()> {
        let mut out = Vec::new();
        let kind = match (task, item) {
            (Err((kind, error)), _) => {
                out.extend_from_slice(error.as_bytes());
                *kind
            }
            (Ok(_), Err(error)) => {
                out.extend_from_slice(error.as_bytes());
                AnswerKind::Verdict(Verdict::NotDecoded(Side::Argument))
            }
            (Ok((function, context)), Ok(item)) => {
                let ended = panics::recorded(|| {
                    // What a panic leaves behind in the context or in statics is the user's to judge, as it is with
                    // the threads of a pool.
                    catch_unwind(AssertUnwindSafe(|| function.call(*context, item, &mut out)))
                });
                match ended {
                    Ok(verdict) => AnswerKind::Verdict(verdict),
                    Err(panic) => {
                        out = message::encode(&panic);
                        AnswerKind::Panicked
                    }
                }
            }
        };
        self.answer(kind, &out)
    }

    fn answer(&mut self, kind: AnswerKind, bytes: &[u8]) -> io::Result<()> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        if bytes.len() <= INLINE_MAX {
            return self.road.send(Head::answer(kind, sequence, false).as_bytes(), bytes, None);
        }
        match Blob::write(bytes) {
            Ok(blob) => self.road.send(Head::answer(kind, sequence, true).as_bytes(), &[], Some(blob.as_fd())),
            Err(error) => {
                let text = format!("{} bytes do not fit an anonymous file: {error}", bytes.len());
                let kind = AnswerKind::Verdict(Verdict::NotEncoded);
                self.road.send(Head::answer(kind, sequence, false).as_bytes(), text.as_bytes(), None)
            }
        }
    }
}
