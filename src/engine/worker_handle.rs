//! One worker, as the parent holds it: its process, its link, and how far it is trusted.

use std::io;
use std::time::Duration;
use std::time::Instant;

use start_methods::Child;

use crate::engine::observer::Who;
use crate::engine::rounds::Place;
use crate::engine::trust::Trust;
use crate::error::Panic;
use crate::error::TaskError;
use crate::schedule::WorkerId;
use crate::schedule::load::ItemId;
use crate::sys::failpoint::fault;
use crate::sys::failpoint::shortened;
use crate::sys::resident::resident_bytes;
use crate::transport::control::Lane;
use crate::transport::link::Holds;
use crate::transport::link::Link;
use crate::transport::link::Wakeup;
use crate::transport::note::Sent;
use crate::work::batch::Span;
use crate::work::jobs::JobContext;
use crate::work::unbegun::FrameNumber;

/// How soon after one reading of a busy worker's memory the next may follow: a reading takes some ten microseconds.
const RSS_INTERVAL: Duration = Duration::from_millis(1);

/// How far the start of a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Nothing has been received. At this time the parent gives up.
    Awaited(Instant),
    /// The process runs this program; its initializer runs, until this time at the latest.
    Hello {
        ready_due: Option<Instant>,
    },
    Ready,
}

/// Why a worker was killed while it worked.
#[derive(Debug)]
pub(crate) struct KillReason {
    pub(crate) item: ItemId,
    /// What the caller of the item is told.
    pub(crate) error: TaskError,
    pub(crate) has_begun: bool,
}

/// How long a worker that was sent SIGKILL may take to end before its items are settled without it. A process ends when
/// the kernel lets it go, which may be never: on a file server that does not answer, frozen by a cgroup, held by a tracer.
const DEATH_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the worker must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    NotDue,
    /// It was sent SIGKILL. At this time it is given up.
    Due {
        give_up_at: Instant,
    },
}

impl Death {
    /// The worker has been sent SIGKILL, again or for the first time.
    pub(crate) fn fall_due(&mut self, now: Instant) {
        if *self == Death::NotDue {
            *self = Death::Due { give_up_at: now + shortened!("death_timeout", DEATH_TIMEOUT) };
        }
    }
}

/// A worker process, from the parent's side.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) child: Child,
    pub(crate) link: Link,
    pub(crate) greeting: Greeting,
    pub(crate) trust: Trust,
    pub(crate) kill_reason: Option<KillReason>,
    /// The panic that it announced before it aborted.
    pub(crate) last_words: Option<Box<Panic>>,
    /// Its end has been seen, and its status must be known by this time.
    pub(crate) status_due: Option<Instant>,
    /// How many of its messages made no sense, and how many descriptors they had.
    pub(crate) nonsense: usize,
    /// Its finalizer runs, until this time at the latest.
    pub(crate) finalizer_due: Option<Instant>,
    /// SIGKILL follows at this time.
    pub(crate) kill_at: Option<Instant>,
    pub(crate) death: Death,
    /// What waits for it is sent again at this time.
    pub(crate) retry_at: Option<Instant>,
    /// Its place in the rounds in which workers are looked at and asked to ring.
    pub(crate) place: Place,
    rss_read_at: Option<Instant>,
    /// For those who watch: its lane, when it was started, how many items it has answered, and for how long it was busy,
    /// by the times of its answers.
    pub(crate) lane: u32,
    pub(crate) started_at: Instant,
    pub(crate) items_done: u64,
    pub(crate) busy_ns: u64,
}

/// Whether the parent has time to read how much memory a worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leisure {
    /// The worker is idle: no item waits.
    Idle,
    Busy,
}

impl WorkerHandle {
    pub(crate) fn new(mut child: Child, link: Link, lane: Lane, hello_due: Instant) -> Self {
        child.distrust();
        Self {
            child,
            link,
            greeting: Greeting::Awaited(hello_due),
            trust: Trust::default(),
            kill_reason: None,
            last_words: None,
            status_due: None,
            nonsense: 0,
            finalizer_due: None,
            kill_at: None,
            death: Death::NotDue,
            retry_at: None,
            place: Place::default(),
            rss_read_at: None,
            lane: lane.index,
            started_at: Instant::now(),
            items_done: 0,
            busy_ns: 0,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// This worker, for those who watch.
    pub(crate) fn who(&self, worker: WorkerId) -> Who {
        Who { worker, lane: self.lane, pid: self.pid() }
    }

    /// Kills the worker and every process that descends from it.
    ///
    /// # Errors
    ///
    /// The system refused it.
    pub(crate) fn kill_tree(&self) -> io::Result<()> {
        fault!("kill_worker");
        self.child.kill_tree()
    }

    /// Sends work; see [`Link::send`].
    pub(crate) fn send(
        &mut self,
        span: &Span,
        number: FrameNumber,
        context: Option<&JobContext>,
        holds: Holds,
    ) -> io::Result<Sent> {
        self.link.send(self.child.control(), span, number, context, holds)
    }

    /// Tells the worker to leave when it has done what it was given.
    pub(crate) fn stop(&mut self) -> io::Result<Sent> {
        self.link.stop(self.child.control())
    }

    /// Tells the worker that a context is needed no longer, if it has it.
    pub(crate) fn forget(&mut self, context: u64) -> io::Result<Sent> {
        self.link.forget(self.child.control(), context)
    }

    /// Sends the orders that wait for room, as far as there is room.
    pub(crate) fn flush(&mut self) -> io::Result<Sent> {
        self.link.flush(self.child.control())
    }

    /// Whether a look at its link may reveal answers that count.
    pub(crate) fn may_have_news(&self) -> bool {
        self.trust.is_read() && self.link.is_active()
    }

    /// Whether it is known to have something to answer.
    pub(crate) fn owes_answers(&self) -> bool {
        self.trust.is_read() && self.link.owes_answers()
    }

    /// Asks the worker to wake the driver; see [`Link::ask_to_ring`].
    pub(crate) fn ask_to_ring(&self) -> Wakeup {
        match self.trust.is_read() {
            true => self.link.ask_to_ring(),
            false => Wakeup::NotNeeded,
        }
    }

    /// The resident memory of the worker in bytes, if it is known and was not read a moment ago.
    pub(crate) fn rss(&mut self, leisure: Leisure, now: Instant) -> Option<u64> {
        let lately = self.rss_read_at.is_some_and(|read_at| now < read_at + RSS_INTERVAL);
        if lately && leisure == Leisure::Busy {
            return None;
        }
        self.rss_read_at = Some(now);
        resident_bytes(self.pid())
    }

    /// When it is given up, unless it has ended by then.
    pub(crate) fn give_up_at(&self) -> Option<Instant> {
        match self.death {
            Death::Due { give_up_at } => Some(give_up_at),
            Death::NotDue => None,
        }
    }

    /// When the next step of its start must be done.
    pub(crate) fn start_due(&self) -> Option<Instant> {
        match self.greeting {
            _ if self.trust.killed_for().is_some() => None,
            Greeting::Awaited(hello_due) => Some(hello_due),
            Greeting::Hello { ready_due } => ready_due,
            Greeting::Ready => None,
        }
    }

    /// When something must be done about this worker, if nothing happens before.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let [start, give_up] = [self.start_due(), self.give_up_at()];
        [start, self.status_due, self.finalizer_due, self.kill_at, self.retry_at, give_up].into_iter().flatten().min()
    }
}
