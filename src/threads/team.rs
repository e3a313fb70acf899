//! The threads, and one task on one of them.

use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Condvar;
use parking_lot::Mutex;
use rayon_core::ThreadPool;
use rayon_core::ThreadPoolBuilder;
use rayon_core::Yield;

use crate::error::Failure;
use crate::error::Origin;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::transport::answer::panic_of;
use crate::work::task::Outcome;
use crate::worker::panics;

/// How long a thread of the team sleeps that finds nothing else to run while it waits.
const NAP: Duration = Duration::from_millis(1);

/// Whether tasks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Closed,
    /// The pool was dropped: what has not begun does not run.
    Dropped,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Tasks that are queued or run.
    tasks: usize,
    /// `None` once the team is joined.
    pool: Option<Arc<ThreadPool>>,
    threads: Vec<JoinHandle<()>>,
}

/// The threads of a pool.
#[derive(Debug)]
pub(super) struct Team {
    pub(super) size: usize,
    state: Mutex<State>,
    /// Notified when the last task has ended.
    idle: Condvar,
}

impl Team {
    /// Starts the threads, each of which runs `begin` first.
    ///
    /// # Errors
    ///
    /// The system refused a thread, or `begin` failed on one, with this text.
    pub(super) fn start(
        size: usize,
        name: &str,
        begin: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Result<Self, PoolError> {
        // Records where a task panics, on threads that run one.
        panics::install_hook_once();
        let begin = Arc::new(begin);
        let (tell, told) = std::sync::mpsc::channel();
        let mut threads = Vec::new();
        let pool = ThreadPoolBuilder::new()
            .num_threads(size)
            .spawn_handler(|thread| {
                let (begin, tell) = (Arc::clone(&begin), tell.clone());
                let builder = std::thread::Builder::new().name(format!("{name}-{}", thread.index()));
                threads.push(builder.spawn(move || {
                    // The other end is gone if a thread before this one could not be started.
                    drop(tell.send(begin()));
                    thread.run();
                })?);
                Ok(())
            })
            .build()
            .map_err(|error| PoolError::system("starting the threads")(io::Error::other(error)))?;
        let state = State { phase: Phase::Running, tasks: 0, pool: Some(Arc::new(pool)), threads };
        let team = Self { size, state: Mutex::new(state), idle: Condvar::new() };
        drop(tell);
        for begun in told.into_iter().take(size) {
            if let Err(message) = begun {
                team.close();
                team.join()?;
                return Err(PoolError::Initializer { message });
            }
        }
        Ok(team)
    }

    /// Runs `task` on one of the threads, after those that were given before. It is told whether it may still run: not if
    /// the pool was dropped meanwhile.
    ///
    /// # Errors
    ///
    /// The pool takes no more tasks.
    pub(super) fn run(self: &Arc<Self>, task: impl FnOnce(bool) + Send + 'static) -> Result<(), PoolError> {
        let mut state = self.state.lock();
        let pool = match (state.phase, &state.pool) {
            (Phase::Running, Some(pool)) => Arc::clone(pool),
            (Phase::Dropped, _) => return Err(PoolError::Terminated),
            (Phase::Closed, _) | (Phase::Running, None) => return Err(PoolError::Closed),
        };
        state.tasks += 1;
        drop(state);
        let team = Arc::clone(self);
        pool.spawn_fifo(move || {
            let may_run = team.state.lock().phase != Phase::Dropped;
            task(may_run);
            let mut state = team.state.lock();
            state.tasks -= 1;
            if state.tasks == 0 {
                team.idle.notify_all();
            }
        });
        Ok(())
    }

    /// Waits for what `poll` returns; `sleep` waits until there is something, or for a time at most. A thread of the team
    /// runs other tasks meanwhile: if each waited for a task that no thread is left to run, all would wait for ever.
    pub(super) fn wait<R>(&self, mut poll: impl FnMut() -> Option<R>, mut sleep: impl FnMut(Option<Duration>)) -> R {
        loop {
            if let Some(result) = poll() {
                return result;
            }
            let pool = self.state.lock().pool.clone();
            match pool.and_then(|pool| pool.yield_now()) {
                Some(Yield::Executed) => {}
                Some(Yield::Idle) => sleep(Some(NAP)),
                None => sleep(None),
            }
        }
    }

    /// Why no task is taken.
    pub(super) fn refusal(&self) -> Option<PoolError> {
        match self.state.lock().phase {
            Phase::Running => None,
            Phase::Closed => Some(PoolError::Closed),
            Phase::Dropped => Some(PoolError::Terminated),
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Running {
            state.phase = Phase::Closed;
        }
    }

    /// What has not begun does not run.
    pub(super) fn end(&self) {
        self.state.lock().phase = Phase::Dropped;
    }

    /// Waits until all tasks have ended, and then for the ends of the threads.
    pub(super) fn join(&self) -> Result<(), PoolError> {
        let mut state = self.state.lock();
        if state.phase == Phase::Running {
            return Err(PoolError::StillRunning);
        }
        if state.pool.as_ref().is_some_and(|pool| pool.current_thread_index().is_some()) {
            return Err(PoolError::WouldDeadlock);
        }
        while state.tasks > 0 {
            self.idle.wait(&mut state);
        }
        let (pool, threads) = (state.pool.take(), std::mem::take(&mut state.threads));
        drop(state);
        // The last owner but for threads that are about to find nothing more to run.
        drop(pool);
        threads.into_iter().for_each(|thread| drop(thread.join()));
        Ok(())
    }
}

/// Runs one task on this thread.
pub(super) fn run_task<O: Outcome<M>, M>(task: impl FnOnce() -> O) -> Result<O::Value, TaskError> {
    // Unwind safety: what a panic leaves behind in statics is for the user to judge, as with threads of any pool.
    let ended = panics::recorded(|| catch_unwind(AssertUnwindSafe(|| task().into_value())));
    let (pid, origin) = (std::process::id(), Origin::default());
    match ended {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(message)) => Err(TaskError::Failed(Failure { message, pid, origin })),
        Err(panic) => Err(TaskError::Panicked(panic_of(panic.report(), pid))),
    }
}
