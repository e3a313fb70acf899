//! The worker process: receive, run, answer.
//!
//! One thread, the main one. An order is received, its items are run one after the other, and each answer is sent
//! before the next item begins: so the parent, which counts answers, knows at any moment which item this worker can
//! be running. A panic in a task is an answer like any other; whatever else a task does to its process is seen by the
//! parent as the end of the process.

pub(crate) mod deadline;
mod functions;
mod lane;
pub(crate) mod panics;

use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::Arc;

use start_methods::Birth;
use start_methods::PrivateFd;
use start_methods::Received;
use start_methods::Socket;

use self::functions::Callee;
use self::functions::Functions;
use self::functions::blob_of;
use self::functions::read_attached;
use crate::sys::failpoint::failpoint;
use crate::transport::Attachment;
use crate::transport::control;
use crate::transport::control::Initializer;
use crate::transport::control::REPORT_TEXT_MAX;
use crate::transport::control::Report;
use crate::transport::control::RoadKind;
use crate::transport::control::Setup;
use crate::transport::frame;
use crate::transport::frame::AnswerKind;
use crate::transport::frame::Body;
use crate::transport::frame::FRAME_MAX;
use crate::transport::frame::Head;
use crate::transport::frame::ItemReader;
use crate::transport::frame::Order;
use crate::transport::panic_record::cut_text;
use crate::transport::ring;
use crate::transport::ring::worker::Next;
use crate::transport::socket;
use crate::values::blob::BlobCache;
use crate::values::codec;
use crate::values::output::Output;
use crate::values::output::no_room;
use crate::work::function::ResolvedFunction;
use crate::work::function::Verdict;
use crate::worker::panics::LastWords;

/// The exit code of a worker whose initializer failed.
const EXIT_INITIALIZER_FAILED: u8 = 113;
/// The exit code of a worker that cannot use the memory it was given.
const EXIT_NO_RINGS: u8 = 115;
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
    let setup: Setup = codec::parse_serialized(&birth.payload).map_err(broken)?;
    let control = Rc::new(birth.control);
    let mut fds = birth.fds.into_iter();
    let mut fd = || fds.next().ok_or_else(|| broken("born without a road"));
    let mut road = match setup.road {
        RoadKind::Socket => Road::Socket(socket::WorkerRoad::from_fd(fd()?)),
        RoadKind::Ring => match ring::worker::WorkerRoad::new(fd()?, fd()?) {
            Ok(rings) => Road::Ring(Box::new(rings)),
            Err(error) => {
                report(&control, &Report::NoRings { message: error.to_string() }, None)?;
                return Ok(EXIT_NO_RINGS);
            }
        },
    };
    panics::install_hook();
    if let (Road::Ring(rings), Some(_)) = (&mut road, &setup.initializer) {
        rings.stay();
    }
    if let Some(initializer) = setup.initializer
        && let Err(message) = initialize(initializer, fds.next())
    {
        let message = cut_text(message, REPORT_TEXT_MAX);
        report(&control, &Report::InitializerFailed { message }, None)?;
        return Ok(EXIT_INITIALIZER_FAILED);
    }
    failpoint!("before_ready");
    report(&control, &Report::Ready, None)?;
    failpoint!("after_ready");
    panics::set_last_words(last_words(Rc::clone(&control)));
    match road {
        Road::Ring(rings) => RingWorker::new(*rings, &control).serve(),
        Road::Socket(road) => SocketWorker::new(road).serve(),
    }
}

enum Road {
    Ring(Box<ring::worker::WorkerRoad>),
    Socket(socket::WorkerRoad),
}

fn broken(detail: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.into())
}

/// Sends the report of a panic that this process will not survive, from inside the panic hook.
fn last_words(control: Rc<Socket>) -> LastWords {
    Box::new(move |record| {
        // The process is about to abort: if the report does not get through, there is nobody else to tell.
        drop(report(&control, &Report::LastWords(record.clone()), None));
    })
}

fn report(control: &Socket, report: &Report, attached: Attachment<'_>) -> io::Result<()> {
    control.send(&[IoSlice::new(&control::encode(report))], attached.as_slice())
}

fn initialize(initializer: Initializer, attached: Option<PrivateFd>) -> Result<(), String> {
    let function = ResolvedFunction::find(&initializer.definition)?;
    let read;
    let args = match &initializer.args {
        Some(args) => args.as_slice(),
        None => {
            read = read_attached(attached, &BlobCache::of_worker())?;
            &read
        }
    };
    let mut out = Output::default();
    let verdict = panics::recorded(|| catch_unwind(AssertUnwindSafe(|| function.call(&(), args, &mut out))));
    match verdict {
        Ok(Verdict::Value) => Ok(()),
        Ok(_) => Err(text_of(out)),
        Err(panic) => Err(format!("panic: {}{}", panic.message, panic.place())),
    }
}

