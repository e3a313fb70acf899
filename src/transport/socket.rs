//! The link over a socket: one datagram per frame. The parent's large values travel with their frames by SCM_RIGHTS, the
//! worker's beside them, on the control socket.
//!
//! A pair of AF_UNIX SOCK_SEQPACKET sockets, apart from the control socket. The parent keeps **both** ends:
//!
//! - The parent can read what the worker has not read from the worker's own end. The kernel hands each datagram to
//!   exactly one reader, so each order is either read or recalled, and after a death the parent knows exactly which
//!   orders never arrived. (While the worker lives, it may read one order between two that are recalled.)
//! - The worker's end stays open when the worker dies, so there is no ECONNRESET, which this kind of socket reports
//!   *before* the data that is already queued.
//!
//! So end-of-file on the link does not report the worker's death; the pidfd does. The worker sees end-of-file when the
//! parent is gone, because the only copies of the parent's end are in the parent.

use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::RawFd;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use start_methods::Offered;
use start_methods::PrivateFd;
use start_methods::Received;
use start_methods::Socket;

use crate::transport::arrival::Arrival;
use crate::transport::arrival::LinkError;
use crate::transport::frame;
use crate::transport::frame::AnswerKind;
use crate::transport::frame::Body;
use crate::transport::frame::FRAME_MAX;
use crate::transport::frame::Head;
use crate::transport::frame::NotAFrame;
use crate::transport::frame::Order;
use crate::transport::frame::Placement;
use crate::transport::introduction::Introduced;
use crate::transport::note::Sent;
use crate::transport::record::Idle;
use crate::transport::record::Next;
use crate::transport::record::Record;
use crate::transport::record::broken;
use crate::values::parcel::BodyPlace;
use crate::values::parcel::Parcel;
use crate::values::parcel::ReceivedFds;
use crate::work::batch::ITEM_HEAD;
use crate::work::batch::split_item;

/// The parent's side.
#[derive(Debug)]
pub(crate) struct ParentEnd {
    ours: Socket,
    theirs: Socket,
    /// How many answers have been received.
    answers: u32,
}

impl ParentEnd {
    pub(crate) fn new() -> io::Result<Self> {
        let (mut ours, theirs) = Socket::pair()?;
        ours.distrust();
        Ok(Self { ours, theirs, answers: 0 })
    }

    /// What the worker must be given when it is started.
    pub(crate) fn worker_end(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }

    /// Readable when there are answers.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }

    pub(crate) fn send(&self, head: &[u8], body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<Sent> {
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        Ok(match self.ours.offer(&parts, fds)? {
            Offered::Taken => Sent::Taken,
            Offered::Full => Sent::Full,
            Offered::TooManyInFlight => Sent::TooManyInFlight,
        })
    }

    /// The next answer, if there is one. The number of one that is attached is its sequence number.
    pub(crate) fn next_answer<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Result<Option<Arrival<'a>>, LinkError> {
        let len = match self.recv(buffer) {
            Ok(Some(len)) => len,
            Ok(None) => return Ok(None),
            // No worker sends descriptors here.
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                return Err(LinkError::Nonsense("descriptors on its link".to_owned()));
            }
            Err(_) => return Err(LinkError::Closed),
        };
        // A message that is no answer was written by a task: the worker's own answers still arrive, and are counted.
        let answer = frame::parse_answer(&buffer[..len])
            .map_err(|NotAFrame(detail)| LinkError::Nonsense(format!("an answer {detail}")))?;
        if answer.sequence != self.answers {
            return Err(LinkError::Broken(format!("answer {} out of turn", answer.sequence)));
        }
        let number = self.count_answer();
        Ok(Some(match answer.body {
            Body::Inline(bytes) => Arrival::Answer { kind: answer.kind, bytes },
            Body::Attached => Arrival::Attached { kind: answer.kind, number, bytes: &[] },
            Body::Carrying(bytes) => Arrival::Attached { kind: answer.kind, number, bytes },
        }))
    }

    /// The length of the next datagram from the worker, if there is one. No descriptor belongs to it.
    ///
    /// # Errors
    ///
    /// `ConnectionAborted`: a task has shut the socket down, since both ends are open here and this is no death.
    pub(crate) fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match self.ours.try_recv_into(buffer, FRAME_MAX, &mut Vec::new())? {
            Received::Message(len) => Ok(Some(len)),
            Received::Empty => Ok(None),
            Received::Closed => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    fn count_answer(&mut self) -> u32 {
        let number = self.answers;
        self.answers = number.wrapping_add(1);
        number
    }

    /// Takes back every order that the worker has not read, oldest first, without their descriptors: there may be no room
    /// for those.
    pub(crate) fn recall(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut unread = Vec::new();
        let mut buffer = Vec::new();
        loop {
            match self.theirs.try_recv_bytes(&mut buffer, FRAME_MAX)? {
                Received::Message(_) => unread.push(buffer.clone()),
                Received::Empty | Received::Closed => return Ok(unread),
            }
        }
    }

    /// Whether the process still has the worker's end open.
    pub(crate) fn is_held_by(&self, pid: u32) -> bool {
        let file = |fd: RawFd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
        let ours = file(self.theirs.as_fd().as_raw_fd());
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .is_ok_and(|mut fds| fds.any(|fd| fd.is_ok_and(|fd| std::fs::read_link(fd.path()).ok() == ours)))
    }
}

