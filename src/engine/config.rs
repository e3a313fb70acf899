//! What a pool was asked to be: plain, validated, and all that is needed to start one more worker.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
use start_methods::PrivateFd;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::Starts;

use crate::error::PoolError;
use crate::schedule::PoolPolicy;
use crate::schedule::size::Size;
use crate::sys::bell::Bell;
use crate::transport::Road;
use crate::transport::control;
use crate::transport::control::Initializer;
use crate::transport::control::RoadKind;
use crate::transport::control::Setup;
use crate::transport::ring;
use crate::transport::socket;
use crate::values::blob::Blob;
use crate::work::function::Definition;
use crate::work::unbegun::Grain;

/// How long a worker may take from its start to its hello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// The environment variable that chooses the road to workers: `socket` does without shared memory.
const ROAD: &str = "PROCPOOL_ROAD";

/// The initializer of every worker, encoded.
#[derive(Debug)]
pub(crate) struct InitializerCall {
    pub(crate) definition: Definition,
    pub(crate) args: InitializerArgs,
}

/// The arguments of the initializer.
#[derive(Debug)]
pub(crate) enum InitializerArgs {
    Inline(Vec<u8>),
    Blob(Blob),
}

/// A pool's settings.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) size: Size,
    pub(crate) start_method: StartMethod,
    pub(crate) max_tasks_per_child: Option<u64>,
    pub(crate) max_rss_per_child: Option<u64>,
    pub(crate) max_age_per_child: Option<Duration>,
    pub(crate) initializer: Option<InitializerCall>,
    /// What workers' names begin with.
    pub(crate) name: String,
    /// The model of every worker: its entry and its environment, directory and limits.
    pub(crate) boot: Boot<'static>,
    /// How many workers have been started.
    pub(crate) started: AtomicU64,
    /// Whether workers are reached through shared memory.
    pub(crate) with_rings: AtomicBool,
    /// The rings by which that was tried, for the first worker.
    pub(crate) first_rings: Mutex<Option<Rings>>,
}

/// The parent's end of new rings, and what the worker is given of them.
pub(crate) type Rings = (ring::parent::Road, PrivateFd);

impl Config {
    /// Starts one more worker process.
    ///
    /// # Errors
    ///
    /// The system refused the process or a descriptor.
    pub(crate) fn start_worker(&self, starts: &mut Starts<'_>) -> Result<(Child, Road), PoolError> {
        // A server makes the process while its road is made here.
        let order = starts.order();
        let (road, given) = self.new_road().map_err(|error| PoolError::System {
            doing: "making the road to a worker",
            errno: error.raw_os_error().unwrap_or_default(),
        })?;
        let (kind, mut fds) = match (&road, &given) {
            (Road::Ring(_, bell), Some(memory)) => (RoadKind::Ring, vec![memory.as_fd(), bell.as_fd()]),
            (Road::Ring(..), None) => unreachable!("rings come with their memory"),
            (Road::Socket(socket), _) => (RoadKind::Socket, vec![socket.worker_end()]),
        };
        let initializer = self.initializer.as_ref().map(|call| Initializer {
            definition: call.definition.clone(),
            args: match &call.args {
                InitializerArgs::Inline(bytes) => Some(bytes.clone()),
                InitializerArgs::Blob(blob) => {
                    fds.push(blob.as_fd());
                    None
                }
            },
        });
        let payload = control::encode(&Setup { road: kind, initializer });
        let name = format!("{}-{}", self.name, self.started.fetch_add(1, Ordering::Relaxed));
        let boot = self.boot.clone().name(&name).payload(&payload).fds(&fds);
        let child = order.start(&boot)?;
        Ok((child, road))
    }

    /// Rings, or a socket where they are not to be had.
    fn new_road(&self) -> io::Result<(Road, Option<PrivateFd>)> {
        if self.with_rings.load(Ordering::Relaxed) {
            let tried = self.first_rings.lock().take();
            let (rings, memory) = tried.map_or_else(ring::parent::Road::new, Ok)?;
            return Ok((Road::Ring(Box::new(rings), Bell::new()?), Some(memory)));
        }
        Ok((Road::Socket(socket::Road::new()?), None))
    }

    /// A worker could not use rings: no later one is given any.
    pub(crate) fn without_rings(&self) {
        self.with_rings.store(false, Ordering::Relaxed);
    }

    /// How the pool keeps its workers.
    pub(crate) fn policy(&self) -> PoolPolicy {
        // What can be taken back from workers.
        let grain = if self.with_rings.load(Ordering::Relaxed) { Grain::Item } else { Grain::Frame };
        PoolPolicy { size: self.size, tasks_max: self.max_tasks_per_child, age_max: self.max_age_per_child, grain }
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

/// Whether this process can make rings, and has not been told to do without; and the rings by which that was tried.
pub(crate) fn try_rings() -> (bool, Option<Rings>) {
    if std::env::var_os(ROAD).is_some_and(|road| road == "socket") {
        return (false, None);
    }
    match ring::parent::Road::new() {
        Ok(rings) => (true, Some(rings)),
        // Too many open files is no reason: it will be as true of sockets.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => (true, None),
        Err(error) => {
            log::info!("workers are reached by sockets, because shared memory is not to be had: {error}");
            (false, None)
        }
    }
}

/// The entry of a process that was started for its hello: it is killed when the parent has heard that.
///
/// Returning would flush the standard output, of which a forked process may have a copy that is not empty.
fn wait_for_the_end(birth: Birth) -> u8 {
    let _end = birth.control.recv(&mut [0; 1], &mut Vec::new());
    0
}
