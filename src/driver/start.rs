//! The start of a pool: its first workers and its two threads; and the start of each later worker.

use std::io;
use std::sync::Arc;

use start_methods::Child;
use start_methods::Starter;
use start_methods::Starts;
use start_methods::threads::Announced;

use crate::driver::backend::Backend;
use crate::driver::listener::Listener;
use crate::driver::outlet::Outlet;
use crate::driver::shared::Shared;
use crate::driver::told::Hooks;
use crate::engine::config::Config;
use crate::error::PoolError;
use crate::sys::failpoint::fault;
use crate::transport::control::Lane;
use crate::transport::link::Link;

/// Starts a pool of worker processes on this machine. Does not wait until they are ready.
///
/// # Errors
///
/// A worker could not be started, or the system refused a descriptor or a thread. Nothing is left behind.
pub(crate) fn start(config: Config, starter: Starter, hooks: Hooks) -> Result<Arc<dyn Backend>, PoolError> {
    let starter = Arc::new(starter);
    let shared = Shared::new(config, Arc::clone(&starter), hooks)
        .map_err(PoolError::system("making the pool's event descriptors"))?;
    let shared = Arc::new(shared);
    match shared.start(&starter) {
        Ok(()) => Ok(shared),
        Err(error) => {
            // Ends the workers and threads that did start.
            shared.shut_down();
            Err(error)
        }
    }
}

impl Shared {
    fn start(self: &Arc<Self>, starter: &Starter) -> Result<(), PoolError> {
        let mut starts = starter.several();
        self.start_first_workers(&mut starts)?;
        // The workers are born meanwhile.
        self.start_threads().map_err(PoolError::system("starting the pool's threads"))?;
        starts.finish()?;
        Ok(())
    }

    /// Starts the first workers, on this thread, and freezes what later ones will be forked from.
    ///
    /// # Errors
    ///
    /// The first start that failed. The caller shuts the pool down, and with it the workers that did start.
    fn start_first_workers(&self, starts: &mut Starts<'_>) -> Result<(), PoolError> {
        let processes = self.config.size.wanted();
        for started in 0..processes {
            let lane = self.driven.lock().engine.claim_lane();
            let worker = self.start_listened(lane, starts);
            let engine = &mut self.driven.lock().engine;
            match worker {
                Ok((child, link)) => engine.started(child, link, lane),
                Err(error) => {
                    engine.drop_starts(processes - started);
                    return Err(error);
                }
            }
        }
        // Left over only if the pool begins without workers.
        self.config.links.drop_leftovers();
        Ok(starts.settle()?)
    }

    /// Starts the background thread and the callback thread.
    fn start_threads(self: &Arc<Self>) -> io::Result<()> {
        fault!("thread");
        self.callbacks.start()?;
        self.listener.as_ref().map_or(Ok(()), Listener::start)?;
        let shared = Arc::clone(self);
        let builder = std::thread::Builder::new().name("procpool-drive".to_owned());
        // Before the thread exists, so that an end of the pool that comes first waits for it.
        self.driven.lock().background_gone = false;
        let announced = Announced::new();
        let thread = builder.spawn(move || shared.drive_in_background(&announced.enter())).inspect_err(|_| {
            self.driven.lock().background_gone = true;
            let _left = self.callbacks.finish(None);
        })?;
        *self.background_thread.lock() = Some(thread);
        Ok(())
    }

    /// Starts one more worker process.
    ///
    /// # Errors
    ///
    /// The system refused the process or a descriptor; the pool was joined or dropped.
    pub(super) fn start_worker(&self, lane: Lane) -> Result<(Child, Link), PoolError> {
        // Cloned, so that its lock is not held for as long as the start takes: a join waits for that lock.
        let starter = self.starter.lock().clone();
        // `None` if the pool was joined or dropped while this start was due.
        let starter = starter.ok_or(PoolError::Terminated)?;
        self.start_listened(lane, &mut starter.several())
    }

    /// Starts one more worker process, and listens to what it tells.
    fn start_listened(&self, lane: Lane, starts: &mut Starts<'_>) -> Result<(Child, Link), PoolError> {
        let (child, link, outlets) = self.config.start_worker(lane, starts)?;
        if let Some(listener) = &self.listener {
            let outlet = Outlet::new(&child, lane, outlets).map_err(PoolError::system("listening to a worker"))?;
            listener.add(outlet);
        }
        Ok((child, link))
    }
}
