//! The worker process: read a record, run the function, answer.
//!
//! One thread, the main one. Each answer is shown to the parent before the next item begins, so the parent, which counts
//! answers, knows at any moment which item this worker can be running. A panic is an answer like any other; anything else
//! that a task does to its process reaches the parent as the end of the process.

mod backtrace;
pub(crate) mod deadline;
pub(crate) mod functions;
mod hooks;
pub(crate) mod info;
mod lane;
pub(crate) mod logs;
pub(crate) mod panics;
mod per_depth;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use start_methods::Birth;
use start_methods::Socket;

use self::functions::Callee;
use self::functions::Functions;
use self::functions::write_panic;
use self::hooks::ReadyHook;
use crate::sys::affinity;
use crate::sys::failpoint::failpoint;
use crate::sys::identity;
use crate::transport::control::Report;
use crate::transport::control::Setup;
use crate::transport::frame;
use crate::transport::frame::AnswerKind;
use crate::transport::frame::Order;
use crate::transport::outlets::WorkerEnds;
use crate::transport::record::Idle;
use crate::transport::record::Next;
use crate::transport::record::broken;
use crate::transport::worker_link::Beside;
use crate::transport::worker_link::WorkerLink;
use crate::transport::worker_link::report;
use crate::values::attach;
use crate::values::attach::Carried;
use crate::values::attach::Source;
use crate::values::blob::IDLE_TIME;
use crate::values::message;
use crate::values::output::Output;
use crate::values::output::no_room;
use crate::values::parcel;
use crate::values::parcel::ReceivedFds;
use crate::work::function::Completion;
use crate::worker::panics::Echo;
use crate::worker::panics::LastWords;

/// The exit code of a worker whose initializer failed.
const EXIT_INITIALIZER_FAILED: u8 = 113;
/// The exit code of a worker that cannot use the link it was given.
const EXIT_LINK_REFUSED: u8 = 115;
/// The exit code of a worker whose parent broke the protocol: a bug in procpool.
const EXIT_PROTOCOL: u8 = 114;

/// Whether this process is a worker.
static IS_HERE: AtomicBool = AtomicBool::new(false);

/// Whether this process is a worker of a pool.
pub(crate) fn is_here() -> bool {
    // Relaxed: it is set before any code of the user runs here.
    IS_HERE.load(Ordering::Relaxed)
}

/// Runs a worker from its birth to its exit code.
pub(crate) fn main(birth: Birth) -> u8 {
    IS_HERE.store(true, Ordering::Relaxed);
    match run(birth) {
        Ok(code) => code,
        Err(error) => {
            log::error!("a worker leaves: {error}");
            EXIT_PROTOCOL
        }
    }
}

fn run(birth: Birth) -> io::Result<u8> {
    let setup: Setup = message::parse(&birth.payload).map_err(broken)?;
    let control = Rc::new(birth.control);
    let mut fds = birth.fds.into_iter();
    let mut link = match WorkerLink::connect(setup.link, &mut fds, Rc::clone(&control)) {
        Ok(link) => link,
        Err(error) => {
            report(&control, &Report::LinkRefused { message: error.to_string() }, &[])?;
            return Ok(EXIT_LINK_REFUSED);
        }
    };
    let (log, output) = WorkerEnds::receive(setup.outlets, &mut fds)?;
    if !setup.processors.is_empty() {
        link.forbid_migration();
        // The parent has tried it. What has changed since, a processor that was taken offline, stops no worker.
        let _bound = affinity::bind(&setup.processors);
    }
    info::begin(setup.lane, setup.pool);
    identity::begin(setup.born);
    if let Some(socket) = log {
        logs::begin(socket, setup.outlets.level());
    }
    if let Some([out, err]) = output {
        nix::unistd::dup2_stdout(out)?;
        nix::unistd::dup2_stderr(err)?;
    }
    panics::install_hook(Echo::Silent);
    // In this order: their arguments were sent so.
    let [initializer, finalizer] =
        [setup.initializer, setup.finalizer].map(|hook| hook.map(|hook| ReadyHook::receive(hook, &control)));
    if let Some(initializer) = initializer {
        link.forbid_migration();
        if let Err(message) = initializer.run() {
            report(&control, &Report::InitializerFailed { message }, &[])?;
            return Ok(EXIT_INITIALIZER_FAILED);
        }
    }
    logs::install();
    failpoint!("before_ready");
    report(&control, &Report::Ready, &[])?;
    failpoint!("after_ready");
    panics::set_last_words(last_words(Rc::clone(&control)));
    let mut worker = Worker::new(link);
    match (worker.serve()?, finalizer) {
        // No process reads what it would report.
        (Left::Alone, _) | (Left::Told, None) => {}
        (Left::Told, Some(finalizer)) => hooks::finalize(finalizer, &control)?,
    }
    Ok(0)
}

/// Sends the report of a panic that this process will not survive, from inside the panic hook.
pub(crate) fn last_words(control: Rc<Socket>) -> LastWords {
    Box::new(move |record| {
        // The process is about to abort: a report that cannot be sent is lost.
        drop(report(&control, &Report::LastWords(record.clone()), &[]));
    })
}

/// Why a worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The parent told it to.
    Told,
    /// The parent is gone: no process will read another answer.
    Alone,
}

/// What a worker does after a record.
enum Step {
    /// Process the current record.
    Current,
    Done(Next),
    Leave(Left),
}

/// A worker that is ready.
struct Worker {
    link: WorkerLink,
    functions: Functions,
    /// What the next items are given to, and the number of its context.
    callee: Option<(Callee, u64)>,
    out: Output,
}

