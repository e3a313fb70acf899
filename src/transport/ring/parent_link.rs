//! The parent's end of a ring link: the rings, the bell, and the control socket for what does not fit the rings.
//!
//! Also called: out-of-band data.

use std::io;
use std::io::IoSlice;

use start_methods::Offered;
use start_methods::Socket;

use crate::sys::bell::Bell;
use crate::transport::arrival::ServiceTime;
use crate::transport::control;
use crate::transport::note;
use crate::transport::note::Note;
use crate::transport::note::Sent;
use crate::transport::ring::parent::ParentEnd;
use crate::values::parcel::Parcel;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::Span;

/// The rings and what belongs to them.
#[derive(Debug)]
pub(crate) struct RingLink {
    pub(crate) rings: Box<ParentEnd>,
    /// The worker rings it to wake the parent.
    pub(crate) bell: Bell,
    /// Numbers the descriptors that travel on the control socket.
    attachments_sent: u32,
    /// The job of the last item that was answered, and how many items had been answered before its first one.
    measured: Option<(JobId, u64)>,
}

/// Whether an attachment was sent.
enum Attached {
    As(u32),
    Not(Sent),
}

impl RingLink {
    pub(crate) fn new(rings: ParentEnd) -> io::Result<Self> {
        Ok(Self { rings: Box::new(rings), bell: Bell::new()?, attachments_sent: 0, measured: None })
    }

    /// The last `items` that were answered are of this job.
    pub(crate) fn answered(&mut self, job: JobId, items: u32) {
        if self.measured.is_none_or(|(measured, _)| measured != job) {
            self.measured = Some((job, self.rings.answered() - u64::from(items)));
        }
    }

    /// What the worker has measured since the last call; `None` if that includes no item of the job of the last answer.
    pub(crate) fn take_service_time(&mut self) -> Option<ServiceTime> {
        let (_, before) = self.measured?;
        self.rings.take_service_time(before)
    }

    /// Sends as many of the items as there is room for.
    pub(crate) fn send_items(&mut self, control: &Socket, span: &Span) -> io::Result<Sent> {
        match &span.batch.items {
            Items::Inline { .. } | Items::One(_) => match self.rings.send_items(span) {
                items if items == span.len() => Ok(Sent::Taken),
                items => Ok(Sent::Part(items)),
            },
            Items::Parcel(parcel) => self.send_attached_item(control, span, parcel),
        }
    }

    fn send_attached_item(&mut self, control: &Socket, span: &Span, parcel: &Parcel) -> io::Result<Sent> {
        if !self.rings.has_room_beside(span) {
            return Ok(Sent::Full);
        }
        // The descriptors go first: a worker that reads the record finds them on the control socket.
        match self.attach(control, parcel)? {
            Attached::As(number) => self.rings.send_attached_item(span, number),
            Attached::Not(sent) => return Ok(sent),
        }
        Ok(Sent::Taken)
    }

    /// Sends an order; gives it back if there is no room, and says for what.
    ///
    /// # Errors
    ///
    /// There will never be room, or the control socket is broken. The order is dropped, and the worker is to be ended.
    pub(crate) fn send_note(&mut self, control: &Socket, note: Note) -> io::Result<Option<(Note, Sent)>> {
        if !self.rings.has_room_for(&note) {
            return Ok(Some((note, Sent::Full)));
        }
        let number = match &note.attached {
            None => None,
            Some(parcel) => match self.attach(control, parcel)? {
                Attached::As(number) => Some(number),
                Attached::Not(sent) => return Ok(Some((note, sent))),
            },
        };
        self.rings.send_note(note, number);
        Ok(None)
    }

    /// The number that the next attachment will have.
    pub(crate) fn next_attachment(&self) -> u32 {
        self.attachments_sent
    }

    /// Sends the descriptors of a parcel on the control socket.
    fn attach(&mut self, control: &Socket, parcel: &Parcel) -> io::Result<Attached> {
        let number = self.attachments_sent;
        let fds = note::fds_of(parcel);
        let head = control::attachment_head(number, parcel.place());
        match control.offer(&[IoSlice::new(&head)], &note::borrowed(&fds))? {
            Offered::Taken => {
                self.attachments_sent = number.wrapping_add(1);
                Ok(Attached::As(number))
            }
            Offered::Full => Ok(Attached::Not(self.stuck_unless_busy()?)),
            Offered::TooManyInFlight => Ok(Attached::Not(Sent::TooManyInFlight)),
        }
    }

    /// The control socket is full. A busy worker will read from it; an idle one never will.
    fn stuck_unless_busy(&self) -> io::Result<Sent> {
        match self.rings.is_idle() {
            false => Ok(Sent::Full),
            true => {
                let message = "its control socket is full of what it never asked for";
                Err(io::Error::new(io::ErrorKind::WouldBlock, message))
            }
        }
    }
}
