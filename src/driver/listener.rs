//! The thread that passes on what workers tell beside their answers: their logs and their output.
//!
//! It holds no lock of the engine's, and is not needed for any result. If the user's logger or hook blocks, workers fill
//! their sockets and pipes: records are then dropped by the worker and counted, and a task that prints waits. Started only
//! for pools that want something of this.

use std::io;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::thread::ThreadId;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use parking_lot::Condvar;
use parking_lot::Mutex;
use start_methods::threads::Announced;
use start_methods::threads::Resident;

use super::outlet::Outlet;
use super::outlet::Told;
use super::told::Hooks;
use crate::sys::bell::Bell;
use crate::sys::condvar;
use crate::sys::payload;

struct State {
    /// Outlets of workers that have been started, for the thread.
    arrived: Vec<Outlet>,
    /// The thread leaves when it has read what is there.
    closing: bool,
    /// The thread has left, or was not started.
    gone: bool,
    thread_id: Option<ThreadId>,
    /// Wakes the thread. Gone with it.
    bell: Option<Arc<Bell>>,
}

impl State {
    fn wake(&self) {
        self.bell.iter().for_each(|bell| bell.ring());
    }
}

/// The thread, and the way to it.
pub(super) struct Listener {
    hooks: Hooks,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// A listener without its thread.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub(super) fn new(hooks: Hooks) -> io::Result<Self> {
        Ok(Self {
            hooks,
            state: Mutex::new(State {
                arrived: Vec::new(),
                closing: false,
                gone: true,
                thread_id: None,
                bell: Some(Arc::new(Bell::new()?)),
            }),
            changed: Condvar::new(),
            thread: Mutex::new(None),
        })
    }

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system refused a thread.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<()> {
        // Before the thread exists, so that an end of the pool that comes first waits for it.
        self.state.lock().gone = false;
        let listener = Arc::clone(self);
        let announced = Announced::new();
        let builder = std::thread::Builder::new().name("procpool-logs".to_owned());
        let thread = builder.spawn(move || listener.serve(&announced.enter()));
        *self.thread.lock() = Some(thread.inspect_err(|_| self.state.lock().gone = true)?);
        Ok(())
    }

    /// Listens to a worker that has been started.
    pub(super) fn add(&self, outlet: Outlet) {
        let mut state = self.state.lock();
        state.arrived.push(outlet);
        state.wake();
    }

    /// Whether the caller is the thread.
    pub(super) fn is_current(&self) -> bool {
        self.state.lock().thread_id == Some(std::thread::current().id())
    }

    /// Lets the thread read what is there and leave, and waits for that, at most until the deadline; on the thread itself
    /// it does not wait. The workers are gone. Returns whether the thread has left; on the thread itself, `true`.
    pub(super) fn finish(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        state.closing = true;
        state.wake();
        if state.thread_id == Some(std::thread::current().id()) {
            return true;
        }
        while !state.gone {
            if condvar::sleep(&self.changed, &mut state, deadline) {
                return state.gone;
            }
        }
        drop(state);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            log::error!("the thread procpool-logs panicked: a bug in procpool");
        }
        true
    }

    fn serve(&self, resident: &Resident) {
        let Some(bell) = self.come() else { return };
        let mut outlets: Vec<Outlet> = Vec::new();
        loop {
            let closing = {
                let mut state = self.state.lock();
                outlets.append(&mut state.arrived);
                state.closing
            };
            let mut told = Vec::new();
            outlets.retain_mut(|outlet| {
                let is_over = closing || outlet.has_ended();
                if is_over {
                    outlet.read_last(&mut told)
                } else {
                    outlet.read(&mut told)
                }
                !is_over
            });
            // The logger may take locks. A fork waits until it has given them back: until this thread is parked.
            told.iter().for_each(|told| self.tell(told));
            if closing {
                break;
            }
            let fds = outlets.iter().flat_map(|outlet| outlet.fds()).chain([bell.as_fd()]);
            let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            // An error is an interruption by a signal.
            let _woken = resident.park(|| poll(&mut fds, PollTimeout::NONE));
            // Before the state is looked at: a later ring is for a later change.
            bell.quiet();
        }
        drop(outlets);
        let mut state = self.state.lock();
        state.gone = true;
        state.bell = None;
        self.changed.notify_all();
    }

    fn come(&self) -> Option<Arc<Bell>> {
        let mut state = self.state.lock();
        state.thread_id = Some(std::thread::current().id());
        state.bell.clone()
    }

    /// Code of the user's: a panic in it is logged.
    fn tell(&self, told: &Told) {
        let Hooks { on_log, on_output } = &self.hooks;
        let (what, ran) = match told {
            Told::Log(record) => {
                let tell = || on_log.as_ref().map_or_else(|| record.relay(), |hook| hook.call(record));
                ("the hook for logs", catch_unwind(AssertUnwindSafe(tell)))
            }
            Told::Line(line) => {
                let tell = || on_output.iter().for_each(|hook| hook.call(line));
                ("the hook for output", catch_unwind(AssertUnwindSafe(tell)))
            }
        };
        if let Err(payload) = ran {
            let text = payload::into_text(payload);
            // What panicked may be the logger: then it panics again here.
            drop(catch_unwind(|| log::error!("{what} panicked: {text}")));
        }
    }
}