/// Where the bytes are of a value beside which descriptors travel.
fn place_of(body: Body<'_>) -> Option<BodyPlace> {
    match body {
        Body::Inline(_) => None,
        Body::Attached => Some(BodyPlace::File),
        Body::Carrying(_) => Some(BodyPlace::Frame),
    }
}

/// An answer that is written and not sent.
#[derive(Debug)]
struct Staged {
    kind: AnswerKind,
    placement: Placement,
}

/// The worker's side. It splits a frame of several items into records, so that the worker's code is the same for both
/// kinds of link.
#[derive(Debug)]
pub(crate) struct WorkerEnd {
    socket: Socket,
    introduced: Introduced,
    /// The frame that is being processed, in a buffer that holds any frame.
    frame: Vec<u8>,
    len: usize,
    /// The choice of function that stands in the head of a frame of items, as an order of its own.
    select: Option<Head>,
    /// Where the next records of the frame lie.
    pending: Pending,
    current: Record,
    /// Where the bytes of the frame's value are, if descriptors travel beside it, and those that have arrived.
    beside: Option<BodyPlace>,
    fds: Vec<PrivateFd>,
    /// How many answers have been sent.
    sequence: u32,
    answer: Vec<u8>,
    staged: Option<Staged>,
}

/// What is left of a frame.
#[derive(Clone, Debug)]
enum Pending {
    Nothing,
    /// The frame is one order.
    Order,
    /// The choice of function, and then the items in this range, or one item that is attached.
    Select(Items),
    Items(Items),
}

#[derive(Clone, Debug)]
enum Items {
    Inline(Range<usize>),
    /// The item is in this range, or in a file, and travels with descriptors.
    Attached(Range<usize>),
}

impl WorkerEnd {
    pub(crate) fn from_fd(fd: PrivateFd) -> Self {
        Self {
            socket: Socket::from_fd(fd),
            introduced: Introduced::default(),
            frame: vec![0; FRAME_MAX],
            len: 0,
            select: None,
            pending: Pending::Nothing,
            current: Record::default(),
            beside: None,
            fds: Vec::new(),
            sequence: 0,
            answer: Vec::new(),
            staged: None,
        }
    }

