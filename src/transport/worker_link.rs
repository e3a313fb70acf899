//! The worker's end of its link, of either kind.
//!
//! ```text
//!   begin ──▶ read ──▶ (execute or run) ──▶ answer ──▶ finish ──▶ the next has begun ──▶ read …
//!     ▲                                                  │
//!     └──────────────────────────────────────────────────┘ there is none
//! ```

use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
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
use crate::transport::note::Attachment;
use crate::transport::record::Idle;
use crate::transport::record::Next;
use crate::transport::record::NextNumber;
use crate::transport::record::Record;
use crate::transport::record::broken;
use crate::transport::ring;
use crate::transport::socket;
use crate::values::blob::BlobFd;
use crate::values::number::NumberBytes;

/// The link to the parent.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    end: End,
    control: Rc<Socket>,
    /// Numbers the descriptors that travel beside the rings, on the control socket.
    attachments_sent: u32,
}

/// What travels beside a record.
#[derive(Debug)]
pub(crate) enum Beside {
    Fd(PrivateFd),
    /// It did not arrive.
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
        Ok(Self { end, control, attachments_sent: 0 })
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

    /// The descriptor that travels beside a record by this number.
    ///
    /// # Errors
    ///
    /// The message has none: a bug in the parent.
    pub(crate) fn attachment(&mut self, number: u32) -> io::Result<Beside> {
        match &mut self.end {
            End::Ring(_) => receive_attachment(&self.control, number),
            End::Socket(socket) => Ok(socket.take_attachment().map_or(Beside::Missing, Beside::Fd)),
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

    /// As [`answer`](Self::answer), with bytes that are in a file.
    ///
    /// # Errors
    ///
    /// The file cannot be sent.
    pub(crate) fn answer_attached(&mut self, kind: AnswerKind, file: &BlobFd<'_>) -> io::Result<()> {
        let number = match &self.end {
            End::Ring(_) => self.attachments_sent,
            End::Socket(socket) => socket.sequence(),
        };
        self.attachments_sent = number.wrapping_add(1);
        failpoint!("before_attachment");
        // Before the answer: once the parent sees that, the descriptor is there.
        report(&self.control, &Report::Attachment { number }, Some(file.as_fd()))?;
        failpoint!("after_attachment");
        match &mut self.end {
            End::Ring(rings) => rings.answer_attached(kind, number),
            End::Socket(socket) => {
                socket.answer_attached(kind);
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
pub(crate) fn report(control: &Socket, report: &Report, attached: Attachment<'_>) -> io::Result<()> {
    control.send(&[IoSlice::new(&control::encode(report))], attached.as_slice())
}

/// Reads up to the descriptor with this number. Those before it belong to work that was taken back.
fn receive_attachment(control: &Socket, number: u32) -> io::Result<Beside> {
    loop {
        let (mut buffer, mut fds) = ([0; 4], Vec::new());
        match control.recv_or_drop_fds(&mut buffer, &mut fds)? {
            Received::Message(4) if u32::from_le_bytes(buffer) == number => {
                return Ok(fds.pop().map_or(Beside::Missing, Beside::Fd));
            }
            Received::Message(_) | Received::Empty => {}
            Received::Closed => return Ok(Beside::ParentGone),
        }
    }
}
