//! The parent's end of the link to one worker, of either kind.
//!
//! The differences between the two kinds end here: what an order waits for, how work is taken back, how the parent is
//! woken, and where bytes are that do not fit a frame. The engine uses both kinds alike.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

use start_methods::Socket;

use crate::observe::stamp::Stamp;
use crate::sys::id_hasher::IdSet;
use crate::sys::processor::Cpu;
use crate::transport::arrival::Arrival;
use crate::transport::arrival::LinkError;
use crate::transport::arrival::ServiceTime;
use crate::transport::attachments::Attachments;
use crate::transport::control;
use crate::transport::frame;
use crate::transport::frame::Head;
use crate::transport::frame::Placement;
use crate::transport::introduction::Introduction;
use crate::transport::note;
use crate::transport::note::Note;
use crate::transport::note::Sent;
use crate::transport::ring;
use crate::transport::ring::parent_link::RingLink;
use crate::transport::socket;
use crate::values::parcel::Parcel;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::function::FunctionId;
use crate::work::function::LocalFunction;
use crate::work::jobs::JobContext;
use crate::work::progress::Progress;
use crate::work::progress::RunTime;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::UnbegunWork;

/// Answers taken from one socket before other workers are served.
const ANSWERS_MAX: usize = 512;

/// Checks without a lock whether a worker has answered.
pub(crate) use crate::transport::ring::parent::AnswerProbe;

#[derive(Debug)]
enum End {
    Ring(RingLink),
    Socket(socket::ParentEnd),
}

/// How the descriptor of a link reports answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// It stays readable while there are answers.
    Level,
    /// It becomes readable anew each time that the worker rings, and is never read.
    Edge,
}

/// Whether the worker is alive when work is taken back from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Alive,
    Dead,
}

/// Whether the worker holds work besides the frame that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// No other.
    Nothing,
    Other,
}

/// How many answers are taken in at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// A bounded number, so that other workers are served too.
    Fair,
    /// All that are there.
    All,
}

/// Whether the worker will wake a parent that sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// It has nothing to do, or the kernel reports its answers.
    NotNeeded,
    /// It rings at its next answer.
    Asked,
    /// There are answers already.
    TooLate,
}

/// The buffer for received answers, used by all links in turn.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    arrivals: ring::arrivals::Arrivals,
    frame: Vec<u8>,
    left: usize,
}

/// The parent's end of the link to one worker.
#[derive(Debug)]
pub(crate) struct Link {
    end: End,
    functions: IdSet<FunctionId>,
    contexts: IdSet<u64>,
    /// Orders that wait for room, oldest first.
    notes: VecDeque<Note>,
    /// What items need that was sent over a socket, and may not have been read.
    introduction: Introduction,
    /// The descriptor of the link is watched for room.
    waits_for_room: bool,
    /// What has come on the control socket for answers that have not been taken in.
    pub(crate) attachments: Attachments,
}

impl Link {
    pub(super) fn ring(rings: ring::parent::ParentEnd) -> io::Result<Self> {
        Ok(Self::new(End::Ring(RingLink::new(rings)?)))
    }

    pub(super) fn socket() -> io::Result<Self> {
        Ok(Self::new(End::Socket(socket::ParentEnd::new()?)))
    }

    fn new(end: End) -> Self {
        Self {
            end,
            functions: IdSet::default(),
            contexts: IdSet::default(),
            notes: VecDeque::new(),
            introduction: Introduction::default(),
            waits_for_room: false,
            attachments: Attachments::default(),
        }
    }