    /// Waits for the next frame; false if the parent is gone. `idle` says what to do when none has come for a while, if there
    /// is something to do.
    ///
    /// # Errors
    ///
    /// What came is no frame: a bug in the parent.
    pub(crate) fn begin(&mut self, idle: Option<Idle<'_>>) -> io::Result<bool> {
        if let Some(idle) = idle {
            let time = PollTimeout::try_from(idle.after).unwrap_or(PollTimeout::MAX);
            // An error is as good as a frame: the receive below waits without poll.
            if poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], time) == Ok(0) {
                (idle.act)();
            }
        }
        loop {
            self.fds.clear();
            let len = match self.socket.recv_or_drop_fds(&mut self.frame, &mut self.fds)? {
                Received::Message(len) => len,
                Received::Empty | Received::Closed => return Ok(false),
            };
            if self.accept(len)? {
                return Ok(true);
            }
        }
    }

    /// A frame of this length has come. False if it is passed over.
    fn accept(&mut self, len: usize) -> io::Result<bool> {
        let order = frame::parse_order(&self.frame[..len]).map_err(|NotAFrame(detail)| broken(detail))?;
        if !self.introduced.admits(&order) {
            return Ok(false);
        }
        self.len = len;
        self.beside = None;
        self.select = None;
        self.pending = match order {
            Order::Run { target, body, .. } => {
                self.select = Some(Head::select(target));
                self.beside = place_of(body);
                Pending::Select(match body {
                    Body::Inline(items) => Items::Inline(len - items.len()..len),
                    Body::Attached => Items::Attached(0..0),
                    Body::Carrying(item) => Items::Attached(len - item.len()..len),
                })
            }
            Order::Context { body, .. } => {
                self.beside = place_of(body);
                Pending::Order
            }
            Order::Select { .. } | Order::Discard { .. } => {
                return Err(broken("an order of a link that carries single items"));
            }
            Order::Define { .. } | Order::Forget { .. } | Order::Stop => Pending::Order,
        };
        Ok(true)
    }

    /// Reads the record that has begun, which is then the [current](Self::current) one.
    ///
    /// # Errors
    ///
    /// It is not one: a bug in the parent.
    pub(crate) fn read(&mut self) -> io::Result<()> {
        self.current = self.next_record()?;
        Ok(())
    }

    fn next_record(&mut self) -> io::Result<Record> {
        match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Nothing => Err(broken("a record where there is none")),
            Pending::Order => {
                let attachment = self.beside.map(|_| self.sequence);
                Ok(Record { is_order: true, attachment, range: 0..self.len })
            }
            Pending::Select(items) => {
                self.pending = Pending::Items(items);
                let len = self.select.as_ref().map_or(0, Head::len);
                Ok(Record { is_order: true, attachment: None, range: 0..len })
            }
            Pending::Items(Items::Attached(range)) => {
                self.select = None;
                Ok(Record { is_order: false, attachment: Some(self.sequence), range })
            }
            Pending::Items(Items::Inline(range)) => {
                self.select = None;
                let (item, rest) = self.split(range)?;
                if !rest.is_empty() {
                    self.pending = Pending::Items(Items::Inline(rest));
                }
                Ok(Record { is_order: false, attachment: None, range: item })
            }
        }
    }

    /// The first item in this range of the frame, and the range behind it.
    fn split(&self, range: Range<usize>) -> io::Result<(Range<usize>, Range<usize>)> {
        let (item, _) =
            split_item(&self.frame[range.clone()]).ok_or_else(|| broken("an item is longer than the frame"))?;
        let start = range.start + ITEM_HEAD;
        let end = start + item.len();
        Ok((start..end, end..range.end))
    }

    /// The bytes of the record.
    pub(crate) fn bytes(&self) -> &[u8] {
        let Record { is_order, range, .. } = &self.current;
        match &self.select {
            Some(select) if *is_order => &select.as_bytes()[range.clone()],
            _ => &self.frame[range.clone()],
        }
    }

    /// The record that was read last.
    pub(crate) fn current(&self) -> &Record {
        &self.current
    }

    /// The descriptors that came with the frame; `None` if there is none.
    pub(crate) fn take_attachment(&mut self) -> Option<ReceivedFds> {
        ReceivedFds::split(std::mem::take(&mut self.fds), self.beside?)
    }

    /// Writes the answer to the item that has begun. [`finish`](Self::finish) sends it.
    pub(crate) fn answer(&mut self, kind: AnswerKind, bytes: &[u8]) {
        self.answer.clear();
        self.answer.extend_from_slice(bytes);
        self.staged = Some(Staged { kind, placement: Placement::Inline });
    }

    /// As [`answer`](Self::answer), with a parcel whose descriptors have been sent beside this link.
    pub(crate) fn answer_parcel(&mut self, kind: AnswerKind, parcel: &Parcel) {
        self.answer.clear();
        self.answer.extend_from_slice(parcel.frame_bytes());
        self.staged = Some(Staged { kind, placement: Placement::of(parcel) });
    }

    /// The number of the next answer.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The record is done: sends its answer, if it is an item, and waits until the parent's side has taken it. Says what
    /// follows.
    pub(crate) fn finish(&mut self) -> io::Result<Next> {
        if let Some(Staged { kind, placement }) = self.staged.take() {
            let head = Head::answer(kind, self.sequence, placement);
            self.sequence = self.sequence.wrapping_add(1);
            self.socket.send(&[IoSlice::new(head.as_bytes()), IoSlice::new(&self.answer)], &[])?;
        }
        Ok(match self.pending {
            Pending::Nothing => Next::Wait,
            _ => Next::HasBegun,
        })
    }
}
