//! The callback thread: runs what is the user's, one after the other, and nothing else.
//!
//! That is callbacks, the wakers of futures, and the logger behind `log`. All of them may come back to the pool, and
//! none may do so from a thread that others rely on. A callback may block, panic, submit to the pool, wait for another job, or terminate the pool. None of that can
//! hurt anything but the callbacks behind it: no lock of ours is held while one runs, a panic is caught and logged,
//! and nobody waits for this thread from within it.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::thread::ThreadId;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::Mutex;
use start_methods::threads::Announced;
use start_methods::threads::Resident;

use crate::engine::effects::Due;
use crate::sys::condvar;
use crate::sys::payload;

#[derive(Default)]
struct Queue {
    due: VecDeque<Due>,
    /// One is being run.
    running: bool,
    /// Leave when there is nothing due.
    closing: bool,
    /// The thread has left, or has never been.
    gone: bool,
}

/// The queue between whoever sees a job finish and the callback thread.
pub(crate) struct Callbacks {
    queue: Mutex<Queue>,
    changed: Condvar,
    thread_id: OnceLock<ThreadId>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Callbacks {
    /// An empty queue, without its thread.
    pub(crate) fn new() -> Self {
        Self {
            queue: Mutex::new(Queue { gone: true, ..Queue::default() }),
            changed: Condvar::new(),
            thread_id: OnceLock::new(),
            thread: Mutex::new(None),
        }
    }

    /// Starts the thread.
    pub(crate) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        self.queue.lock().gone = false;
        let callbacks = Arc::clone(self);
        let builder = std::thread::Builder::new().name("procpool-calls".to_owned());
        let announced = Announced::new();
        match builder.spawn(move || callbacks.serve(&announced.enter())) {
            Ok(thread) => {
                *self.thread.lock() = Some(thread);
                Ok(())
            }
            Err(error) => {
                self.queue.lock().gone = true;
                Err(error)
            }
        }
    }

    /// Runs it soon, on the callback thread. After the end of the pool, on a thread of its own.
    pub(crate) fn push(&self, due: Due) {
        let mut queue = self.queue.lock();
        if queue.gone {
            drop(queue);
            // The pool has been joined: this is, say, a callback attached to a result that was there already.
            Self::run_apart(due);
            return;
        }
        queue.due.push_back(due);
        self.changed.notify_all();
    }

    /// Runs it on a thread of its own.
    pub(crate) fn run_apart(due: Due) {
        let builder = std::thread::Builder::new().name("procpool-calls".to_owned());
        if let Err(error) = builder.spawn(move || run(due)) {
            log::error!("a callback could not run: no thread: {error}");
        }
    }

    /// Whether this is the callback thread.
    pub(crate) fn is_current(&self) -> bool {
        self.thread_id.get() == Some(&std::thread::current().id())
    }

    /// Lets the thread leave once nothing is due. Whether nothing is: then it leaves at once, and is given nothing more.
    pub(crate) fn close(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.closing = true;
        self.changed.notify_all();
        let leaves = queue.due.is_empty() && !queue.running;
        queue.gone |= leaves;
        leaves
    }

    /// Lets the thread leave once nothing is due, and waits for that; not for ever if there is a deadline, and not at
    /// all on the callback thread itself. Whether it has left, as far as anybody can wait for that.
    pub(crate) fn finish(&self, deadline: Option<Instant>) -> bool {
        let mut queue = self.queue.lock();
        queue.closing = true;
        self.changed.notify_all();
        if self.is_current() {
            return true;
        }
        while !queue.gone {
            if condvar::sleep(&self.changed, &mut queue, deadline) {
                return queue.gone;
            }
        }
        drop(queue);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            log::error!("the callback thread panicked: a bug in procpool");
        }
        true
    }

    fn serve(&self, resident: &Resident) {
        self.thread_id.get_or_init(|| std::thread::current().id());
        let mut queue = self.queue.lock();
        loop {
            match queue.due.pop_front() {
                Some(due) => {
                    queue.running = true;
                    drop(queue);
                    resident.foreign(|| run(due));
                    queue = self.queue.lock();
                    queue.running = false;
                }
                None if queue.closing => break,
                None => resident.park(|| self.changed.wait(&mut queue)),
            }
        }
        queue.gone = true;
        self.changed.notify_all();
    }
}

/// Runs it; a panic is logged.
fn run(due: Due) {
    let what = match due {
        Due::Call(..) => "a callback",
        Due::Wake(_) => "a waker",
        Due::Log(..) => "the logger",
    };
    // It is consumed, so nobody sees what it left half done, save what it shares with the user's code.
    let ran = catch_unwind(AssertUnwindSafe(|| match due {
        Due::Call(callback, log) => callback(&log),
        Due::Wake(waker) => waker.wake(),
        Due::Log(level, text) => log::log!(level, "{text}"),
    }));
    if let Err(payload) = ran {
        let text = payload::into_text(payload);
        // Once more may be once too often for a logger that panics.
        drop(catch_unwind(|| log::error!("{what} panicked: {text}")));
    }
}

/// How long a drop of the pool waits for callbacks that are still running.
pub(crate) const DROP_TIMEOUT: Duration = Duration::from_secs(1);
