//! The settings of a pool, validated, and how one more worker is started from them.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::Starts;

use crate::error::PoolError;
use crate::observe::hook::EventLine;
use crate::schedule::PoolPolicy;
use crate::schedule::size::Size;
use crate::sys::identity;
use crate::sys::start_choice::HELLO_TIMEOUT;
use crate::transport::control;
use crate::transport::control::Lane;
use crate::transport::control::Setup;
use crate::transport::first_call::FirstCall;
use crate::transport::link::Link;
use crate::transport::links::Links;
use crate::transport::outlets;
use crate::transport::outlets::Outlets;
use crate::transport::outlets::Wanted;

/// A pool's settings.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) size: Size,
    pub(crate) start_method: StartMethod,
    pub(crate) max_tasks_per_child: Option<u64>,
    pub(crate) max_rss_per_child: Option<u64>,
    pub(crate) max_age_per_child: Option<Duration>,
    pub(crate) initializer: Option<FirstCall>,
    pub(crate) initializer_timeout: Option<Duration>,
    pub(crate) finalizer: Option<FirstCall>,
    /// What leaves workers beside their answers.
    pub(crate) outlets: Wanted,
    /// The processors of each lane, in turn; none if workers are not bound.
    pub(crate) affinity: Vec<Vec<usize>>,
    pub(crate) finalizer_timeout: Duration,
    /// The name of the pool, with which those of its workers begin.
    pub(crate) name: String,
    /// The model of every worker: its entry and its environment, directory and limits.
    pub(crate) boot: Boot<'static>,
    /// How many workers have been started.
    pub(crate) started: AtomicU64,
    /// The user's function for events.
    pub(crate) events: Option<Arc<EventLine>>,
    /// How long an item may run before it is told as slow.
    pub(crate) slow_after: Option<Duration>,
    /// How many runs of items are recorded, if any are.
    pub(crate) record: Option<usize>,
    /// Makes the links to its workers.
    pub(crate) links: Links,
}

impl Config {
    /// Starts one more worker process.
    ///
    /// # Errors
    ///
    /// The system refused the process or a descriptor.
    pub(crate) fn start_worker(
        &self,
        lane: Lane,
        starts: &mut Starts<'_>,
    ) -> Result<(Child, Link, Outlets), PoolError> {
        // A server makes the process while its link is made here.
        let order = starts.order();
        let link = self.links.open().map_err(PoolError::system("making the link to a worker"))?;
        let hooks = [&self.initializer, &self.finalizer];
        let [initializer, finalizer] = hooks.map(|hook| hook.as_ref().map(FirstCall::in_boot));
        let (outlets, ends) =
            outlets::open(self.outlets).map_err(PoolError::system("making the outlets of a worker"))?;
        let fds: Vec<BorrowedFd<'_>> = link.worker_fds().into_iter().chain(ends.fds()).collect();
        let name = format!("{}-{}", self.name, self.started.fetch_add(1, Ordering::Relaxed));
        let born = identity::here().worker(name.clone());
        let setup = Setup {
            link: link.kind(),
            lane,
            pool: self.name.clone(),
            outlets: self.outlets,
            processors: self.processors_of(lane),
            initializer,
            finalizer,
            born,
        };
        let payload = control::encode(&setup);
        let boot = self.boot.clone().name(&name).payload(&payload).fds(&fds);
        let child = order.start(&boot)?;
        for hook in hooks.into_iter().flatten() {
            let sent = hook.send_rest(child.control());
            sent.map_err(PoolError::system("sending the arguments of the initializer or finalizer"))?;
        }
        Ok((child, link.into_link(), outlets))
    }

    fn processors_of(&self, lane: Lane) -> Vec<usize> {
        let index = usize::try_from(lane.index).unwrap_or(usize::MAX);
        index.checked_rem(self.affinity.len()).map_or_else(Vec::new, |index| self.affinity[index].clone())
    }

    /// How the pool keeps its workers.
    pub(crate) fn policy(&self, processors: usize) -> PoolPolicy {
        PoolPolicy {
            size: self.size,
            tasks_max: self.max_tasks_per_child,
            age_max: self.max_age_per_child,
            grain: self.links.grain(),
            processors,
        }
    }

    /// Starts a process with the directory and the limits of a worker, which only tells whether it can have them.
    ///
    /// Workers are not waited for when a pool is built; without this, a directory that does not exist would be told by
    /// the first result, as a pool that broke.
    ///
    /// # Errors
    ///
    /// It cannot have them, or cannot be started.
    pub(crate) fn try_settings(&self, starter: &Starter) -> Result<(), PoolError> {
        let boot = self.boot.clone().entry(wait_for_the_end).name(&self.name);
        Ok(starter.start(&boot)?.wait_hello(HELLO_TIMEOUT)?)
    }
}

/// The entry of a process that was started for its hello: it is killed when the parent has heard that.
///
/// Returning would flush the standard output, of which a forked process may have a copy that is not empty.
fn wait_for_the_end(birth: Birth) -> u8 {
    let _end = birth.control.recv(&mut [0; 1], &mut Vec::new());
    0
}
