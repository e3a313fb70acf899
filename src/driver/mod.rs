//! Who drives the engine, and how everybody else waits.
//!
//! There is no dispatcher thread. *Whoever waits, drives*: a thread that is blocked in `get`, `map` or `next` takes the
//! **seat**, runs turns of the engine itself, and sleeps in the epoll set between them, so that the answer it waits
//! for wakes it directly. One thread sits at a time:
//!
//! ```text
//!   Empty ──────── a waiting thread ──────────▶ Foreground ── its wait is over ──▶ Empty, or the next waiter
//!   Empty ── nobody has driven for a while ───▶ Background ── displaced by a waiter ─▶ Foreground
//! ```
//!
//! - A thread that must wait while the seat is taken *follows*: it sleeps on a condition variable of its own, and is
//!   woken when its job makes progress, or when the seat falls empty and is its to take.
//! - The **background thread** drives when nobody waits: for results that nobody asks for yet, for callbacks and
//!   wakers, for deaths. It never takes the seat from a thread that waits. Taking over at once would cost every short
//!   call two context switches, so it looks for a while first unless somebody has to be
//!   told; and while it sits it sleeps in poll(2) on the epoll set *beside* a bell of its own, so that a waiter that
//!   displaces it does not compete with it for events.
//! - While nobody sits, events wait in the kernel; nothing is lost by that.
//!
//! Every wait is for a condition on the engine that is looked at under the lock, and whoever makes it true under the
//! lock wakes whoever may sleep on it: the follower by its condition variable, the driver by the doorbell. So no
//! wake-up is lost.

mod background;
pub(crate) mod callbacks;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::thread::current;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::MutexGuard;
use start_methods::Child;
use start_methods::Starter;
use start_methods::Starts;

use crate::driver::callbacks::Callbacks;
use crate::engine::Engine;
use crate::engine::Ringers;
use crate::engine::config::Config;
use crate::engine::effects::Due;
use crate::engine::watch::Source;
use crate::engine::watch::Watch;
use crate::error::PoolError;
use crate::sys::condvar;
use crate::sys::owner_process::OwnerProcess;
use crate::sys::spin;
use crate::sys::spin::AdaptiveSpin;
use crate::transport::link::AnswerProbe;
use crate::transport::link::Link;
use crate::values::blob::BlobCache;
use crate::values::output::Output;
use crate::work::batch::JobId;
use crate::work::jobs::Callback;
use crate::work::jobs::Log;

/// How long answers from rings may keep the epoll set from being asked.
const TURN_EVERY: Duration = Duration::from_millis(1);
/// How long a driver sleeps at most while workers are busy. They ring, so this is for bells that a task has closed.
const RECHECK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    Empty,
    Foreground,
    Background,
}

/// The engine and who drives it: everything behind the lock.
pub(crate) struct Driven {
    pub(crate) engine: Engine,
    seat: Seat,
    /// The driver sleeps, until this time if it has set itself one.
    asleep_until: Option<Option<Instant>>,
    /// Counts the times that somebody has driven, so that the background thread sees whether anybody has.
    drives: u64,
    /// When the epoll set was last asked: answers in rings come without it, and must not keep all else waiting.
    turned_at: Instant,
    /// How long the next driver looks for answers before it sleeps.
    spin: AdaptiveSpin,
    /// Memory for what it looks at.
    probes: Vec<AnswerProbe>,
    /// The background thread sleeps until it is told that the seat is empty.
    background_sleeps: bool,
    /// The background thread lets callers come and go, and is told only when one leaves something unfinished.
    background_dozes: bool,
    /// Threads that wait for the seat or for their job.
    followers: Vec<Arc<Condvar>>,
    /// The background thread must leave.
    leaving: bool,
    /// It has left, or was never there.
    background_gone: bool,
}

impl Driven {
    /// Notes that the driver sleeps, and asks workers to wake it. Says who will, and until when it may sleep.
    fn fall_asleep(&mut self, now: Instant, deadline: Option<Instant>) -> (Ringers, Option<Instant>) {
        let ringers = self.engine.ask_to_ring();
        let recheck = match ringers {
            Ringers::None => None,
            Ringers::Some => Some(now + RECHECK),
            Ringers::Late => Some(now),
        };
        let until = [self.engine.next_timer(), deadline, recheck].into_iter().flatten().min();
        self.asleep_until = Some(until);
        (ringers, until)
    }
}