/// The beginning of a text, however long it is.
fn text_of(mut text: Output) -> String {
    let start = match text.fits_a_frame() {
        true => Ok(text.into_bytes()),
        false => text.take_blob().and_then(|blob| blob.read_start(REPORT_TEXT_MAX)),
    };
    start.map_or_else(|error| no_room(&error), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What a worker that is reached through shared memory does after a record.
enum Step {
    /// The next, which has begun.
    Begun(ring::worker::Record),
    Done(Next),
    /// It was told to, or the parent is gone.
    Leave,
}

/// A worker that is reached through shared memory.
struct RingWorker<'a> {
    rings: ring::worker::WorkerRoad,
    control: &'a Socket,
    functions: Functions,
    /// What items are given to, and by which numbers that was chosen.
    callee: Option<(Callee, u64)>,
    attachments_sent: u32,
    out: Output,
}

impl<'a> RingWorker<'a> {
    fn new(rings: ring::worker::WorkerRoad, control: &'a Socket) -> Self {
        let functions = Functions::new();
        let out = Output::with_cache(Arc::clone(&functions.cache));
        Self { rings, control, functions, callee: None, attachments_sent: 0, out }
    }

    fn serve(mut self) -> io::Result<u8> {
        loop {
            self.rings.begin();
            let mut record = self.rings.record()?;
            loop {
                record = match self.step(&record)? {
                    Step::Begun(record) => record,
                    Step::Done(Next::HasBegun) => self.rings.record()?,
                    Step::Done(Next::Wait) => break,
                    Step::Done(Next::Leave) => return Err(broken("its bell was closed")),
                    Step::Leave => return Ok(0),
                };
            }
        }
    }

    /// Obeys an order, or runs an item and those behind it that are as plain.
    fn step(&mut self, record: &ring::worker::Record) -> io::Result<Step> {
        match &self.callee {
            Some((Callee::Ready(ready), _)) if record.is_plain() => {
                let mut lane = lane::Lane::new(&mut self.rings, &self.functions, &mut self.out, ready, record);
                match lane.run()? {
                    lane::End::Begun(record) => Ok(Step::Begun(record)),
                    lane::End::Done(next) => Ok(Step::Done(next)),
                    lane::End::Large(kind) => {
                        self.answer(kind)?;
                        Ok(self.finish())
                    }
                }
            }
            _ => self.step_apart(record),
        }
    }

    fn step_apart(&mut self, record: &ring::worker::Record) -> io::Result<Step> {
        let attached = match record.attachment {
            Some(number) => match self.receive(number)? {
                Some(fd) => Some(fd),
                // The parent is gone, and nobody will read another answer.
                None => return Ok(Step::Leave),
            },
            None => None,
        };
        if !record.is_order {
            failpoint!("after_receive");
            self.run(record, attached)?;
            return Ok(self.finish());
        }
        let stop = self.obey(record, attached)?;
        let next = self.rings.finish();
        if stop {
            failpoint!("before_exit");
            return Ok(Step::Leave);
        }
        Ok(Step::Done(next))
    }

    /// The item that has been answered is done.
    fn finish(&mut self) -> Step {
        failpoint!("after_answer");
        let next = self.rings.finish();
        failpoint!("after_write");
        Step::Done(next)
    }

    /// Does what the parent says; true if that is to leave.
    fn obey(&mut self, record: &ring::worker::Record, attached: Option<PrivateFd>) -> io::Result<bool> {
        match frame::parse_order(self.rings.bytes(record)).map_err(|error| broken(error.0))? {
            Order::Define { function, definition } => self.functions.define(function, definition)?,
            Order::Context { function, context, body } => self.functions.open(function, context, body, attached),
            Order::Forget { context } => {
                self.callee.take_if(|(_, chosen)| *chosen == context);
                self.functions.forget(context);
            }
            Order::Select { target } => {
                self.callee = Some((self.functions.select(target)?, target.context));
            }
            Order::Run { .. } => return Err(broken("a frame of items, where items come one by one")),
            Order::Stop => return Ok(true),
        }
        Ok(false)
    }

    fn run(&mut self, record: &ring::worker::Record, attached: Option<PrivateFd>) -> io::Result<()> {
        let Some((callee, _)) = &self.callee else { return Err(broken("an item without a function")) };
        if callee.is_timed() {
            self.rings.show_beginning();
        }
        let kind = match record.attachment {
            None => callee.run(Ok(self.rings.bytes(record)), &mut self.out),
            Some(_) => {
                let bytes = read_attached(attached, &self.functions.cache);
                callee.run(bytes.as_deref().map_err(String::as_str), &mut self.out)
            }
        };
        self.functions.stay_alone();
        self.answer(kind)
    }

    /// Answers with what is in the buffer.
    fn answer(&mut self, kind: AnswerKind) -> io::Result<()> {
        if self.out.fits_a_frame() {
            return self.rings.answer(kind, false, self.out.bytes());
        }
        match blob_of(&mut self.out) {
            Ok(blob) => {
                let number = self.attachments_sent;
                self.attachments_sent = number.wrapping_add(1);
                failpoint!("before_attachment");
                report(self.control, &Report::Attachment { number }, Some(blob.as_fd()))?;
                failpoint!("after_attachment");
                self.rings.answer(kind, true, &number.to_le_bytes())
            }
            Err((kind, text)) => self.rings.answer(kind, false, text.as_bytes()),
        }
    }

    /// What travels beside the rings by this number; `None` if the parent is gone. What comes before it was taken back.
    fn receive(&self, number: u32) -> io::Result<Option<PrivateFd>> {
        loop {
            let (mut buffer, mut fds) = ([0; 4], Vec::new());
            match self.control.recv(&mut buffer, &mut fds)? {
                Received::Message(4) if u32::from_le_bytes(buffer) == number => {
                    return fds.pop().map(Some).ok_or_else(|| broken("an attachment without a descriptor"));
                }
                Received::Message(_) | Received::Empty => {}
                Received::Closed => return Ok(None),
            }
        }
    }
}

/// A worker that is reached through a socket.
struct SocketWorker {
    road: socket::WorkerRoad,
    functions: Functions,
    /// How many answers it has given.
    sequence: u32,
    out: Output,
}

impl SocketWorker {
    fn new(road: socket::WorkerRoad) -> Self {
        let functions = Functions::new();
        let out = Output::with_cache(Arc::clone(&functions.cache));
        Self { road, functions, sequence: 0, out }
    }

    fn serve(mut self) -> io::Result<u8> {
        let mut buffer = vec![0; FRAME_MAX];
        while let Some(received) = self.road.recv(&mut buffer)? {
            match frame::parse_order(&buffer[..received.len]).map_err(|error| broken(error.0))? {
                Order::Define { function, definition } => self.functions.define(function, definition)?,
                Order::Context { function, context, body } => {
                    self.functions.open(function, context, body, received.attached);
                }
                Order::Forget { context } => self.functions.forget(context),
                Order::Select { .. } => return Err(broken("a choice, where each frame makes its own")),
                Order::Run { target, body, .. } => {
                    failpoint!("after_receive");
                    let callee = self.functions.select(target)?;
                    self.run(&callee, body, received.attached)?;
                }
                Order::Stop => break,
            }
        }
        failpoint!("before_exit");
        // Told to go; or the parent is gone, and nobody will read another answer.
        Ok(0)
    }

    fn run(&mut self, callee: &Callee, body: Body<'_>, attached: Option<PrivateFd>) -> io::Result<()> {
        match body {
            Body::Inline(items) => {
                for item in ItemReader(items) {
                    let kind = callee.run(Ok(item.map_err(|error| broken(error.0))?), &mut self.out);
                    self.answer(kind)?;
                }
                Ok(())
            }
            Body::Attached => {
                let bytes = read_attached(attached, &self.functions.cache);
                let kind = callee.run(bytes.as_deref().map_err(String::as_str), &mut self.out);
                self.answer(kind)
            }
        }
    }

    fn answer(&mut self, kind: AnswerKind) -> io::Result<()> {
        self.functions.stay_alone();
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let head = |kind, attached| Head::answer(kind, sequence, attached);
        failpoint!("after_answer");
        let sent = if self.out.fits_a_frame() {
            self.road.send(head(kind, false).as_bytes(), self.out.bytes(), None)
        } else {
            match blob_of(&mut self.out) {
                Ok(blob) => self.road.send(head(kind, true).as_bytes(), &[], Some(blob.as_fd())),
                Err((kind, text)) => self.road.send(head(kind, false).as_bytes(), text.as_bytes(), None),
            }
        };
        failpoint!("after_write");
        sent
    }
}
