//! One live worker, as the parent holds it: its process, its road, and what it has been told.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::RawFd;
use std::time::Duration;
use std::time::Instant;

use nix::unistd::SysconfVar;
use start_methods::Child;
use start_methods::PrivateFd;

use crate::engine::trust::Trust;
use crate::error::Panic;
use crate::error::TaskError;
use crate::schedule::load::ItemOf;
use crate::transport::Attached;
use crate::transport::Note;
use crate::transport::Road;
use crate::transport::Sent;
use crate::transport::control;
use crate::transport::frame;
use crate::transport::frame::Head;
use crate::transport::frame::Order;
use crate::transport::ring;
use crate::values::blob::Blob;
use crate::work::batch::Items;
use crate::work::batch::Span;
use crate::work::function::FunctionId;
use crate::work::function::LocalFunction;
use crate::work::jobs::Context;
use crate::work::jobs::ContextBody;
use crate::work::progress::Progress;
use crate::work::unbegun::FrameNumber;
use crate::work::unbegun::Unbegun;

/// How long after one look at a busy worker's memory the next may follow: a look takes some ten microseconds.
const WEIGH_EVERY: Duration = Duration::from_millis(1);

/// Whether the worker has said that it is ours, and ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Nothing heard yet; give up at this time.
    Awaited(Instant),
    /// It is ours; its initializer runs.
    Hello,
    Ready,
}

/// Why a worker had to be killed in the midst of its work.
#[derive(Debug)]
pub(crate) struct KillReason {
    pub(crate) item: ItemOf,
    pub(crate) error: TaskError,
    /// Whether it had begun the item.
    pub(crate) has_begun: bool,
}

/// A worker process, from the parent's side.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) child: Child,
    pub(crate) road: Road,
    pub(crate) greeting: Greeting,
    /// How many answers it has given.
    pub(crate) answers: u32,
    pub(crate) trust: Trust,
    /// The item for which it was killed, and what that item's caller is told.
    pub(crate) kill_reason: Option<KillReason>,
    /// The panic that was about to abort it.
    pub(crate) last_words: Option<Box<Panic>>,
    /// Its end has been seen, and its status must be known by then.
    pub(crate) status_due: Option<Instant>,
    /// Messages of its that made no sense.
    pub(crate) nonsense: u32,
    /// SIGKILL follows at this time.
    pub(crate) kill_at: Option<Instant>,
    /// When its memory was last looked at.
    weighed_at: Option<Instant>,
    /// Its road is watched for room.
    pub(crate) wants_room: bool,
    /// The worker was told something new with the frame that it has not answered yet.
    introducing: bool,
    functions: HashSet<FunctionId>,
    contexts: HashSet<u64>,
    notes: VecDeque<Note>,
    /// Numbers what travels beside the rings, on the control socket.
    attachments_sent: u32,
    /// What has come beside the rings and was not asked for yet.
    attachments: VecDeque<(u32, PrivateFd)>,
    /// Some of that found no room in our descriptor table.
    attachment_lost: bool,
}

impl WorkerHandle {
    pub(crate) fn new(child: Child, road: Road, hello_due: Instant) -> Self {
        Self {
            child,
            road,
            greeting: Greeting::Awaited(hello_due),
            answers: 0,
            trust: Trust::default(),
            kill_reason: None,
            last_words: None,
            status_due: None,
            nonsense: 0,
            kill_at: None,
            weighed_at: None,
            wants_room: false,
            introducing: false,
            functions: HashSet::new(),
            contexts: HashSet::new(),
            notes: VecDeque::new(),
            attachments_sent: 0,
            attachments: VecDeque::new(),
            attachment_lost: false,
        }
    }

