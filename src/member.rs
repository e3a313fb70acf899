//! One live worker, as the parent holds it: its process, its road, and what it has been told.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use start_methods::Child;
use start_methods::PrivateFd;

use crate::batch::Items;
use crate::batch::Span;
use crate::blob::Blob;
use crate::error::Panic;
use crate::error::PoolError;
use crate::frame::Head;
use crate::function::FunctionId;
use crate::function::LocalFunction;
use crate::jobs::Context;
use crate::jobs::ContextBody;
use crate::load::FrameNumber;
use crate::message;
use crate::transport::Road;
use crate::transport::Sent;

/// An order that is not work, waiting for room on the road.
#[derive(Debug)]
struct Note {
    frame: Vec<u8>,
    attached: Option<Attached>,
}

#[derive(Debug)]
enum Attached {
    Blob(Blob),
    Fd(PrivateFd),
}

/// Whether the worker has said that it is ours, and ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Nothing heard yet; give up at this time.
    Awaited(Instant),
    /// It is ours; its initializer runs.
    Hello,
    Ready,
}

/// A worker process, from the parent's side.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) child: Child,
    pub(crate) road: Road,
    pub(crate) greeting: Greeting,
    /// How many answers it has given.
    pub(crate) answers: u32,
    /// Why we killed it, or why it could not start.
    pub(crate) doom: Option<PoolError>,
    /// The panic that was about to abort it.
    pub(crate) last_words: Option<Box<Panic>>,
    /// Its end has been seen, and its status must be known by then.
    pub(crate) status_due: Option<Instant>,
    /// SIGKILL follows at this time.
    pub(crate) kill_at: Option<Instant>,
    /// Its road is watched for room.
    pub(crate) wants_room: bool,
    /// The worker was told something new with the frame that it has not answered yet.
    introducing: bool,
    functions: HashSet<FunctionId>,
    contexts: HashSet<u64>,
    notes: VecDeque<Note>,
}

impl Member {
    pub(crate) fn new(child: Child, road: Road, hello_due: Instant) -> Self {
        Self {
            child,
            road,
            greeting: Greeting::Awaited(hello_due),
            answers: 0,
            doom: None,
            last_words: None,
            status_due: None,
            kill_at: None,
            wants_room: false,
            introducing: false,
            functions: HashSet::new(),
            contexts: HashSet::new(),
            notes: VecDeque::new(),
        }
    }

    /// Puts work on the road, behind whatever the worker must be told first. `alone`: the worker holds nothing else.
    ///
    /// A frame that brings something new travels alone: nothing before it, and nothing after it until it is answered.
    /// Otherwise a recall could take the news away from under a frame that needs it, since the worker may read on
    /// while the parent recalls.
    pub(crate) fn send(
        &mut self,
        span: &Span,
        number: FrameNumber,
        context: Option<&Context>,
        alone: bool,
    ) -> io::Result<Sent> {
        let new = !self.functions.contains(&span.batch.function)
            || context.is_some_and(|context| !self.contexts.contains(&context.id));
        if !alone && (new || self.introducing) {
            return Ok(Sent::Later);
        }
        self.define(span.batch.function);
        if let Some(context) = context {
            self.introduce(context);
        }
        self.introducing |= new;
        if self.flush()? == Sent::Full {
            return Ok(Sent::Full);
        }
        let head = Head::run(span, number.0);
        match &span.batch.items {
            Items::Inline { .. } => {
                self.road.send(head.as_bytes(), span.bytes().expect("inline items have bytes"), None)
            }
            Items::Blob(blob) => self.road.send(head.as_bytes(), &[], Some(blob.as_fd())),
        }
    }

    /// The worker has given an answer, so it has read whatever came before.
    pub(crate) fn answered(&mut self) {
        self.answers = self.answers.wrapping_add(1);
        self.introducing = false;
    }

    /// Tells the worker to leave when it has done what it was given.
    pub(crate) fn stop(&mut self) -> io::Result<Sent> {
        self.note(Head::stop().as_bytes().to_vec(), None);
        self.flush()
    }

    /// Tells the worker that a context is needed no longer, if it has it.
    pub(crate) fn forget(&mut self, context: u64) -> io::Result<Sent> {
        if self.contexts.remove(&context) {
            self.note(Head::forget(context).as_bytes().to_vec(), None);
        }
        self.flush()
    }

    /// Sends an order again that was recalled and is not work.
    pub(crate) fn note_again(&mut self, frame: Vec<u8>, attached: Option<PrivateFd>) {
        self.note(frame, attached.map(Attached::Fd));
    }

    /// Sends what waits for room, as far as there is any.
    pub(crate) fn flush(&mut self) -> io::Result<Sent> {
        while let Some(note) = self.notes.front() {
            let attached = note.attached.as_ref().map(|attached| match attached {
                Attached::Blob(blob) => blob.as_fd(),
                Attached::Fd(fd) => fd.as_fd(),
            });
            if self.road.send(&note.frame, &[], attached)? == Sent::Full {
                return Ok(Sent::Full);
            }
            self.notes.pop_front();
        }
        Ok(Sent::Taken)
    }

    fn define(&mut self, function: FunctionId) {
        if !self.functions.insert(function) {
            return;
        }
        let definition =
            LocalFunction::of(function).definition().expect("a function is located before its job is accepted");
        let mut frame = Head::define(function).as_bytes().to_vec();
        frame.extend(message::encode(&definition));
        self.note(frame, None);
    }

    fn introduce(&mut self, context: &Context) {
        if !self.contexts.insert(context.id) {
            return;
        }
        match &context.body {
            ContextBody::Inline(bytes) => {
                let mut frame = Head::context(context.function, context.id, false).as_bytes().to_vec();
                frame.extend_from_slice(bytes);
                self.note(frame, None);
            }
            ContextBody::Blob(blob) => {
                let head = Head::context(context.function, context.id, true);
                self.note(head.as_bytes().to_vec(), Some(Attached::Blob(blob.clone())));
            }
        }
    }

    fn note(&mut self, frame: Vec<u8>, attached: Option<Attached>) {
        self.notes.push_back(Note { frame, attached });
    }
}
