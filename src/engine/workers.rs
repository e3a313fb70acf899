//! One half of the engine: the workers, their place in the epoll set, and what is done to their processes.
//!
//! Knows nothing of jobs, and decides nothing: the other half keeps the jobs, the schedule decides, and
//! [`Engine`](crate::engine::state::Engine) puts events in order.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use log::Level;
use nix::sys::signal::Signal;
use start_methods::Child;

use crate::engine::effects::Effects;
use crate::engine::rounds::Look;
use crate::engine::rounds::Rounds;
use crate::engine::watch::Interest;
use crate::engine::watch::Source;
use crate::engine::watch::Watch;
use crate::engine::worker_handle::WorkerHandle;
use crate::error::PoolError;
use crate::schedule::WorkerId;
use crate::sys::processor::Cpu;
use crate::transport::arrival::LinkError;
use crate::transport::link::AnswerProbe;
use crate::transport::link::Holds;
use crate::transport::link::Inbox;
use crate::transport::link::Share;
use crate::transport::link::Trigger;
use crate::transport::link::Wakeup;
use crate::transport::note::Sent;
use crate::work::batch::Span;
use crate::work::jobs::JobContext;
use crate::work::unbegun::FrameNumber;

/// How long a worker may live on with its control socket closed.
const SILENT_EXIT_TIMEOUT: Duration = Duration::from_millis(500);

/// When descriptors are sent again of which too many were on their way.
const RETRY_DELAY: Duration = Duration::from_millis(2);

/// Which workers wake the driver when it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ringers {
    None,
    Some,
    /// The driver must not sleep: there are answers already.
    Late,
}

/// A descriptor through which the parent learns of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descriptor {
    Link,
    Control,
    Pidfd,
    Status,
}

impl Descriptor {
    const ALL: [Self; 4] = [Self::Link, Self::Control, Self::Pidfd, Self::Status];

    /// `None` if the worker has no such descriptor.
    fn of(self, handle: &WorkerHandle) -> Option<BorrowedFd<'_>> {
        match self {
            Descriptor::Link => Some(handle.link.fd()),
            Descriptor::Control => Some(handle.child.control().as_fd()),
            Descriptor::Pidfd => Some(handle.child.pidfd()),
            Descriptor::Status => handle.child.status_fd(),
        }
    }
}

/// A worker that cannot be watched.
pub(crate) struct Refused {
    pub(crate) handle: Box<WorkerHandle>,
    pub(crate) error: io::Error,
}

/// The live workers of a pool.
pub(crate) struct Workers {
    handles: BTreeMap<WorkerId, WorkerHandle>,
    /// Workers that were given up, since SIGKILL did not end them.
    unreaped: BTreeMap<WorkerId, Child>,
    rounds: Rounds,
    /// When something must be done about a worker, at the latest; and times that no longer matter.
    timers: BinaryHeap<Reverse<(Instant, WorkerId)>>,
    /// Which workers have a context.
    introduced: HashMap<u64, BTreeSet<WorkerId>>,
    /// Gone when the pool is joined.
    watch: Option<Arc<Watch>>,
    /// The pool has ended: no answer counts any more.
    answers_ignored: bool,
}

impl Workers {
    pub(crate) fn new(watch: Arc<Watch>, processors: usize) -> Self {
        Self {
            handles: BTreeMap::new(),
            unreaped: BTreeMap::new(),
            rounds: Rounds::new(processors),
            timers: BinaryHeap::new(),
            introduced: HashMap::new(),
            watch: Some(watch),
            answers_ignored: false,
        }
    }

    pub(crate) fn get(&self, worker: WorkerId) -> Option<&WorkerHandle> {
        self.handles.get(&worker)
    }

    pub(crate) fn get_mut(&mut self, worker: WorkerId) -> Option<&mut WorkerHandle> {
        self.handles.get_mut(&worker)
    }