    /// Puts work on the road, behind whatever the worker must be told first. `alone`: the worker holds nothing else.
    ///
    /// Over a socket, a frame that brings something new travels alone: nothing before it, and nothing after it until it
    /// is answered. Otherwise a recall could take the news away from under a frame that needs it, since the worker may
    /// read on while the parent recalls.
    pub(crate) fn send(
        &mut self,
        span: &Span,
        number: FrameNumber,
        context: Option<&Context>,
        alone: bool,
    ) -> io::Result<Sent> {
        let function = span.batch.target.function;
        let new =
            !self.functions.contains(&function) || context.is_some_and(|context| !self.contexts.contains(&context.id));
        if matches!(self.road, Road::Socket(_)) && !alone && (new || self.introducing) {
            return Ok(Sent::Later);
        }
        self.define(function);
        if let Some(context) = context {
            self.introduce(context);
        }
        self.introducing |= new;
        if self.flush()? == Sent::Full {
            return Ok(Sent::Full);
        }
        match (&mut self.road, &span.batch.items) {
            (Road::Ring(rings, _), Items::Inline { .. }) => match rings.send_items(span) {
                items if items == span.len() => Ok(Sent::Taken),
                items => Ok(Sent::Part(items)),
            },
            (Road::Ring(..), Items::Blob(blob)) => self.send_beside(span, blob),
            (Road::Socket(road), Items::Inline { .. }) => {
                let head = Head::run(span, number.0);
                road.send(head.as_bytes(), span.bytes().expect("inline items have bytes"), None)
            }
            (Road::Socket(road), Items::Blob(blob)) => {
                road.send(Head::run(span, number.0).as_bytes(), &[], Some(blob.as_fd()))
            }
        }
    }

    /// Sends one item whose bytes do not fit the rings.
    fn send_beside(&mut self, span: &Span, blob: &Blob) -> io::Result<Sent> {
        let Road::Ring(rings, _) = &mut self.road else { unreachable!("asked of rings only") };
        if !rings.has_room_beside(span) {
            return Ok(Sent::Full);
        }
        let Some(number) = attach(&self.child, &mut self.attachments_sent, blob.as_fd())? else {
            return stuck_unless_busy(rings);
        };
        rings.send_attached_item(span, number);
        Ok(Sent::Taken)
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

    /// Takes back what the worker has not begun. What is not work is told again, behind what waits.
    ///
    /// Over a socket, not from under a frame that brings something new, as long as the worker lives: it might read the
    /// frame, and the news be taken away. It holds nothing else then.
    pub(crate) fn take_back(&mut self, is_dead: bool) -> Result<Unbegun, String> {
        match &mut self.road {
            Road::Socket(_) if self.introducing && !is_dead => Ok(Unbegun::Frames(Vec::new())),
            Road::Ring(rings, _) => {
                let unbegun = rings.recall().map_err(|broken| broken.0.to_owned())?;
                // In front: it was on the road before what waits for the road.
                for note in unbegun.notes.into_iter().rev() {
                    self.notes.push_front(note);
                }
                Ok(Unbegun::Last(unbegun.items))
            }
            Road::Socket(road) => {
                let unread = road.recall().map_err(|error| format!("its road broke: {error}"))?;
                let mut numbers = Vec::new();
                for note in unread {
                    match run_number(&note.frame) {
                        Some(number) => numbers.push(number),
                        None => self.notes.push_back(note),
                    }
                }
                Ok(Unbegun::Frames(numbers))
            }
        }
    }

    /// Sends what waits for room, as far as there is any.
    pub(crate) fn flush(&mut self) -> io::Result<Sent> {
        while let Some(note) = self.notes.pop_front() {
            let attached = note.attached.as_ref().map(AsFd::as_fd);
            let refused = match &mut self.road {
                Road::Socket(road) => match road.send(&note.frame, &[], attached)? {
                    Sent::Full => Some(note),
                    _ => None,
                },
                Road::Ring(rings, _) if !rings.has_room_for(&note) => Some(note),
                Road::Ring(rings, _) => {
                    let number = match attached {
                        None => None,
                        Some(fd) => match attach(&self.child, &mut self.attachments_sent, fd)? {
                            Some(number) => Some(number),
                            None => {
                                self.notes.push_front(note);
                                return stuck_unless_busy(rings);
                            }
                        },
                    };
                    rings.send_note(note, number);
                    None
                }
            };
            if let Some(note) = refused {
                self.notes.push_front(note);
                return Ok(Sent::Full);
            }
        }
        Ok(Sent::Taken)
    }

    /// How far it has come with its next item, for all that its road tells.
    pub(crate) fn progress(&self) -> Progress {
        match &self.road {
            Road::Ring(rings, _) => rings.progress(),
            Road::Socket(_) => Progress::Runs { since: None },
        }
    }

    /// The memory it has, if that is known and was not looked at a moment ago. `at_leisure`: nobody waits for it.
    pub(crate) fn check_rss(&mut self, at_leisure: bool, now: Instant) -> Option<u64> {
        let lately = self.weighed_at.is_some_and(|weighed_at| now < weighed_at + WEIGH_EVERY);
        if lately && !at_leisure {
            return None;
        }
        self.weighed_at = Some(now);
        resident_bytes(self.child.pid())
    }

    /// Whether the process can still be at our work: whether it has its end of the road. One that has executed another
    /// program has not.
    pub(crate) fn is_at_work(&self) -> bool {
        let pid = self.child.pid();
        match &self.road {
            Road::Ring(..) => {
                std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains(ring::MEMORY_NAME))
            }
            Road::Socket(road) => {
                let of = |fd: RawFd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
                let road = of(road.worker_end().as_raw_fd());
                std::fs::read_dir(format!("/proc/{pid}/fd"))
                    .is_ok_and(|mut fds| fds.any(|fd| fd.is_ok_and(|fd| std::fs::read_link(fd.path()).ok() == road)))
            }
        }
    }

