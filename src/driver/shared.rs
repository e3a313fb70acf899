//! What a pool's handles, iterators and threads share: the engine behind its lock, and access to it.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::Mutex;
use start_methods::Starter;

use crate::driver::callbacks::UserThread;
use crate::driver::listener::Listener;
use crate::driver::told::Hooks;
use crate::engine::Engine;
use crate::engine::config::Config;
use crate::engine::watch::Watch;
use crate::error::PoolError;
use crate::sys::owner_process::OwnerProcess;
use crate::sys::spin::AdaptiveSpin;
use crate::sys::waiters::Waiters;
use crate::transport::link::AnswerProbe;
use crate::values::blob::BlobCache;

/// Which thread drives the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    Empty,
    /// A thread that waits for a result.
    Foreground,
    /// The background thread.
    Background,
}

/// The engine and which thread drives it: everything behind the lock.
pub(super) struct Driven {
    pub(super) engine: Engine,
    pub(super) seat: Seat,
    /// `Some` while the driver sleeps: until this time, or without a limit.
    pub(super) asleep_until: Option<Option<Instant>>,
    /// Counts how often a thread has driven, so that the background thread sees whether any has.
    pub(super) drives: u64,
    /// When the epoll set was last polled. Answers in rings arrive without it, and must not starve all other events.
    pub(super) turned_at: Instant,
    /// How long the next driver spins before it sleeps.
    pub(super) spin: AdaptiveSpin,
    /// Scratch memory: the rings that a driver spins on.
    pub(super) probes: Vec<AnswerProbe>,
    /// The background thread sleeps until it is notified.
    pub(super) background_sleeps: bool,
    /// The background thread sleeps for a while. Callers that come and go do not wake it; one that leaves a job
    /// unfinished does.
    pub(super) background_dozes: bool,
    /// Threads that wait for the seat or for their job.
    pub(super) followers: Waiters,
    /// The background thread must leave.
    pub(super) leaving: bool,
    /// The background thread has left, or was never started.
    pub(super) background_gone: bool,
}

/// A pool of worker processes on this machine, as all its handles, iterators and threads share it.
pub(super) struct Shared {
    pub(super) config: Config,
    /// Memory of large values that was used before, for the next ones.
    pub(super) cache: Arc<BlobCache>,
    pub(super) callbacks: Arc<UserThread>,
    /// Started with the first waker.
    pub(super) wakers: Arc<UserThread>,
    /// Where workers tell more than their answers.
    pub(super) listener: Option<Arc<Listener>>,
    /// `None` once the pool is joined.
    pub(super) starter: Mutex<Option<Arc<Starter>>>,
    /// The process that made the pool.
    pub(super) owner: OwnerProcess,
    pub(super) driven: Mutex<Driven>,
    /// The background thread sleeps here while it does not have the seat.
    pub(super) background: Condvar,
    pub(super) background_thread: Mutex<Option<JoinHandle<()>>>,
    /// Notified when the background thread has left.
    pub(super) departure: Condvar,
}

impl Shared {
    pub(super) fn new(config: Config, starter: Arc<Starter>, hooks: Hooks) -> io::Result<Self> {
        let listener = config.outlets.is_something().then(|| Listener::new(hooks)).transpose()?;
        let watch = Arc::new(Watch::new()?);
        let cache = BlobCache::of_parent();
        let engine = Engine::new(watch, Arc::clone(&cache), &config);
        Ok(Self {
            config,
            cache,
            callbacks: Arc::new(UserThread::new("procpool-calls")),
            wakers: Arc::new(UserThread::new("procpool-wakes")),
            listener: listener.map(Arc::new),
            starter: Mutex::new(Some(starter)),
            owner: OwnerProcess::here(),
            driven: Mutex::new(Driven {
                engine,
                seat: Seat::Empty,
                asleep_until: None,
                drives: 0,
                turned_at: Instant::now(),
                spin: AdaptiveSpin::long(),
                probes: Vec::new(),
                background_sleeps: false,
                background_dozes: false,
                followers: Waiters::default(),
                leaving: false,
                background_gone: true,
            }),
            background: Condvar::new(),
            background_thread: Mutex::new(None),
            departure: Condvar::new(),
        })
    }

