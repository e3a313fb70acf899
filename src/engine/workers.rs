//! One half of the engine: the workers, their place in the epoll set, and what is done to their processes.
//!
//! Knows nothing of jobs, and decides nothing: the other half keeps the jobs, the schedule decides, and
//! [`Engine`](crate::engine::state::Engine) puts events in order.

use std::collections::BTreeMap;
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
use crate::engine::watch::Interest;
use crate::engine::watch::Source;
use crate::engine::watch::Watch;
use crate::engine::worker_handle::WorkerHandle;
use crate::error::PoolError;
use crate::schedule::WorkerId;
use crate::sys::failpoint::fault;
use crate::sys::processor::Cpu;
use crate::transport::link::AnswerProbe;
use crate::transport::link::Trigger;
use crate::transport::link::Wakeup;
use crate::transport::note::Sent;

/// How long a worker may live on with its control socket closed.
const SILENT_EXIT_TIMEOUT: Duration = Duration::from_millis(500);

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

fn kill_tree(handle: &WorkerHandle) -> io::Result<()> {
    fault!("kill_worker");
    handle.child.kill_tree()
}

/// The live workers of a pool.
pub(crate) struct Workers {
    handles: BTreeMap<WorkerId, WorkerHandle>,
    /// Workers that were given up, since SIGKILL did not end them.
    unreaped: BTreeMap<WorkerId, Child>,
    /// Gone when the pool is joined.
    watch: Option<Arc<Watch>>,
    /// The pool has ended: no answer counts any more.
    answers_ignored: bool,
}

impl Workers {
    pub(crate) fn new(watch: Arc<Watch>) -> Self {
        Self { handles: BTreeMap::new(), unreaped: BTreeMap::new(), watch: Some(watch), answers_ignored: false }
    }

    pub(crate) fn get(&self, worker: WorkerId) -> Option<&WorkerHandle> {
        self.handles.get(&worker)
    }

    pub(crate) fn get_mut(&mut self, worker: WorkerId) -> Option<&mut WorkerHandle> {
        self.handles.get_mut(&worker)
    }

    pub(crate) fn ids(&self) -> Vec<WorkerId> {
        self.handles.keys().copied().collect()
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.handles.values().map(WorkerHandle::pid).collect()
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
        let handle = self.handles.remove(&worker)?;
        // Before its descriptors are closed: a forked process may hold copies, and they would stay in the set.
        self.unwatch_descriptors(&handle);
        Some(handle)
    }

    /// Removes a worker that is not dead, and goes on to watch its end.
    pub(crate) fn remove_unended(&mut self, worker: WorkerId) -> Option<WorkerHandle> {
        self.unwatch(worker, Descriptor::Link);
        self.unwatch(worker, Descriptor::Control);
        self.handles.remove(&worker)
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

    fn read(&self) -> impl Iterator<Item = (WorkerId, &WorkerHandle)> {
        let handles = self.handles.iter().filter(|(_, handle)| !self.answers_ignored && handle.trust.is_read());
        handles.map(|(&worker, handle)| (worker, handle))
    }

    /// Adds the workers that have answered without telling the kernel.
    pub(crate) fn with_news(&self, workers: &mut Vec<WorkerId>) {
        workers.extend(self.read().filter(|(_, handle)| handle.link.has_news()).map(|(worker, _)| worker));
    }

    /// Asks every busy worker to wake the driver at its next answer.
    pub(crate) fn ask_to_ring(&self) -> Ringers {
        let mut ringers = Ringers::None;
        for (_, handle) in self.read() {
            match handle.link.ask_to_ring() {
                Wakeup::NotNeeded => {}
                Wakeup::Asked => ringers = Ringers::Some,
                Wakeup::TooLate => return Ringers::Late,
            }
        }
        ringers
    }

    /// Adds a probe for each worker that may answer soon.
    pub(crate) fn probes(&self, here: Cpu, probes: &mut Vec<AnswerProbe>) {
        probes.extend(self.read().filter_map(|(_, handle)| handle.link.probe(here)));
    }

    /// Tells every worker that a context is needed no longer. What the links said, for the caller to act on.
    pub(crate) fn forget(&mut self, context: u64) -> Vec<(WorkerId, io::Result<Sent>)> {
        self.handles.iter_mut().map(|(&worker, handle)| (worker, handle.forget(context))).collect()
    }

    /// Kills the worker and every process that descends from it.
    pub(crate) fn kill(&mut self, worker: WorkerId, effects: &mut Effects) {
        let Some(handle) = self.handles.get_mut(&worker) else { return };
        if let Err(error) = kill_tree(handle) {
            effects.log(Level::Error, format!("worker {} cannot be killed: {error}", handle.pid()));
        }
        handle.death.fall_due(Instant::now());
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

    /// Stops watching a descriptor of the worker: it has reported all that it will, and would stay readable.
    pub(crate) fn unwatch(&self, worker: WorkerId, descriptor: Descriptor) {
        if let (Some(handle), Some(watch)) = (self.handles.get(&worker), &self.watch)
            && let Some(fd) = descriptor.of(handle)
        {
            watch.remove(fd);
        }
    }

    /// When something must be done about a worker, if nothing happens before.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.handles.values().filter_map(WorkerHandle::next_timer).min()
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
                }
            }
        }
        self.kill_by(kill_at);
        self.ring();
    }

    /// No worker may live longer than this.
    pub(crate) fn kill_by(&mut self, kill_at: Option<Instant>) {
        for handle in self.handles.values_mut() {
            handle.kill_at = [handle.kill_at, kill_at].into_iter().flatten().min();
        }
    }
}
