//! The worker's end of its link, of either kind.
//!
//! ```text
//!   begin ──▶ read ──▶ (execute or run) ──▶ answer ──▶ finish ──▶ the next has begun ──▶ read …
//!     ▲                                                  │
//!     └──────────────────────────────────────────────────┘ there is none
//! ```

use std::io;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use start_methods::PrivateFd;
use start_methods::Received;
use start_methods::Socket;

use crate::sys::clock;
use crate::sys::failpoint::failpoint;
use crate::transport::control;
use crate::transport::control::LinkKind;
use crate::transport::control::Report;
use crate::transport::frame::AnswerKind;
use crate::transport::record::Idle;
use crate::transport::record::Next;
use crate::transport::record::NextNumber;
use crate::transport::record::Record;
use crate::transport::record::broken;
use crate::transport::ring;
use crate::transport::socket;
use crate::values::number::NumberBytes;
use crate::values::parcel::Parcel;
use crate::values::parcel::ParcelFds;
use crate::values::parcel::ReceivedFds;

/// The link to the parent.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    end: End,
    control: Rc<Socket>,
    /// Numbers the descriptors that travel beside the rings, on the control socket.
    attachments_sent: u32,
    /// The number of the next attachment on the control socket.
    next_attachment: u32,
}

/// What travels beside a record.
#[derive(Debug)]
pub(crate) enum Beside {
    Fds(ReceivedFds),
    /// They did not arrive.
    Missing,
    ParentGone,
}

#[derive(Debug)]
enum End {
    Ring(Box<ring::worker::WorkerEnd>),
    Socket(Box<socket::WorkerEnd>),
}

impl WorkerLink {
    /// The end of a link of this kind, from the descriptors that this worker was given.
    ///
    /// # Errors
    ///
    /// There are not enough of them, or the memory cannot be mapped here.
    pub(crate) fn connect(
        kind: LinkKind,
        fds: &mut impl Iterator<Item = PrivateFd>,
        control: Rc<Socket>,
    ) -> io::Result<Self> {
        let mut fd = || fds.next().ok_or_else(|| broken("started without a link"));
        let end = match kind {
            LinkKind::Socket => End::Socket(Box::new(socket::WorkerEnd::from_fd(fd()?))),
            LinkKind::Ring => End::Ring(Box::new(ring::worker::WorkerEnd::new(fd()?, fd()?)?)),
        };
        Ok(Self { end, control, attachments_sent: 0, next_attachment: 0 })
    }

    /// Never migrates this worker to another processor from now on: the user's code may forbid the system calls for it.
    pub(crate) fn forbid_migration(&mut self) {
        if let End::Ring(rings) = &mut self.end {
            rings.forbid_migration();
        }
    }

    /// Waits for the next record and begins it; false if the parent is gone. `idle` says what to do when none has come for a
    /// while, if there is something to do.
    ///
    /// # Errors
    ///
    /// What came is no record: a bug in the parent.
    pub(crate) fn begin(&mut self, idle: Option<Idle<'_>>) -> io::Result<bool> {
        match &mut self.end {
            End::Ring(rings) => {
                rings.begin(idle);
                Ok(true)
            }
            End::Socket(socket) => socket.begin(idle),
        }
    }

    /// Reads the record that has begun, which is then the [current](Self::current) one.
    ///
    /// # Errors
    ///
    /// It is not one: a bug in the parent.
    #[inline]
    pub(crate) fn read(&mut self) -> io::Result<()> {
        match &mut self.end {
            End::Ring(rings) => rings.read(),
            End::Socket(socket) => socket.read(),
        }
    }

    /// The record that was read last. It stays in the link: returned by value through nested results, it would be copied
    /// for each item in pieces that stall the processor.
    #[inline]
    pub(crate) fn current(&self) -> &Record {
        match &self.end {
            End::Ring(rings) => rings.current(),
            End::Socket(socket) => socket.current(),
        }
    }