    /// All of them, in the order in which they were started.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &WorkerHandle)> {
        self.handles.iter().map(|(&worker, handle)| (worker, handle))
    }

    pub(crate) fn len(&self) -> usize {
        self.handles.len()
    }

    /// The epoll set in which drivers sleep.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        Arc::clone(self.watch.as_ref().expect("events come only while there is a watch"))
    }

    /// Whether anything can still happen.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Gives the descriptors back. The workers are gone.
    pub(crate) fn take_watch(&mut self) -> Option<Arc<Watch>> {
        self.watch.take()
    }

    /// Wakes a driver that sleeps.
    pub(crate) fn ring(&self) {
        if let Some(watch) = &self.watch {
            watch.ring();
        }
    }

    /// Adds a worker and watches its descriptors.
    ///
    /// # Errors
    ///
    /// The kernel refused to watch one; the worker is given back, and none of its descriptors is watched.
    pub(crate) fn add(&mut self, worker: WorkerId, handle: WorkerHandle) -> Result<(), Refused> {
        match self.watch_descriptors(worker, &handle) {
            Ok(()) => {
                self.handles.insert(worker, handle);
                self.rearm(worker);
                Ok(())
            }
            Err(error) => {
                self.unwatch_descriptors(&handle);
                Err(Refused { handle: Box::new(handle), error })
            }
        }
    }

    /// Removes a worker that is dead.
    pub(crate) fn remove(&mut self, worker: WorkerId) -> Option<WorkerHandle> {
        let handle = self.take_out(worker)?;
        // Before its descriptors are closed: a forked process may hold copies, and they would stay in the set.
        self.unwatch_descriptors(&handle);
        Some(handle)
    }

    fn take_out(&mut self, worker: WorkerId) -> Option<WorkerHandle> {
        let mut handle = self.handles.remove(&worker)?;
        self.rounds.forget(&mut handle.place);
        for context in handle.link.contexts() {
            if let Some(workers) = self.introduced.get_mut(&context) {
                workers.remove(&worker);
            }
        }
        Some(handle)
    }

    /// Removes a worker that is not dead, and goes on to watch its end.
    pub(crate) fn remove_unended(&mut self, worker: WorkerId) -> Option<WorkerHandle> {
        self.unwatch(worker, Descriptor::Link);
        self.unwatch(worker, Descriptor::Control);
        self.take_out(worker)
    }

    fn watch_descriptors(&self, worker: WorkerId, handle: &WorkerHandle) -> io::Result<()> {
        let watch = self.watch();
        match handle.link.trigger() {
            Trigger::Edge => watch.add_edge(handle.link.fd(), Source::Link(worker))?,
            Trigger::Level => watch.add(handle.link.fd(), Source::Link(worker))?,
        }
        watch.add(handle.child.control().as_fd(), Source::Control(worker))?;
        watch.add(handle.child.pidfd(), Source::End(worker))?;
        match handle.child.status_fd() {
            Some(fd) => watch.add(fd, Source::Status(worker)),
            None => Ok(()),
        }
    }

    fn unwatch_descriptors(&self, handle: &WorkerHandle) {
        let Some(watch) = &self.watch else { return };
        for fd in Descriptor::ALL.into_iter().filter_map(|descriptor| descriptor.of(handle)) {
            watch.remove(fd);
        }
    }

    /// The link of the worker is full: watches it for room, if nothing else will tell.
    pub(crate) fn wait_for_room(&mut self, worker: WorkerId, effects: &mut Effects) {
        if self.handles.get_mut(&worker).is_some_and(|handle| handle.link.begins_to_wait_for_room()) {
            self.set_interest(worker, Interest::ReadableOrWritable, effects);
        }
    }

    /// Too many descriptors are on their way: sends again what waits for the worker in a moment.
    pub(crate) fn retry_soon(&mut self, worker: WorkerId) {
        if let Some(handle) = self.handles.get_mut(&worker) {
            handle.retry_at.get_or_insert_with(|| Instant::now() + RETRY_DELAY);
            self.rearm(worker);
        }
    }

    /// The link of the worker has taken all that waited for room.
    pub(crate) fn has_room_again(&mut self, worker: WorkerId, effects: &mut Effects) {
        if let Some(handle) = self.handles.get_mut(&worker) {
            handle.link.has_room_again();
            self.set_interest(worker, Interest::Readable, effects);
        }
    }

    fn set_interest(&self, worker: WorkerId, interest: Interest, effects: &mut Effects) {
        let Some(handle) = self.handles.get(&worker) else { return };
        if let Err(error) = self.watch().set_interest(handle.link.fd(), Source::Link(worker), interest) {
            effects.log(Level::Error, format!("epoll_ctl(EPOLL_CTL_MOD): {error}: a bug in procpool"));
        }
    }

    /// Whether nothing that the worker sends counts. What it answered before it is killed for another reason counts.
    pub(crate) fn is_ignored(&self, worker: WorkerId) -> bool {
        self.answers_ignored || self.handles.get(&worker).is_none_or(|handle| !handle.trust.is_read())
    }

    /// Sends work; `None` if the worker is gone. See [`Link::send`](crate::transport::link::Link::send).
    pub(crate) fn send(
        &mut self,
        worker: WorkerId,
        (span, number): (&Span, FrameNumber),
        context: Option<&JobContext>,
        holds: Holds,
    ) -> Option<io::Result<Sent>> {
        let handle = self.handles.get_mut(&worker)?;
        let new = context.map(|context| context.id).filter(|&context| !handle.link.has_context(context));
        let sent = handle.send(span, number, context, holds);
        self.rounds.given(worker, &mut handle.place);
        if let Some(context) = new.filter(|&context| handle.link.has_context(context)) {
            self.introduced.entry(context).or_default().insert(worker);
        }
        Some(sent)
    }

    /// Tells the worker to leave when it has done what it was given; `None` if it is gone.
    pub(crate) fn stop(&mut self, worker: WorkerId) -> Option<io::Result<Sent>> {
        self.give(worker, WorkerHandle::stop)
    }

    /// Sends the orders that wait for room, as far as there is room; `None` if the worker is gone.
    pub(crate) fn flush(&mut self, worker: WorkerId) -> Option<io::Result<Sent>> {
        self.give(worker, WorkerHandle::flush)
    }

    /// Every order goes through here or through [`send`](Self::send): the answer to one that does not would not be seen.
    fn give(
        &mut self,
        worker: WorkerId,
        order: impl FnOnce(&mut WorkerHandle) -> io::Result<Sent>,
    ) -> Option<io::Result<Sent>> {
        let handle = self.handles.get_mut(&worker)?;
        let sent = order(handle);
        self.rounds.given(worker, &mut handle.place);
        Some(sent)
    }

    /// Begins to take in answers; see [`Link::receive`](crate::transport::link::Link::receive).
    ///
    /// # Errors
    ///
    /// The link makes no sense.
    pub(crate) fn receive(&mut self, worker: WorkerId, inbox: &mut Inbox, share: Share) -> Result<(), LinkError> {
        let Some(handle) = self.handles.get_mut(&worker) else { return Ok(()) };
        self.rounds.received(worker, &mut handle.place);
        handle.link.receive(inbox, share)
    }

    /// Adds workers that have answered without telling the kernel.
    pub(crate) fn with_news(&mut self, news: &mut Vec<WorkerId>) {
        let handles = &mut self.handles;
        debug_assert!(handles.values().all(|handle| handle.place.is_active() || !handle.owes_answers()));
        self.rounds.look(news, |worker| match handles.get_mut(&worker) {
            Some(handle) if handle.may_have_news() => match handle.link.has_news() {
                true => Look::News,
                false => Look::Nothing,
            },
            Some(handle) => {
                handle.place.leave();
                Look::Idle
            }
            None => Look::Idle,
        });
    }

    /// Asks every busy worker to wake the driver at its next answer, unless it was asked for that answer already.
    pub(crate) fn ask_to_ring(&mut self) -> Ringers {
        if self.answers_ignored {
            return Ringers::None;
        }
        while let Some(worker) = self.rounds.next_unasked() {
            let Some(handle) = self.handles.get_mut(&worker) else { continue };
            handle.place.take_turn();
            match handle.ask_to_ring() {
                Wakeup::NotNeeded => self.rounds.forget(&mut handle.place),
                Wakeup::Asked => self.rounds.asked(&mut handle.place),
                Wakeup::TooLate => {
                    self.rounds.late(worker, &mut handle.place);
                    return Ringers::Late;
                }
            }
        }
        if self.rounds.has_asked() { Ringers::Some } else { Ringers::None }
    }

    /// From time to time, makes the next [`ask_to_ring`](Self::ask_to_ring) ask again those that were asked.
    pub(crate) fn recheck(&mut self, now: Instant) {
        if !self.rounds.is_recheck_due(now) {
            return;
        }
        for worker in self.rounds.active().to_vec() {
            if let Some(handle) = self.handles.get_mut(&worker) {
                self.rounds.must_ask(worker, &mut handle.place);
            }
        }
    }

    /// Adds a probe for each worker that may answer soon.
    pub(crate) fn probes(&self, here: Cpu, probes: &mut Vec<AnswerProbe>) {
        if self.answers_ignored {
            return;
        }
        let active = self.rounds.active().iter().filter_map(|worker| self.handles.get(worker));
        probes.extend(active.filter(|handle| handle.trust.is_read()).filter_map(|handle| handle.link.probe(here)));
    }

    /// Tells the workers that have a context that it is needed no longer. What the links said, for the caller to act on.
    pub(crate) fn forget(&mut self, context: u64) -> Vec<(WorkerId, io::Result<Sent>)> {
        let workers = self.introduced.remove(&context).unwrap_or_default();
        let forget = |worker| Some((worker, self.give(worker, |handle| handle.forget(context))?));
        workers.into_iter().filter_map(forget).collect()
    }

    /// Kills the worker and every process that descends from it.
    pub(crate) fn kill(&mut self, worker: WorkerId, effects: &mut Effects) {
        let Some(handle) = self.handles.get_mut(&worker) else { return };
        if let Err(error) = handle.kill_tree() {
            effects.log(Level::Error, format!("worker {} cannot be killed: {error}", handle.pid()));
        }
        handle.death.fall_due(Instant::now());
        self.rearm(worker);
    }

    /// Removes a worker that SIGKILL does not end. Only its end is watched from now on.
    pub(crate) fn give_up(&mut self, worker: WorkerId, child: Child) {
        self.unreaped.insert(worker, child);
    }

    /// Whether this worker was given up; its end, which has been reported, is then dealt with.
    pub(crate) fn ends_unreaped(&mut self, worker: WorkerId, effects: &mut Effects) -> bool {
        let Some(child) = self.unreaped.remove(&worker) else { return false };
        if let Some(watch) = &self.watch {
            watch.remove(child.pidfd());
            child.status_fd().into_iter().for_each(|fd| watch.remove(fd));
        }
        effects.unwanted.push(child);
        true
    }

    /// Whether workers are left that were given up.
    pub(crate) fn has_unreaped(&self) -> bool {
        !self.unreaped.is_empty()
    }

    /// The process ids of all workers that have not ended, those included that were given up.
    pub(crate) fn unended(&self) -> Vec<u32> {
        self.handles.values().map(WorkerHandle::pid).chain(self.unreaped.values().map(Child::pid)).collect()
    }

    /// Kills what is left of a dead worker's process group.
    pub(crate) fn kill_group(&self, worker: WorkerId, effects: &mut Effects) {
        if let Some(handle) = self.handles.get(&worker)
            && let Err(error) = handle.child.signal_group(Signal::SIGKILL)
        {
            let text = format!("the process group of worker {} cannot be killed: {error}", handle.pid());
            effects.log(Level::Warn, text);
        }
    }

    /// Kills the worker unless it leaves within [`SILENT_EXIT_TIMEOUT`].
    pub(crate) fn kill_soon(&mut self, worker: WorkerId) {
        if let Some(handle) = self.handles.get_mut(&worker) {
            handle.kill_at.get_or_insert_with(|| Instant::now() + SILENT_EXIT_TIMEOUT);
            self.rearm(worker);
        }
    }

    /// The end of the worker has been seen: its status must be known by this time.
    pub(crate) fn await_status(&mut self, worker: WorkerId, due: Instant) {
        if let Some(handle) = self.handles.get_mut(&worker) {
            handle.status_due.get_or_insert(due);
            self.rearm(worker);
        }
    }

    /// Kills a worker that broke the protocol or cannot start.
    pub(crate) fn kill_for(&mut self, worker: WorkerId, error: PoolError, effects: &mut Effects) {
        if let Some(handle) = self.handles.get_mut(&worker) {
            handle.trust.kill_for(error);
        }
        self.kill(worker, effects);
    }

    /// Kills a worker that left on its link what no worker of this build leaves there. Nothing on the link counts.
    pub(crate) fn distrust(&mut self, worker: WorkerId, message: String, effects: &mut Effects) {
        if let Some(handle) = self.handles.get_mut(&worker) {
            handle.trust.distrust(PoolError::Protocol { message });
        }
        // The link is never read again, so it could stay readable until the worker is reaped.
        self.unwatch(worker, Descriptor::Link);
        self.kill(worker, effects);
    }

    /// Watches the pidfd, which has reported the end, only until it hangs up: until the worker has been reaped.
    pub(crate) fn await_reaping(&self, worker: WorkerId, effects: &mut Effects) {
        let (Some(handle), Some(watch)) = (self.handles.get(&worker), &self.watch) else { return };
        if let Err(error) = watch.await_hangup(handle.child.pidfd(), Source::End(worker)) {
            effects.log(Level::Error, format!("epoll_ctl(EPOLL_CTL_MOD): {error}: a bug in procpool"));
        }
    }

    /// Stops watching a descriptor of the worker: it has reported all that it will, and would stay readable.
    pub(crate) fn unwatch(&self, worker: WorkerId, descriptor: Descriptor) {
        if let (Some(handle), Some(watch)) = (self.handles.get(&worker), &self.watch)
            && let Some(fd) = descriptor.of(handle)
        {
            watch.remove(fd);
        }
    }

    /// When something must be done about a worker, if nothing happens before.
    pub(crate) fn next_timer(&mut self) -> Option<Instant> {
        while let Some(&Reverse((at, worker))) = self.timers.peek() {
            let due = self.handles.get(&worker).and_then(WorkerHandle::next_timer);
            if due.is_some_and(|due| due <= at) {
                return due;
            }
            // It was put off, or no longer matters.
            self.timers.pop();
            self.timers.extend(due.map(|due| Reverse((due, worker))));
        }
        None
    }

    /// The workers about which something must be done by now. Each must be [rearmed](Self::rearm) after that.
    pub(crate) fn timers_due(&mut self, now: Instant) -> Vec<WorkerId> {
        let mut workers = Vec::new();
        while self.next_timer().is_some_and(|due| due <= now) {
            workers.extend(self.timers.pop().map(|Reverse((_, worker))| worker));
        }
        workers
    }

    /// Sets the next timer of a worker.
    pub(crate) fn rearm(&mut self, worker: WorkerId) {
        let due = self.handles.get(&worker).and_then(WorkerHandle::next_timer);
        self.timers.extend(due.map(|due| Reverse((due, worker))));
    }

    /// Asks every worker to leave, and has it killed at `kill_at`. Their answers are not read any more.
    pub(crate) fn end(&mut self, kill_at: Option<Instant>, effects: &mut Effects) {
        self.answers_ignored = true;
        // A pool that was joined has neither workers nor a watch.
        let Some(watch) = &self.watch else { return };
        for handle in self.handles.values_mut() {
            watch.remove(handle.link.fd());
            // SIGCONT, so that a stopped worker can act on SIGTERM. To the process as well as to its group: a process
            // that is being started has no group of its own yet.
            for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                if let Err(error) = handle.child.signal(signal).and_then(|()| handle.child.signal_group(signal)) {
                    effects.log(Level::Warn, format!("worker {} could not be sent {signal}: {error}", handle.pid()));
                    // It cannot be asked, so there is nothing to wait for.
                    handle.kill_at = Some(Instant::now());
                }
            }
        }
        self.kill_by(kill_at);
        self.ring();
    }

    /// No worker may live longer than this.
    pub(crate) fn kill_by(&mut self, kill_at: Option<Instant>) {
        for (&worker, handle) in &mut self.handles {
            handle.kill_at = [handle.kill_at, kill_at].into_iter().flatten().min();
            self.timers.extend(handle.next_timer().map(|at| Reverse((at, worker))));
        }
    }
}