    /// The descriptor of this link for the worker. Rings have their memory besides.
    pub(super) fn worker_fd(&self) -> BorrowedFd<'_> {
        match &self.end {
            End::Ring(ring) => ring.bell.as_fd(),
            End::Socket(socket) => socket.worker_end(),
        }
    }

    /// The descriptor that reports answers, as [`trigger`](Self::trigger) says.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.end {
            End::Ring(ring) => ring.bell.as_fd(),
            End::Socket(socket) => socket.fd(),
        }
    }

    pub(crate) fn trigger(&self) -> Trigger {
        match &self.end {
            End::Ring(_) => Trigger::Edge,
            End::Socket(_) => Trigger::Level,
        }
    }

    /// Sends work, behind everything that the worker must know for it.
    ///
    /// Over a socket, a frame that brings a function or a context travels alone: until it is answered, the worker holds no
    /// other. The worker may read while the parent recalls, and the [introduction](crate::transport::introduction) must say
    /// what it can still begin.
    ///
    /// Over either, what carries descriptors is sent only to a worker that holds nothing. Sent ahead, they would be open in
    /// the socket of a worker that may be waiting for the end of a pipe of which they are the other end, even after they
    /// have been taken back.
    pub(crate) fn send(
        &mut self,
        control: &Socket,
        span: &Span,
        number: FrameNumber,
        context: Option<&JobContext>,
        holds: Holds,
    ) -> io::Result<Sent> {
        let function = span.batch.target.function;
        let new = !self.functions.contains(&function) || context.is_some_and(|context| !self.has_context(context.id));
        let travels_alone = matches!(self.end, End::Socket(_)) && (new || self.is_introducing());
        if holds == Holds::Other && (travels_alone || self.would_carry(span, context)) {
            return Ok(Sent::Later);
        }
        if new {
            self.define(function);
            context.into_iter().for_each(|context| self.introduce(context));
        }
        match self.flush(control)? {
            Sent::Taken => {}
            refused => return Ok(refused),
        }
        match &mut self.end {
            End::Ring(ring) => ring.send_items(control, span),
            End::Socket(socket) => {
                let head = Head::run(span, number.0);
                let fds = span.parcel().and_then(note::fds_of);
                let sent = socket.send(head.as_bytes(), span.frame_bytes(), &note::borrowed(&fds))?;
                if sent == Sent::Taken {
                    self.introduction.work_sent(number, span);
                }
                Ok(sent)
            }
        }
    }

    /// Whether functions or contexts were sent, or wait for room, that the worker is not known to have read.
    fn is_introducing(&self) -> bool {
        self.introduction.is_under_way() || self.notes.iter().any(|note| frame::introduces(&note.frame))
    }

    /// Whether sending these items would send descriptors that a value carries.
    fn would_carry(&self, span: &Span, context: Option<&JobContext>) -> bool {
        let new_context = context.filter(|context| !self.has_context(context.id)).map(|context| &context.value);
        span.parcel().into_iter().chain(new_context).any(|parcel| !parcel.carried().is_empty())
    }

    /// Tells the worker to leave when it has done what it was given.
    pub(crate) fn stop(&mut self, control: &Socket) -> io::Result<Sent> {
        self.push_note(Head::stop().as_bytes().to_vec(), None);
        self.flush(control)
    }

    /// The contexts that the worker has.
    pub(crate) fn contexts(&self) -> impl Iterator<Item = u64> + '_ {
        self.contexts.iter().copied()
    }

    /// Whether the worker has the context.
    pub(crate) fn has_context(&self, context: u64) -> bool {
        self.contexts.contains(&context)
    }

    /// Tells the worker that a context is needed no longer, if it has it.
    pub(crate) fn forget(&mut self, control: &Socket, context: u64) -> io::Result<Sent> {
        if self.contexts.remove(&context) {
            self.push_note(Head::forget(context).as_bytes().to_vec(), None);
        }
        self.flush(control)
    }

    fn define(&mut self, function: FunctionId) {
        if !self.functions.insert(function) {
            return;
        }
        let definition = LocalFunction::of(function).definition().expect("a function with a number was located");
        let mut frame = Head::define(function).as_bytes().to_vec();
        frame.extend(control::encode(&definition));
        self.push_note(frame, None);
    }

    fn introduce(&mut self, context: &JobContext) {
        if !self.contexts.insert(context.id) {
            return;
        }
        let placement = Placement::of(&context.value);
        let head = Head::context(context.function, context.id, placement);
        let frame = [head.as_bytes(), context.value.frame_bytes()].concat();
        let attached = (placement != Placement::Inline).then(|| context.value.clone());
        self.push_note(frame, attached);
    }

    fn push_note(&mut self, frame: Vec<u8>, attached: Option<Parcel>) {
        self.notes.push_back(Note { frame, attached });
    }

    /// Sends the orders that wait for room, as far as there is room.
    pub(crate) fn flush(&mut self, control: &Socket) -> io::Result<Sent> {
        while let Some(note) = self.notes.pop_front() {
            let refused = match &mut self.end {
                End::Ring(ring) => ring.send_note(control, note)?,
                End::Socket(socket) => {
                    let fds = note.attached.as_ref().and_then(note::fds_of);
                    let sent = socket.send(&note.frame, &[], &note::borrowed(&fds))?;
                    drop(fds);
                    if sent == Sent::Taken {
                        self.introduction.order_sent(&note.frame);
                        None
                    } else {
                        Some((note, sent))
                    }
                }
            };
            if let Some((note, sent)) = refused {
                match frame::context_in(&note.frame) {
                    // Nothing is to wait behind it: work that needs the context introduces it again.
                    Some(context) if sent == Sent::TooManyInFlight => drop(self.contexts.remove(&context)),
                    _ => self.notes.push_front(note),
                }
                return Ok(sent);
            }
        }
        Ok(Sent::Taken)
    }

    /// Whether orders wait for room.
    pub(crate) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// The link was found full. Whether its descriptor must be watched for room from now on: a ring has room again when
    /// something in it is done, which the parent learns anyway.
    pub(crate) fn begins_to_wait_for_room(&mut self) -> bool {
        matches!(self.end, End::Socket(_)) && !std::mem::replace(&mut self.waits_for_room, true)
    }

    pub(crate) fn waits_for_room(&self) -> bool {
        self.waits_for_room
    }

    pub(crate) fn has_room_again(&mut self) {
        self.waits_for_room = false;
    }

    /// Takes back what the worker has not begun. Orders that are not work are kept, to be sent again behind what waits;
    /// contexts are sent again when work needs them. Without work, their decoding would belong to no item that could be
    /// stopped, and what they carry would stay open.
    ///
    /// Descriptors that travel beside the rings stay in the socket of the worker, and open, until it reads them. So a worker
    /// from which any were taken back is told to discard them.
    ///
    /// An item begins when the decoding of its context does. That runs user code too, and if it kills the worker, the item
    /// must not go to the next worker, and so on for ever.
    ///
    /// Over a socket, functions are sent again when work needs them, too; the [introduction](crate::transport::introduction)
    /// says why.
    ///
    /// # Errors
    ///
    /// No worker of this build leaves its link like this.
    pub(crate) fn recall(&mut self, peer: Peer) -> Result<UnbegunWork, String> {
        match &mut self.end {
            End::Ring(ring) => {
                let recalled = ring.rings.recall().map_err(|broken| broken.0.to_owned())?;
                let discard = Head::discard(ring.next_attachment());
                // In front: these were sent before the orders that still wait.
                for note in recalled.notes.into_iter().rev() {
                    match frame::context_in(&note.frame) {
                        Some(context) => drop(self.contexts.remove(&context)),
                        None => self.notes.push_front(note),
                    }
                }
                if recalled.has_attachments && peer == Peer::Alive {
                    self.notes.push_front(Note { frame: discard.as_bytes().to_vec(), attached: None });
                }
                Ok(UnbegunWork::Last(recalled.items))
            }
            End::Socket(socket) => {
                let unread = socket.recall().map_err(|error| format!("its link broke: {error}"))?;
                let taken = self.introduction.take_back(unread);
                self.functions.retain(|function| !taken.functions.contains(function));
                self.contexts.retain(|context| !taken.contexts.contains(context));
                // In front: these were sent before the orders that still wait.
                for again in taken.again.into_iter().rev() {
                    self.notes.push_front(again.into());
                }
                Ok(UnbegunWork::Frames(taken.frames))
            }
        }
    }

    /// Begins to take in answers: [`next`](Self::next) yields them.
    ///
    /// # Errors
    ///
    /// [`LinkError::Broken`]: no worker of this build leaves its link like this.
    pub(crate) fn receive(&mut self, inbox: &mut Inbox, share: Share) -> Result<(), LinkError> {
        match &mut self.end {
            // All that a ring holds was copied out of it, and is bounded by its length.
            End::Ring(RingLink { rings, .. }) => Ok(rings.receive(&mut inbox.arrivals)?),
            End::Socket(_) => {
                inbox.left = match share {
                    Share::Fair => ANSWERS_MAX,
                    Share::All => usize::MAX,
                };
                Ok(())
            }
        }
    }

    /// The next answers; `None` when there are no more.
    ///
    /// # Errors
    ///
    /// See [`LinkError`].
    pub(crate) fn next<'a>(&mut self, inbox: &'a mut Inbox) -> Result<Option<Arrival<'a>>, LinkError> {
        match &mut self.end {
            End::Ring(RingLink { rings, .. }) => Ok(rings.next_run(&mut inbox.arrivals)?),
            End::Socket(_) if inbox.left == 0 => Ok(None),
            End::Socket(socket) => {
                inbox.left -= 1;
                let Some(arrival) = socket.next_answer(&mut inbox.frame)? else { return Ok(None) };
                self.introduction.answered();
                Ok(Some(arrival))
            }
        }
    }

    /// All answers of [`receive`](Self::receive) are taken in: their room is the worker's again.
    pub(crate) fn received(&mut self, inbox: &Inbox) {
        if let End::Ring(RingLink { rings, .. }) = &mut self.end {
            rings.taken(&inbox.arrivals);
        }
    }

    /// Whether the worker measures how long its items take; if not, the parent has only the times of their answers.
    pub(crate) fn measures_itself(&self) -> bool {
        matches!(self.end, End::Ring(_))
    }

    /// The last `items` that were answered are of this job.
    pub(crate) fn answered(&mut self, job: JobId, items: u32) {
        if let End::Ring(ring) = &mut self.end {
            ring.answered(job, items);
        }
    }

    /// What the worker has measured since the last call, if that includes an item of the job of the last answer.
    pub(crate) fn take_service_time(&mut self) -> Option<ServiceTime> {
        let End::Ring(ring) = &mut self.end else { return None };
        ring.take_service_time()
    }

    /// The worker has rung. To be called after its answers were received.
    ///
    /// # Errors
    ///
    /// It has rung more often than it has answered.
    pub(crate) fn rung(&mut self) -> Result<(), LinkError> {
        match &mut self.end {
            End::Ring(RingLink { rings, .. }) => Ok(rings.rung()?),
            End::Socket(_) => Ok(()),
        }
    }

    /// The number of orders known to be executed; 0 if the link does not tell.
    pub(crate) fn orders_executed(&self) -> u64 {
        match &self.end {
            End::Ring(RingLink { rings, .. }) => rings.executed(),
            End::Socket(_) => 0,
        }
    }

    /// How far the worker has come with its next item, as far as the link tells.
    pub(crate) fn progress(&self) -> Progress {
        match &self.end {
            End::Ring(RingLink { rings, .. }) => rings.progress(),
            End::Socket(_) => Progress::Runs { since: None },
        }
    }

    fn rings(&self) -> Option<&ring::parent::ParentEnd> {
        let End::Ring(RingLink { rings, .. }) = &self.end else { return None };
        Some(rings)
    }

    /// How long the worker has run its next item; `None` if it runs none, or the link does not tell.
    pub(crate) fn run_time(&self, now_ns: u64) -> Option<RunTime> {
        self.rings()?.run_time(now_ns)
    }

    /// How many records are known to be done, and how many were sent; `None` if the link does not tell.
    pub(crate) fn records(&self) -> Option<(u64, u64)> {
        Some(self.rings()?.records())
    }

    /// Adds the stamps that the worker has written since the last call, if it writes any.
    pub(crate) fn take_stamps(&mut self, stamps: &mut Vec<Stamp>) {
        if let End::Ring(RingLink { rings, .. }) = &mut self.end {
            rings.take_stamps(stamps);
        }
    }

    /// How long the worker has been busy; `None` if the link does not tell.
    pub(crate) fn busy_ns(&self) -> Option<u64> {
        Some(self.rings()?.busy_ns())
    }

    /// Whether there are answers that the kernel does not report.
    pub(crate) fn has_news(&self) -> bool {
        match &self.end {
            End::Ring(RingLink { rings, .. }) => !rings.is_idle() && rings.has_news(),
            End::Socket(_) => false,
        }
    }

    /// Whether a look at the link may reveal answers.
    pub(crate) fn is_active(&self) -> bool {
        match &self.end {
            End::Ring(RingLink { rings, .. }) => !rings.is_idle(),
            End::Socket(_) => false,
        }
    }

    /// Whether answers are due that only a look at the link reveals.
    pub(crate) fn owes_answers(&self) -> bool {
        match &self.end {
            End::Ring(RingLink { rings, .. }) => rings.owes_answers(),
            End::Socket(_) => false,
        }
    }

    /// Asks the worker to wake the parent at its next answer, if it has something to answer.
    pub(crate) fn ask_to_ring(&self) -> Wakeup {
        match &self.end {
            End::Ring(RingLink { rings, .. }) if !rings.is_idle() => match rings.ask_to_ring() {
                true => Wakeup::Asked,
                false => Wakeup::TooLate,
            },
            _ => Wakeup::NotNeeded,
        }
    }

    /// A probe for the worker's answers. `None` if it has nothing to answer, or ran last on this processor, where it cannot
    /// run while a thread spins.
    pub(crate) fn probe(&self, here: Cpu) -> Option<AnswerProbe> {
        match &self.end {
            End::Ring(RingLink { rings, .. }) if !rings.is_idle() && !rings.is_at(here) => Some(rings.probe()),
            _ => None,
        }
    }

    /// How long the worker may spin for work before it sleeps.
    pub(crate) fn allow_spinning(&mut self, ns: u64) {
        if let End::Ring(RingLink { rings, .. }) = &mut self.end {
            rings.allow_spinning(ns);
        }
    }

    /// Whether the process still has its end of the link. One that has executed another program has not.
    pub(crate) fn is_held_by(&self, pid: u32) -> bool {
        match &self.end {
            End::Ring(_) => {
                std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(ring::memory::NAME))
            }
            End::Socket(socket) => socket.is_held_by(pid),
        }
    }

    /// Whether a task that closes or replaces descriptors can cut the worker off from its orders, so that it waits for
    /// ever.
    pub(crate) fn hangs_by_descriptors(&self) -> bool {
        matches!(self.end, End::Socket(_))
    }
}