impl Worker {
    fn new(link: WorkerLink) -> Self {
        let functions = Functions::new();
        let out = Output::with_cache(Arc::clone(&functions.cache));
        Self { link, functions, callee: None, out }
    }

    fn serve(&mut self) -> io::Result<Left> {
        while self.begin()? {
            self.link.read()?;
            loop {
                match self.step()? {
                    Step::Current => {}
                    Step::Done(Next::HasBegun) => self.link.read()?,
                    Step::Done(Next::Wait) => break,
                    Step::Done(Next::Leave) => return Err(broken("its bell was closed")),
                    Step::Leave(left) => return Ok(left),
                }
            }
        }
        failpoint!("before_exit");
        Ok(Left::Alone)
    }

    /// Waits for the next record; false if the parent is gone. Memory for large values is given back when none has come for
    /// a while.
    fn begin(&mut self) -> io::Result<bool> {
        let cache = &self.functions.cache;
        let give_back = || drop(cache.rest());
        let idle = cache.has_something().then_some(Idle { after: IDLE_TIME, act: &give_back });
        let has_begun = self.link.begin(idle)?;
        cache.wake();
        Ok(has_begun)
    }

    /// Executes an order, or runs an item and those behind it that are as plain.
    fn step(&mut self) -> io::Result<Step> {
        match &self.callee {
            Some((Callee::Ready(ready), _)) if self.link.current().is_plain() => {
                let mut lane = lane::Lane::new(&mut self.link, &self.functions, &mut self.out, ready);
                match lane.run()? {
                    lane::End::Current => Ok(Step::Current),
                    lane::End::Done(next) => Ok(Step::Done(next)),
                    lane::End::Large(kind) => {
                        self.answer(kind)?;
                        self.finish()
                    }
                }
            }
            _ => self.step_single(),
        }
    }

    fn step_single(&mut self) -> io::Result<Step> {
        let attached = match self.link.current().attachment {
            Some(number) => match self.link.attachment(number)? {
                Beside::Fds(fds) => Some(fds),
                Beside::Missing => None,
                Beside::ParentGone => return Ok(Step::Leave(Left::Alone)),
            },
            None => None,
        };
        if !self.link.current().is_order {
            failpoint!("after_receive");
            self.run(attached)?;
            return self.finish();
        }
        let stop = self.execute(attached)?;
        let next = self.link.finish()?;
        if stop {
            failpoint!("before_exit");
            return Ok(Step::Leave(Left::Told));
        }
        Ok(Step::Done(next))
    }

    /// The item that has been answered is done.
    fn finish(&mut self) -> io::Result<Step> {
        failpoint!("after_answer");
        let next = self.link.finish()?;
        failpoint!("after_write");
        Ok(Step::Done(next))
    }

    /// Executes an order; true if it is to leave.
    fn execute(&mut self, attached: Option<ReceivedFds>) -> io::Result<bool> {
        match frame::parse_order(self.link.bytes()).map_err(|error| broken(error.0))? {
            Order::Define { function, definition } => self.functions.define(function, definition)?,
            Order::Context { function, context, body } => self.functions.open(function, context, body, attached),
            Order::Forget { context } => {
                self.callee.take_if(|(_, chosen)| *chosen == context);
                self.functions.forget(context);
            }
            Order::Select { target } => {
                self.callee = Some((self.functions.select(target)?, target.context));
            }
            Order::Discard { before } => self.link.discard(before),
            Order::Run { .. } => return Err(broken("a frame of items, where items come one by one")),
            Order::Stop => return Ok(true),
        }
        Ok(false)
    }

    fn run(&mut self, attached: Option<ReceivedFds>) -> io::Result<()> {
        let Some((callee, _)) = &self.callee else { return Err(broken("an item without a function")) };
        if callee.is_timed() {
            self.link.show_start();
        }
        let ended = match self.link.current().attachment {
            None => callee.run(Ok(self.link.bytes()), &mut self.out),
            Some(_) => {
                let read = parcel::open_received(self.link.bytes(), attached, &self.functions.cache);
                let (bytes, carried) = match read {
                    Ok((bytes, carried)) => (Ok(bytes), carried),
                    Err(error) => (Err(error), Carried::default()),
                };
                // Dropped when the argument is decoded, so that the function has the only ones.
                let _delivery = attach::deliver(carried, Source::Parent);
                callee.run(bytes.as_deref().map_err(String::as_str), &mut self.out)
            }
        };
        self.functions.owner.kill_copy();
        info::item_done();
        let kind = ended.unwrap_or_else(|panic| {
            if callee.is_timed() {
                // The report has its own time: the item has ended.
                self.link.show_start();
            }
            write_panic(&panic, &mut self.out)
        });
        self.answer(kind)
    }

    /// Answers with what is in the buffer.
    fn answer(&mut self, kind: AnswerKind) -> io::Result<()> {
        if self.out.fits_a_frame() {
            return self.link.answer(kind, self.out.bytes());
        }
        let parcel = self.out.take_parcel();
        let fds = match &parcel {
            Ok(parcel) => parcel.fds().map(|fds| (parcel, fds)).map_err(|error| no_room(&error)),
            Err(text) => Err(text.clone()),
        };
        match fds {
            Ok((parcel, fds)) => self.link.answer_parcel(kind, parcel, &fds),
            Err(text) => self.link.answer(AnswerKind::Completion(Completion::NotEncoded), text.as_bytes()),
        }
    }
}