    /// Something has come on the control socket that belongs to an answer in the rings.
    pub(crate) fn attached(&mut self, number: u32, fd: Option<PrivateFd>) {
        match fd {
            Some(fd) => self.attachments.push_back((number, fd)),
            None => self.attachment_lost = true,
        }
    }

    /// How much has come and was not asked for.
    pub(crate) fn attachments(&self) -> usize {
        self.attachments.len()
    }

    /// What belongs to this answer, if it has come.
    pub(crate) fn take_attachment(&mut self, number: u32) -> Option<PrivateFd> {
        let position = self.attachments.iter().position(|(found, _)| *found == number)?;
        // Those before it belong to answers that did not come: a worker that numbers wrongly gains nothing.
        self.attachments.drain(..=position).next_back().map(|(_, fd)| fd)
    }

    /// Whether an attachment was lost since the last call, and with it the bytes of an answer.
    pub(crate) fn take_loss(&mut self) -> bool {
        std::mem::take(&mut self.attachment_lost)
    }

    fn define(&mut self, function: FunctionId) {
        if !self.functions.insert(function) {
            return;
        }
        let definition = LocalFunction::of(function).definition().expect("a function with a number was located");
        let mut frame = Head::define(function).as_bytes().to_vec();
        frame.extend(control::encode(&definition));
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

    /// Whether its rings hold answers that nobody has looked at.
    pub(crate) fn has_news(&self) -> bool {
        match &self.road {
            Road::Ring(rings, _) => !rings.is_idle() && rings.has_news(),
            Road::Socket(_) => false,
        }
    }

    /// Whether something waits for room.
    pub(crate) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    fn note(&mut self, frame: Vec<u8>, attached: Option<Attached>) {
        self.notes.push_back(Note { frame, attached });
    }
}

/// The memory of a process that lies in RAM, shared pages included; proc_pid_statm(5).
fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(u64::try_from(page).ok()?)
}

/// Sends a descriptor beside the rings; its number, or `None` if there is no room.
fn attach(child: &Child, sent: &mut u32, fd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let number = *sent;
    match child.control().try_send(&[IoSlice::new(&number.to_le_bytes())], &[fd])? {
        true => {
            *sent = number.wrapping_add(1);
            Ok(Some(number))
        }
        false => Ok(None),
    }
}

/// The control socket is full. While the worker has something to do it will read on; else nobody ever will.
fn stuck_unless_busy(rings: &ring::parent::Road) -> io::Result<Sent> {
    match rings.is_idle() {
        false => Ok(Sent::Full),
        true => Err(io::Error::new(io::ErrorKind::WouldBlock, "its control socket is full of what it never asked for")),
    }
}

/// Which frame an order is, if it is work.
fn run_number(order: &[u8]) -> Option<FrameNumber> {
    match frame::parse_order(order) {
        Ok(Order::Run { number, .. }) => Some(FrameNumber(number)),
        _ => None,
    }
}