    /// The bytes of the current record.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.end {
            End::Ring(rings) => rings.bytes(),
            End::Socket(socket) => socket.bytes(),
        }
    }

    /// The descriptors that travel beside a record by this number.
    ///
    /// # Errors
    ///
    /// The control socket holds what the parent does not send.
    pub(crate) fn attachment(&mut self, number: u32) -> io::Result<Beside> {
        match &mut self.end {
            End::Ring(_) => self.receive_attachment(number),
            End::Socket(socket) => Ok(socket.take_attachment().map_or(Beside::Missing, Beside::Fds)),
        }
    }

    /// Reads up to the attachment with this number. Those before it belong to work that was taken back.
    fn receive_attachment(&mut self, number: u32) -> io::Result<Beside> {
        loop {
            let (mut head, mut fds) = ([0; control::ATTACHMENT_HEAD], Vec::new());
            match self.control.recv_or_drop_fds(&mut head, &mut fds)? {
                Received::Message(control::ATTACHMENT_HEAD) => {}
                Received::Message(_) | Received::Empty => continue,
                Received::Closed => return Ok(Beside::ParentGone),
            }
            let (found, place) = control::parse_attachment_head(head).ok_or_else(|| broken("no attachment's place"))?;
            self.next_attachment = found.wrapping_add(1);
            if found == number {
                return Ok(ReceivedFds::split(fds, place).map_or(Beside::Missing, Beside::Fds));
            }
        }
    }

    /// Drops the attachments with numbers below `before` that were not received: they belong to work that was taken back,
    /// and were sent before this order.
    pub(crate) fn discard(&mut self, before: u32) {
        let mut bytes = Vec::new();
        // Numbers wrap, and those in the socket are close to each other. Those that a later one has passed are gone.
        while matches!(before.wrapping_sub(self.next_attachment), 1..=0x7fff_ffff) {
            match self.control.try_recv_bytes(&mut bytes, control::ATTACHMENT_HEAD) {
                Ok(Received::Message(_)) => self.next_attachment = self.next_attachment.wrapping_add(1),
                // A task has taken what is not its own.
                Ok(Received::Empty | Received::Closed) | Err(_) => self.next_attachment = before,
            }
        }
    }

    /// When the current record began, by CLOCK_MONOTONIC; or a little earlier, if those before it were quick.
    #[inline]
    pub(crate) fn began_ns(&self) -> u64 {
        match &self.end {
            End::Ring(rings) => rings.began_ns(),
            End::Socket(_) => clock::monotonic_ns(),
        }
    }

    /// The time of the current record begins, or begins anew.
    #[inline]
    pub(crate) fn show_start(&mut self) {
        if let End::Ring(rings) = &mut self.end {
            rings.show_start();
        }
    }

    /// Writes the answer to the item that has begun; waits while there is no room for it. The parent may take it once the
    /// item is [finished](Self::finish).
    ///
    /// # Errors
    ///
    /// It is longer than any answer may be.
    #[inline]
    pub(crate) fn answer(&mut self, kind: AnswerKind, bytes: &[u8]) -> io::Result<()> {
        match &mut self.end {
            End::Ring(rings) => rings.answer(kind, bytes),
            End::Socket(socket) => {
                socket.answer(kind, bytes);
                Ok(())
            }
        }
    }

    /// [Answers](Self::answer) the item with a number and [finishes](Self::finish) it, and reads the next one if that is a
    /// number of `wanted` bytes.
    #[inline]
    pub(crate) fn exchange_number(&mut self, answer: NumberBytes, wanted: usize) -> NextNumber {
        match &mut self.end {
            End::Ring(rings) => rings.exchange_number(answer, wanted),
            End::Socket(_) => NextNumber::Declined,
        }
    }

    /// As [`answer`](Self::answer), with a value that travels by itself, and its descriptors.
    ///
    /// # Errors
    ///
    /// The descriptors cannot be sent.
    pub(crate) fn answer_parcel(&mut self, kind: AnswerKind, parcel: &Parcel, fds: &ParcelFds<'_>) -> io::Result<()> {
        let number = match &self.end {
            End::Ring(_) => self.attachments_sent,
            End::Socket(socket) => socket.sequence(),
        };
        self.attachments_sent = number.wrapping_add(1);
        failpoint!("before_attachment");
        let fds = fds.borrowed();
        let count = u32::try_from(fds.len()).expect("a message carries few descriptors");
        // Before the answer: once the parent sees that, the descriptors are there.
        report(&self.control, &Report::Attachment { number, place: parcel.place(), fds: count }, &fds)?;
        failpoint!("after_attachment");
        match &mut self.end {
            End::Ring(rings) => rings.answer_attached(kind, number, parcel.frame_bytes()),
            End::Socket(socket) => {
                socket.answer_parcel(kind, parcel);
                Ok(())
            }
        }
    }

    /// The record is done: shows its answer, if it is an item, to the parent. Says what follows.
    ///
    /// # Errors
    ///
    /// The answer cannot be sent.
    #[inline]
    pub(crate) fn finish(&mut self) -> io::Result<Next> {
        match &mut self.end {
            End::Ring(rings) => Ok(rings.finish()),
            End::Socket(socket) => socket.finish(),
        }
    }
}

/// Sends a report on the control socket.
pub(crate) fn report(control: &Socket, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    control.send(&[IoSlice::new(&control::encode(report))], fds)
}