    /// Refuses a forked copy of the pool. Called before any lock: in the copy, it may be held for ever by a thread that
    /// exists only in the process that made the pool.
    pub(super) fn check_owner(&self) -> Result<(), PoolError> {
        match self.owner.is_here() {
            true => Ok(()),
            false => Err(PoolError::ForkedCopy),
        }
    }

    /// Changes or reads the engine, and does what follows from it.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Engine) -> R) -> Result<R, PoolError> {
        self.check_owner()?;
        let mut driven = self.driven.lock();
        let result = f(&mut driven.engine);
        // Under the same lock as `f`: a driver that falls asleep after this has seen what `f` did, one that sleeps
        // already is woken here.
        self.alert(&mut driven);
        drop(self.settle_effects(driven));
        Ok(result)
    }

    /// As [`with`](Self::with), for a thread that gives the engine more to do and will be back soon: it takes in what
    /// has arrived first, and spares the pool a second driver meanwhile.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    pub(super) fn feed<R>(&self, f: impl FnOnce(&mut Engine) -> R) -> Result<R, PoolError> {
        self.check_owner()?;
        let mut driven = self.driven.lock();
        // A join on another thread may have put the watch away by now: then there are no events and nothing to displace
        // (the background thread has been told to leave), and `f` learns from the engine that the pool takes no more.
        if driven.engine.is_watched() {
            if driven.seat == Seat::Background {
                // It sees the new seat as soon as it has the lock, and gives up. This thread takes its place for the
                // length of this call only.
                driven.engine.watch().nudge.ring();
                driven.seat = Seat::Empty;
                driven.asleep_until = None;
            }
            // The background thread measures by this whether callers come often enough to do without it.
            driven.drives += 1;
            // With a foreground driver there is nothing to do: it polls by itself.
            if driven.seat == Seat::Empty {
                self.poll_links(&mut driven, &mut Vec::new());
            }
        }
        let result = f(&mut driven.engine);
        // See `with`.
        self.alert(&mut driven);
        drop(self.settle_effects(driven));
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use start_methods::Boot;
    use start_methods::StartMethod;

    use super::*;
    use crate::schedule::size::Size;
    use crate::transport::links::Links;
    use crate::transport::outlets::Wanted;

    /// A pool whose workers and threads are never started.
    fn shared() -> Shared {
        let config = Config {
            size: Size::fixed(1),
            start_method: StartMethod::Fork,
            max_tasks_per_child: None,
            max_rss_per_child: None,
            max_age_per_child: None,
            initializer: None,
            initializer_timeout: None,
            finalizer: None,
            finalizer_timeout: Duration::ZERO,
            outlets: Wanted::NOTHING,
            affinity: Vec::new(),
            name: String::new(),
            boot: Boot::new(crate::worker::main),
            started: AtomicU64::new(0),
            events: None,
            slow_after: None,
            record: None,
            links: Links::choose(),
        };
        Shared::new(config, Arc::new(Starter::new(StartMethod::Fork).unwrap()), Hooks::default()).unwrap()
    }

    /// A join puts the watch away before the background thread has left the seat.
    #[test]
    fn a_caller_that_feeds_while_the_pool_is_joined_is_refused() {
        let shared = shared();
        {
            let mut driven = shared.driven.lock();
            driven.seat = Seat::Background;
            driven.engine.close();
            driven.engine.take_watch();
        }
        let refusal = shared.feed(|engine| engine.refusal()).unwrap();
        assert!(matches!(refusal, Some(PoolError::Closed)), "{refusal:?}");
    }
}
