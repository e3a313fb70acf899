//! What workers send on their control sockets: their hello, whether they are ready, descriptors, last words.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use log::Level;
use nix::errno::Errno;
use start_methods::PrivateFd;
use start_methods::Received;
use start_methods::StartError;

use crate::engine::state::Engine;
use crate::engine::worker_handle::Greeting;
use crate::engine::workers::Descriptor;
use crate::error::PoolError;
use crate::schedule::WorkerId;
use crate::transport::answer::panic_of;
use crate::transport::control;
use crate::transport::control::Report;
use crate::transport::frame::FRAME_MAX;
use crate::values::blob::BlobCache;
use crate::values::parcel::Arrived;
use crate::values::parcel::BodyPlace;
use crate::values::parcel::ReceivedFds;

/// Messages taken from one control socket before other workers are served.
const REPORTS_MAX: usize = 64;
/// How many messages that make no sense are tolerated before their sender is killed.
const NONSENSE_MAX: usize = 64;

/// Whether the table of this process had room for a descriptor that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// Another descriptor was closed for it, and must be opened again.
    MadeForThis,
}

/// The descriptors of a report, and the room that they found.
#[derive(Debug)]
struct Beside {
    fds: Vec<PrivateFd>,
    room: Room,
}

/// Why a control socket is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It has something.
    Events,
    /// The attachment of an answer that is being taken in.
    Answer,
}

impl Engine {
    /// The control socket has a hello, a report, or its end.
    pub(super) fn on_control(&mut self, worker: WorkerId) {
        self.read_control(worker, Purpose::Events);
    }

