//! The parent's end of a ring link: the rings, the bell, and the control socket for what does not fit the rings.
//!
//! Also called: out-of-band data.

use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;

use start_methods::Socket;

use crate::sys::bell::Bell;
use crate::transport::arrival::ServiceTime;
use crate::transport::note;
use crate::transport::note::Attachment;
use crate::transport::note::Note;
use crate::transport::note::Sent;
use crate::transport::ring::parent::ParentEnd;
use crate::values::blob::Blob;
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
            Items::Blob(blob) => self.send_attached_item(control, span, blob),
        }
    }

    fn send_attached_item(&mut self, control: &Socket, span: &Span, blob: &Blob) -> io::Result<Sent> {
        if !self.rings.has_room_beside(span) {
            return Ok(Sent::Full);
        }
        // The descriptor goes first: a worker that reads the record finds it on the control socket.
        let Some(number) = self.attach(control, blob)? else { return self.stuck_unless_busy() };
        self.rings.send_attached_item(span, number);
        Ok(Sent::Taken)
    }

    /// Sends an order; gives it back if there is no room.
    ///
    /// # Errors
    ///
    /// There will never be room, or the control socket is broken. The order is dropped, and the worker is to be ended.
    pub(crate) fn send_note(&mut self, control: &Socket, note: Note) -> io::Result<Option<Note>> {
        if !self.rings.has_room_for(&note) {
            return Ok(Some(note));
        }
        let number = match &note.attached {
            None => None,
            Some(blob) => match self.attach(control, blob)? {
                Some(number) => Some(number),
                None => return self.stuck_unless_busy().map(|_full| Some(note)),
            },
        };
        self.rings.send_note(note, number);
        Ok(None)
    }

    /// Sends the file of a blob on the control socket; its number, or `None` if there is no room.
    fn attach(&mut self, control: &Socket, blob: &Blob) -> io::Result<Option<u32>> {
        let number = self.attachments_sent;
        let file = note::file_of(blob);
        let attached: Attachment<'_> = file.as_ref().map(AsFd::as_fd);
        match control.try_send(&[IoSlice::new(&number.to_le_bytes())], attached.as_slice())? {
            true => {
                self.attachments_sent = number.wrapping_add(1);
                Ok(Some(number))
            }
            false => Ok(None),
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