/// What a pool's handles, iterators and threads share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// What large values left behind, for the next ones.
    cache: Arc<BlobCache>,
    pub(crate) callbacks: Arc<Callbacks>,
    /// Gone when the pool is joined.
    starter: Mutex<Option<Arc<Starter>>>,
    /// The process that made the pool.
    owner: OwnerProcess,
    driven: Mutex<Driven>,
    /// The background thread waits here while it does not sit.
    background: Condvar,
    background_thread: Mutex<Option<JoinHandle<()>>>,
    /// Tells that the background thread has left.
    departure: Condvar,
}

impl Shared {
    pub(crate) fn new(config: Config, starter: Arc<Starter>) -> io::Result<Self> {
        let watch = Arc::new(Watch::new()?);
        let cache = BlobCache::of_parent();
        let engine = Engine::new(watch, Arc::clone(&cache), config.policy(), config.max_rss_per_child);
        Ok(Self {
            config,
            cache,
            callbacks: Arc::new(Callbacks::new()),
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
                followers: Vec::new(),
                leaving: false,
                background_gone: true,
            }),
            background: Condvar::new(),
            background_thread: Mutex::new(None),
            departure: Condvar::new(),
        })
    }

    /// Where large arguments come from. Those of workers that run one item each are for one reader alone, so that none of
    /// them ever sees what another is sent.
    pub(crate) fn output(&self) -> Output {
        match self.config.max_tasks_per_child {
            Some(1) => Output::default(),
            _ => Output::with_cache(Arc::clone(&self.cache)),
        }
    }

    /// Whether this process is the one that made the pool. In any other, the lock may be held for ever.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner.is_here()
    }

    /// Starts the first workers, on this thread, and freezes what later ones will be forked from.
    ///
    /// # Errors
    ///
    /// The first start that failed; the caller drops the pool, and with it the workers that did start.
    pub(crate) fn start_first_workers(&self, starts: &mut Starts<'_>) -> Result<(), PoolError> {
        let processes = self.config.size.wanted();
        for started in 0..processes {
            let worker = self.config.start_worker(starts);
            let engine = &mut self.driven.lock().engine;
            match worker {
                Ok((child, link)) => engine.started(child, link),
                Err(error) => {
                    engine.drop_starts(processes - started);
                    return Err(error);
                }
            }
        }
        // Nobody's, if the pool begins without workers.
        self.config.links.drop_leftovers();
        Ok(starts.settle()?)
    }

    /// Does something to the engine, and what follows from it.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Engine) -> R) -> Result<R, PoolError> {
        if !self.is_ours() {
            return Err(PoolError::ForkedCopy);
        }
        let mut driven = self.driven.lock();
        let result = f(&mut driven.engine);
        self.alert(&mut driven);
        drop(self.settle_effects(driven));
        Ok(result)
    }

    /// Does something to the engine that gives it more to do, and takes in what has come meanwhile: for callers that
    /// will be back soon, and need no driver beside them.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    pub(crate) fn feed<R>(&self, f: impl FnOnce(&mut Engine) -> R) -> Result<R, PoolError> {
        if !self.is_ours() {
            return Err(PoolError::ForkedCopy);
        }
        let mut driven = self.driven.lock();
        if driven.seat == Seat::Background {
            driven.engine.watch().nudge.ring();
            driven.seat = Seat::Empty;
            driven.asleep_until = None;
        }
        driven.drives += 1;
        if driven.seat == Seat::Empty && driven.engine.is_watched() {
            self.look(&mut driven, &mut Vec::new());
        }
        let result = f(&mut driven.engine);
        self.alert(&mut driven);
        drop(self.settle_effects(driven));
        Ok(result)
    }

    /// Waits until `check` gives something, driving meanwhile; `None` once the deadline has passed.
    ///
    /// `job` is the one whose progress can change the answer of `check`; without one, any turn can.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the pool.
    pub(crate) fn wait<R>(
        &self,
        job: Option<JobId>,
        deadline: Option<Instant>,
        mut check: impl FnMut(&mut Engine) -> Option<R>,
    ) -> Result<Option<R>, PoolError> {
        if !self.is_ours() {
            return Err(PoolError::ForkedCopy);
        }
        let mut driven = self.driven.lock();
        let result = loop {
            if let Some(result) = check(&mut driven.engine) {
                break Some(result);
            }
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late || !driven.engine.is_watched() {
                // Once the pool is joined, nothing will ever change.
                break None;
            }
            if driven.seat == Seat::Foreground {
                driven = self.follow(driven, job, deadline);
                continue;
            }
            let (after, result) = self.drive(driven, deadline, &mut check);
            driven = after;
            if result.is_some() {
                break result;
            }
        };
        // This thread may have been told of an empty seat that it does not need now.
        self.offer_seat(&mut driven);
        self.alert(&mut driven);
        drop(self.settle_effects(driven));
        Ok(result)
    }

    // ---- the seat ------------------------------------------------------------------------------------------------

    /// Takes the seat and drives until `check` gives something or the deadline has passed.
    fn drive<'a, R>(
        &'a self,
        mut driven: MutexGuard<'a, Driven>,
        deadline: Option<Instant>,
        check: &mut impl FnMut(&mut Engine) -> Option<R>,
    ) -> (MutexGuard<'a, Driven>, Option<R>) {
        let watch = driven.engine.watch();
        if driven.seat == Seat::Background {
            watch.nudge.ring();
        }
        driven.seat = Seat::Foreground;
        driven.asleep_until = None;
        let mut sources = Vec::new();
        let result = loop {
            if !self.look(&mut driven, &mut sources) && !self.spin(&mut driven) {
                self.sleep(&mut driven, &watch, &mut sources, deadline);
                driven.engine.turn(&sources);
            }
            self.alert(&mut driven);
            driven = self.settle_effects(driven);
            let result = check(&mut driven.engine);
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if result.is_some() || late || !driven.engine.is_watched() {
                break result;
            }
        };
        driven.seat = Seat::Empty;
        driven.drives += 1;
        self.offer_seat(&mut driven);
        (driven, result)
    }

    /// Takes in what lies in the rings, and now and then what the epoll set has; says whether there was anything.
    fn look(&self, driven: &mut Driven, sources: &mut Vec<Source>) -> bool {
        let Some(now) = driven.engine.poll() else { return false };
        if now.saturating_duration_since(driven.turned_at) >= TURN_EVERY {
            driven.turned_at = now;
            driven.engine.watch().wait(sources, Some(now)).expect("an epoll set of our own can be asked");
            driven.engine.turn(sources);
        }
        true
    }

    /// Looks for answers in the rings for a while, without the lock. Says whether there may be some.
    fn spin(&self, driven: &mut MutexGuard<'_, Driven>) -> bool {
        let mut probes = std::mem::take(&mut driven.probes);
        driven.engine.probes(&mut probes);
        let found = !probes.is_empty() && {
            let time = driven.spin.time();
            MutexGuard::unlocked(driven, || spin::look(time, || probes.iter().any(AnswerProbe::has_news)))
        };
        probes.clear();
        driven.probes = probes;
        if found {
            driven.spin.was_rewarded();
        }
        found
    }

    /// Sleeps until something has happened or is due. Not if there are answers already.
    fn sleep(
        &self,
        driven: &mut MutexGuard<'_, Driven>,
        watch: &Watch,
        sources: &mut Vec<Source>,
        deadline: Option<Instant>,
    ) {
        let now = Instant::now();
        driven.turned_at = now;
        let (ringers, until) = driven.fall_asleep(now, deadline);
        let slept = MutexGuard::unlocked(driven, || watch.wait(sources, until));
        driven.asleep_until = None;
        slept.expect("an epoll set of our own can be waited for");
        if ringers == Ringers::Some {
            driven.spin.was_followed_by(now.elapsed());
        }
    }

    /// If the seat is empty, tells the next who may take it: a follower, or else the background thread.
    fn offer_seat(&self, driven: &mut Driven) {
        if driven.seat != Seat::Empty {
            return;
        }
        if let Some(follower) = driven.followers.first() {
            follower.notify_all();
        } else if driven.background_sleeps || (driven.background_dozes && driven.engine.unfinished() > 0) {
            driven.background_sleeps = false;
            driven.background_dozes = false;
            self.background.notify_all();
        }
    }

    /// Sleeps until the job makes progress, the seat falls empty, or the deadline has passed.
    fn follow<'a>(
        &'a self,
        mut driven: MutexGuard<'a, Driven>,
        job: Option<JobId>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, Driven> {
        let condvar = Arc::new(Condvar::new());
        driven.followers.push(Arc::clone(&condvar));
        driven.engine.watchers(job).push(Arc::clone(&condvar));
        condvar::sleep(&condvar, &mut driven, deadline);
        driven.followers.retain(|follower| !Arc::ptr_eq(follower, &condvar));
        driven.engine.watchers(job).retain(|watcher| !Arc::ptr_eq(watcher, &condvar));
        driven
    }

    /// Wakes the driver if it sleeps past something that has changed, and the background thread if it is needed.
    fn alert(&self, driven: &mut Driven) {
        if !driven.engine.is_watched() {
            // The pool is joined. Whoever still sleeps has been woken for that.
            return;
        }
        if let Some(until) = driven.asleep_until {
            let timer = driven.engine.next_timer();
            let oversleeps = timer.is_some_and(|timer| until.is_none_or(|until| timer < until));
            // Workers that have been given something since it fell asleep have not been asked to ring.
            if oversleeps || driven.engine.ask_to_ring() == Ringers::Late {
                driven.engine.watch().ring();
            }
        }
        let needed = driven.engine.attended() > 0 || (driven.background_sleeps && driven.engine.unfinished() > 0);
        let starts_due = driven.engine.effects.starts > 0;
        if starts_due || (driven.seat == Seat::Empty && needed) {
            driven.background_sleeps = false;
            self.background.notify_all();
        }
        if starts_due && driven.seat == Seat::Background {
            driven.engine.watch().nudge.ring();
        }
    }

    /// Does what must not be done under the lock and is quickly done, until there is nothing left of it.
    fn settle_effects<'a>(&'a self, mut driven: MutexGuard<'a, Driven>) -> MutexGuard<'a, Driven> {
        while !driven.engine.effects.is_settled() {
            if std::mem::take(&mut driven.engine.effects.link_refused) {
                self.config.links.fall_back();
            }
            let calls = std::mem::take(&mut driven.engine.effects.calls);
            let unwanted = std::mem::take(&mut driven.engine.effects.unwanted);
            let spent = std::mem::take(&mut driven.engine.effects.spent);
            MutexGuard::unlocked(&mut driven, || {
                calls.into_iter().for_each(|due| self.callbacks.push(due));
                drop(unwanted);
                drop(spent);
            });
        }
        driven
    }

    /// Starts the workers that are due. On the background thread only: a start may take its time, and a thread that
    /// waits for a result must not wait for that.
    fn start_due<'a>(&'a self, mut driven: MutexGuard<'a, Driven>) -> MutexGuard<'a, Driven> {
        while driven.engine.effects.starts > 0 {
            driven.engine.effects.starts -= 1;
            let started = MutexGuard::unlocked(&mut driven, || self.start_worker());
            match started {
                Ok((child, link)) => driven.engine.started(child, link),
                Err(error) => driven.engine.start_failed(error),
            }
            // A timer may have been set, or the last obstacle to the pool's rest may be gone.
            self.alert(&mut driven);
            driven = self.settle_effects(driven);
        }
        driven
    }

    /// Calls a callback whose job has finished, on the callback thread.
    pub(crate) fn call_back(&self, callback: Callback, log: Arc<Log>) {
        match self.is_ours() {
            true => self.callbacks.push(Due::Call(callback, log)),
            // The queue's lock may be held for ever here, and its thread does not exist.
            false => Callbacks::run_apart(Due::Call(callback, log)),
        }
    }

    fn start_worker(&self) -> Result<(Child, Link), PoolError> {
        let starter = self.starter.lock().clone();
        // Gone when the pool was joined, or dropped, while this start was on its way.
        let starter = starter.ok_or(PoolError::Terminated)?;
        self.config.start_worker(&mut starter.several())
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    /// Tells what starts workers to end, if it is the pool's own, for nothing will be started any more. It ends while
    /// the threads do.
    pub(crate) fn dismiss_starter(&self) {
        if let Some(starter) = self.starter.lock().as_ref() {
            starter.dismiss();
        }
    }

    /// Ends the two threads, and gives back every descriptor. The workers are gone before. Callbacks that are due run
    /// first; not for ever if there is a deadline.
    pub(crate) fn finish(&self, deadline: Option<Instant>) {
        // One thread leaves while the other does, unless it has something to do first.
        let callbacks_gone = self.callbacks.close() || self.callbacks.finish(deadline);
        let mut driven = self.driven.lock();
        driven.leaving = true;
        self.background.notify_all();
        if let Some(watch) = driven.engine.take_watch() {
            // Both: somebody in the foreground may sleep there too, waiting for the same end.
            watch.nudge.ring();
            watch.ring();
        }
        // A waker that drops the pool may run on any thread, and this one cannot wait for itself.
        let here = self.background_thread.lock().as_ref().is_some_and(|thread| thread.thread().id() == current().id());
        let mut late = false;
        while !driven.background_gone && !here && !late {
            late = condvar::sleep(&self.departure, &mut driven, deadline);
        }
        let gone = driven.background_gone;
        drop(driven);
        let thread = self.background_thread.lock().take();
        match thread {
            Some(thread) if gone => match thread.join() {
                Ok(()) => {}
                Err(_) => log::error!("the background thread panicked: a bug in procpool"),
            },
            Some(_) if !here => log::warn!("a worker is still being started; the thread that does it is left behind"),
            _ => {}
        }
        if !callbacks_gone || !self.callbacks.finish(deadline) {
            log::warn!("a callback is still running; its thread is left behind");
        }
        self.cache.close();
        drop(self.starter.lock().take());
    }
}