    pub(super) fn read_control(&mut self, worker: WorkerId, purpose: Purpose) {
        let Some(handle) = self.workers.get_mut(worker) else { return };
        if let Greeting::Awaited(_) = handle.greeting {
            // In this order: what the worker sent before it closed the socket is there when the socket is closed.
            let is_closed = handle.child.is_silenced();
            match handle.child.try_hello() {
                Ok(Some(())) => {
                    let ready_due = self.initializer_timeout.and_then(|timeout| Instant::now().checked_add(timeout));
                    handle.greeting = Greeting::Hello { ready_due };
                    self.workers.rearm(worker);
                }
                Ok(None) if !is_closed => return,
                Ok(None) | Err(StartError::DiedBeforeHello { .. }) => {
                    // Its pidfd tells how it ended. If it does not end, it has become another program.
                    self.workers.unwatch(worker, Descriptor::Control);
                    self.workers.kill_soon(worker);
                    return;
                }
                Err(error) => return self.workers.kill_for(worker, error.into(), &mut self.effects),
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..REPORTS_MAX {
            if !self.on_message(worker, &mut buffer, purpose) || self.has_come(worker, purpose) {
                break;
            }
        }
        self.buffer = buffer;
    }

    /// Whether the attachment has come, or was lost, that an answer waits for.
    fn has_come(&self, worker: WorkerId, purpose: Purpose) -> bool {
        let link = self.workers.get(worker).map(|handle| &handle.link);
        purpose == Purpose::Answer && link.is_none_or(|link| link.attachments.len() > 0 || link.attachments.has_loss())
    }

    /// The next message on the control socket; false if there is none.
    fn on_message(&mut self, worker: WorkerId, buffer: &mut Vec<u8>, purpose: Purpose) -> bool {
        let Some(handle) = self.workers.get_mut(worker) else { return false };
        let mut fds = Vec::new();
        let control = handle.child.control();
        let mut received = control.try_recv_or_leave(buffer, FRAME_MAX, &mut fds);
        let mut room = Room::Enough;
        // Unless another thread takes the number that was freed, the first attempt succeeds.
        while is_table_full(&received) && self.cache.make_room() {
            room = Room::MadeForThis;
            received = control.try_recv_or_leave(buffer, FRAME_MAX, &mut fds);
        }
        match received {
            Ok(Received::Message(_)) => self.on_report(worker, buffer, Beside { fds, room }, purpose),
            Ok(Received::Empty) => return false,
            Err(_) if is_table_full(&received) => {
                // Not left there: the socket would stay readable, and the driver would never sleep.
                let taken = control.try_recv_bytes(buffer, FRAME_MAX);
                debug_assert!(taken.is_ok(), "it was there a moment ago");
                handle.link.attachments.lose();
            }
            Ok(Received::Closed) | Err(_) => {
                self.on_control_closed(worker);
                return false;
            }
        }
        true
    }

    /// The worker is about to end, or a task has shut what is not its own, or executed another program.
    fn on_control_closed(&mut self, worker: WorkerId) {
        // At its end it would stay readable.
        self.workers.unwatch(worker, Descriptor::Control);
        self.dismiss(worker);
        // One that has nothing left to run has been given its last moment already, wherever it is.
        if self
            .workers
            .get(worker)
            .is_some_and(|handle| handle.kill_at.is_none() && !handle.link.is_held_by(handle.pid()))
        {
            self.workers.kill_soon(worker);
        }
    }

    fn on_report(&mut self, worker: WorkerId, bytes: &[u8], beside: Beside, purpose: Purpose) {
        let Some(handle) = self.workers.get_mut(worker) else { return };
        match (control::parse_report(bytes), handle.greeting) {
            (Ok(Report::Attachment { number, place, fds }), Greeting::Ready)
                if fds > 0 && usize::try_from(fds) == Ok(beside.fds.len()) =>
            {
                self.on_attachment(worker, number, place, beside, purpose);
            }
            (Ok(report), _) if !beside.fds.is_empty() => {
                // Each counts: they fill the table of this process.
                handle.nonsense = handle.nonsense.saturating_add(beside.fds.len());
                self.on_nonsense(worker, format!("{report:?} with {} descriptors", beside.fds.len()));
            }
            // Once: the process aborts behind it.
            (Ok(Report::LastWords(record)), _) if handle.last_words.is_none() => {
                handle.last_words = Some(Box::new(panic_of(record, handle.pid())));
            }
            (Ok(Report::Ready), Greeting::Hello { .. }) => {
                handle.greeting = Greeting::Ready;
                self.observer.up(handle.who(worker), &mut self.effects);
                self.schedule.ready(worker, Instant::now());
            }
            (Ok(Report::InitializerFailed { message }), Greeting::Hello { .. }) => {
                self.workers.kill_for(worker, PoolError::Initializer { message }, &mut self.effects);
            }
            (Ok(Report::LinkRefused { message }), Greeting::Hello { .. }) => {
                self.effects.link_refused = true;
                self.workers.kill_for(worker, PoolError::NoSharedMemory { message }, &mut self.effects);
            }
            (Ok(Report::Finalizing), Greeting::Ready)
                if handle.finalizer_due.is_none() && !self.schedule.is_staying(worker) =>
            {
                handle.finalizer_due = Instant::now().checked_add(self.finalizer_timeout);
                self.workers.rearm(worker);
            }
            (Ok(Report::FinalizerFailed { message }), Greeting::Ready) if handle.finalizer_due.is_some() => {
                let text = format!("the finalizer of worker {} failed: {message}", handle.pid());
                self.effects.log(Level::Warn, text);
            }
            (Ok(report), _) => self.on_nonsense(worker, format!("{report:?} out of turn")),
            (Err(error), _) => self.on_nonsense(worker, format!("a report: {error}")),
        }
    }

    /// What belongs to an answer has come: the file of a large value, the descriptors that a value carries, or both.
    ///
    /// A worker shows an answer before it sends what belongs to the next. So the answers of all attachments but the last one
    /// are there, and no worker of this build has more than one outstanding beside the answer that is being taken in. This
    /// bounds what a hostile one can make this process hold.
    fn on_attachment(&mut self, worker: WorkerId, number: u32, place: BodyPlace, beside: Beside, purpose: Purpose) {
        if self.workers.is_ignored(worker) {
            return;
        }
        let held = self.schedule.items_held(worker);
        let Some(handle) = self.workers.get_mut(worker) else { return };
        let attachments = &mut handle.link.attachments;
        if handle.trust.killed_for().is_some() && (attachments.carry() || attachments.len() as u64 > held) {
            // It is being killed for what it has sent already.
            return;
        }
        attachments.add(number, arrived(beside, place, &self.cache));
        self.cache.restore_room();
        if purpose == Purpose::Events && handle.link.attachments.len() > 1 && handle.link.attachments.carry() {
            self.receive_all(worker);
        }
        let Some(handle) = self.workers.get_mut(worker) else { return };
        let carries_more = handle.link.attachments.len() > 1 && handle.link.attachments.carry();
        // Each belongs to an answer, and each answer to an item that the worker holds.
        if carries_more || handle.link.attachments.len() as u64 > self.schedule.items_held(worker) {
            // What it has answered counts: the items behind the flood are not to blame.
            let error = PoolError::Protocol { message: "it sends what it was not asked for".to_owned() };
            self.workers.kill_for(worker, error, &mut self.effects);
        }
    }

    /// The worker sent what no worker of this build sends. One that is ready is not killed for that at once: a task writes
    /// where it should not, and the items behind it are not to blame. Its control socket is read on, since a full one would
    /// block the worker in the middle of an answer; and whatever is sent there without need is counted, so a flood ends
    /// the worker. One that is not ready yet has nothing to lose.
    pub(super) fn on_nonsense(&mut self, worker: WorkerId, message: String) {
        let Some(handle) = self.workers.get_mut(worker) else { return };
        handle.nonsense += 1;
        if handle.greeting != Greeting::Ready || handle.nonsense > NONSENSE_MAX {
            return self.workers.kill_for(worker, PoolError::Protocol { message }, &mut self.effects);
        }
        if handle.trust.is_full() {
            let hangs_by_descriptors = handle.link.hangs_by_descriptors();
            let text = format!("worker {} is replaced, for it broke the protocol: {message}", handle.pid());
            self.effects.log(Level::Warn, text);
            self.dismiss(worker);
            // A task that writes into every descriptor may have closed one, too.
            if hangs_by_descriptors {
                self.workers.kill_soon(worker);
            }
        }
    }
}

fn is_table_full<T>(received: &io::Result<T>) -> bool {
    received.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EMFILE as i32))
}

/// What came with a report: descriptors, at least one.
fn arrived(beside: Beside, place: BodyPlace, cache: &Arc<BlobCache>) -> Result<Arrived, String> {
    let fds = ReceivedFds::split(beside.fds, place).ok_or("nothing is attached")?;
    let arrived = Arrived::receive(fds, cache).map_err(|error| error.to_string())?;
    Ok(match beside.room {
        Room::Enough => arrived,
        Room::MadeForThis => arrived.without_file(),
    })
}
