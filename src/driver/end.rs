//! The end of a pool: terminate, join, and the release of its threads and descriptors.

use std::thread::current;
use std::time::Duration;
use std::time::Instant;

use crate::driver::seat::WaitsFor;
use crate::driver::shared::Shared;
use crate::engine::GRACE;
use crate::error::PoolError;
use crate::sys::condvar;

/// How long workers may take to end after SIGKILL before they are given up as unreapable.
const REAP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the drop of a pool waits for callbacks that are still running.
const DROP_TIMEOUT: Duration = Duration::from_secs(1);

impl Shared {
    /// See [`Backend::terminate`](crate::driver::Backend::terminate).
    pub(super) fn end(&self, grace: Duration) {
        // A forked copy has nothing to end.
        if self.with(|engine| engine.end(PoolError::Terminated, grace)).is_ok() {
            self.wait_for_workers(Instant::now().checked_add(grace).map(|over| over + REAP_TIMEOUT));
        }
    }

    /// See [`Backend::join`](crate::driver::Backend::join).
    pub(super) fn join_by(&self, deadline: Option<Instant>) -> Result<bool, PoolError> {
        let refusal = self.with(|engine| engine.refusal())?;
        let is_listener = self.listener.as_ref().is_some_and(|listener| listener.is_current());
        if self.callbacks.is_current() || self.wakers.is_current() || is_listener {
            return Err(PoolError::WouldDeadlock);
        }
        if refusal.is_none() {
            return Err(PoolError::StillRunning);
        }
        if !self.wait_until_at_rest_or_ended(deadline) {
            return Ok(false);
        }
        // A pool that has come to rest waits only for workers that were given up.
        let killed_by =
            self.with(|engine| if engine.is_at_rest() { Some(Instant::now()) } else { engine.killed_by() })?;
        let reaped_by = killed_by.map(|at| at.max(Instant::now()) + REAP_TIMEOUT);
        if !self.wait_for_workers([deadline, reaped_by].into_iter().flatten().min()) {
            return match deadline {
                Some(deadline) if Instant::now() >= deadline => Ok(false),
                _ => Err(PoolError::Unreaped { pids: self.with(|engine| engine.unended())? }),
            };
        }
        self.dismiss_starter();
        if !self.hear_out(deadline) {
            return Ok(false);
        }
        // Callbacks first: they may attach wakers.
        for thread in [&self.callbacks, &self.wakers] {
            if !thread.close() && !thread.finish(deadline) {
                return Ok(false);
            }
        }
        self.release(None);
        match self.with(|engine| engine.refusal())? {
            Some(error @ PoolError::Broken { .. }) => Err(error),
            _ => Ok(true),
        }
    }

    /// See [`Backend::shut_down`](crate::driver::Backend::shut_down).
    pub(super) fn end_and_release(&self) {
        self.warn_of_what_is_cut_off();
        self.end(GRACE);
        self.dismiss_starter();
        self.release(Some(Instant::now() + DROP_TIMEOUT));
    }

    /// What a closed pool has accepted was meant to finish, and the drop does not wait. A pool that was not closed is
    /// dropped to stop it, as by an early return, so there is nothing to say.
    fn warn_of_what_is_cut_off(&self) {
        let calls = self.with(|engine| match engine.refusal() {
            Some(PoolError::Closed) => engine.unfinished(),
            _ => 0,
        });
        if let Ok(calls @ 1..) = calls {
            log::warn!("a closed pool is dropped with {calls} unfinished call(s); join() would have waited for them");
        }
    }

    /// Waits until the pool is at rest, or was terminated or broke meanwhile: a closed pool may take its time, one that
    /// has ended may not. Returns whether it has come to either.
    fn wait_until_at_rest_or_ended(&self, deadline: Option<Instant>) -> bool {
        let over = self.wait_for(WaitsFor::Workers, deadline, |engine| {
            let ended = engine.refusal().is_some_and(|refusal| !matches!(refusal, PoolError::Closed));
            (ended || engine.is_at_rest()).then_some(())
        });
        // In a forked copy there is nothing to wait for.
        over.is_ok_and(|over| over.is_some())
    }

    /// Waits until the workers are gone. Returns whether they are.
    fn wait_for_workers(&self, deadline: Option<Instant>) -> bool {
        let gone = self.wait_for(WaitsFor::Workers, deadline, |engine| engine.is_over().then_some(()));
        gone.is_ok_and(|gone| gone.is_some())
    }

    /// Waits until everything that workers have told is passed on, at most until the deadline. Returns whether it is.
    fn hear_out(&self, deadline: Option<Instant>) -> bool {
        self.listener.as_ref().is_none_or(|listener| listener.finish(deadline))
    }

    /// Tells the process that starts workers to end, if it belongs to this pool: nothing will be started any more. It
    /// ends while the threads do.
    fn dismiss_starter(&self) {
        if let Some(starter) = self.starter.lock().as_ref() {
            starter.dismiss();
        }
    }

    /// Ends the threads, and releases every descriptor. The workers are gone already. Callbacks that are due run
    /// first; with a deadline, no longer than that.
    fn release(&self, deadline: Option<Instant>) {
        if !self.hear_out(deadline) {
            log::warn!("a hook for logs or output is still running; its thread is left behind");
        }
        // Unless callbacks are due, all threads leave at the same time.
        let callbacks_gone = self.callbacks.close() || self.callbacks.finish(deadline);
        let wakers_gone = self.wakers.close() || self.wakers.finish(deadline);
        let mut driven = self.driven.lock();
        // These three under one lock: a thread that sees no watch any more may rely on `leaving`, and the background
        // thread checks `leaving` under the lock before each sleep.
        driven.leaving = true;
        self.background.notify_all();
        if let Some(watch) = driven.engine.take_watch() {
            // The background thread sleeps beside the nudge. A foreground driver that waits for the same end sleeps at
            // the doorbell, and once the watch is put away no event wakes it. It keeps the watch alive until it has
            // woken.
            watch.nudge.ring();
            watch.ring();
        }
        // A waker that drops the pool may run on any thread, so this may be the background thread, which cannot wait
        // for itself.
        let here = self.background_thread.lock().as_ref().is_some_and(|thread| thread.thread().id() == current().id());
        let mut late = false;
        while !driven.background_gone && !here && !late {
            late = condvar::sleep(&self.departure, &mut driven, deadline);
        }
        let gone = driven.background_gone;
        drop(driven);
        // Taken under its lock: of several threads that join the pool, one joins the thread.
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
        if !wakers_gone || !self.wakers.finish(deadline) {
            log::warn!("the waker of a task is still running; its thread is left behind");
        }
        self.cache.close();
        drop(self.starter.lock().take());
    }
}
