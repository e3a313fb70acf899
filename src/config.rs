//! What a pool was asked to be: plain, validated, and all that is needed to start one more worker.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use start_methods::Boot;
use start_methods::Child;
use start_methods::StartMethod;
use start_methods::Starter;

use crate::blob::Blob;
use crate::error::PoolError;
use crate::function::Definition;
use crate::message;
use crate::message::Initializer;
use crate::message::Setup;
use crate::transport::Road;
use crate::worker;

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
    pub(crate) processes: usize,
    pub(crate) start_method: StartMethod,
    pub(crate) max_tasks_per_child: Option<u64>,
    pub(crate) initializer: Option<InitializerCall>,
    /// What workers' names begin with.
    pub(crate) name: String,
    /// How many workers have been started.
    pub(crate) started: AtomicU64,
}

impl Config {
    /// Starts one more worker process.
    ///
    /// # Errors
    ///
    /// The system refused the process or a descriptor.
    pub(crate) fn start_worker(&self, starter: &Starter) -> Result<(Child, Road), PoolError> {
        let road = Road::new().map_err(|error| PoolError::System {
            doing: "making the socket pair of a worker",
            errno: error.raw_os_error().unwrap_or_default(),
        })?;
        let mut fds = vec![road.worker_end()];
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
        let payload = message::encode(&Setup { initializer });
        let name = format!("{}-{}", self.name, self.started.fetch_add(1, Ordering::Relaxed));
        let boot = Boot::new(worker::main).name(&name).payload(&payload).fds(&fds);
        let child = starter.start(&boot)?;
        Ok((child, road))
    }
}
