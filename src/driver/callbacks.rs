//! The threads that run code of the user, one piece after the other, and nothing else.
//!
//! A pool has two. The *callback thread* runs callbacks and the logger behind `log`. The *waker thread* wakes the tasks
//! that await a future or a stream; it starts with the first waker. All of this code may call the pool again, which is
//! safe only on a thread that no other thread relies on.
//!
//! A callback may block, panic, submit to the pool, wait for another job, or terminate the pool. That delays the
//! callbacks behind it and affects nothing else: no lock of this crate is held while one runs, a panic is caught and
//! logged, and the thread never waits for itself. Wakers have a thread of their own because they must not wait behind a
//! callback that blocks: a waker does not block, by its contract.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::thread::ThreadId;
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
    /// The thread runs one at this moment.
    running: bool,
    /// The thread leaves when nothing is due.
    closing: bool,
    /// The thread has left, is about to leave, or was not started: nothing is pushed to `due`.
    gone: bool,
}

/// A thread that runs code of the user, and the queue to it from the threads that see jobs finish.
pub(super) struct UserThread {
    name: &'static str,
    queue: Mutex<Queue>,
    changed: Condvar,
    thread_id: OnceLock<ThreadId>,
    thread: Mutex<Option<JoinHandle<()>>>,
    is_started: AtomicBool,
}

impl UserThread {
    /// An empty queue, without its thread.
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            queue: Mutex::new(Queue { gone: true, ..Queue::default() }),
            changed: Condvar::new(),
            thread_id: OnceLock::new(),
            thread: Mutex::new(None),
            is_started: AtomicBool::new(false),
        }
    }

    /// Starts the thread, unless it was started before or the pool is being joined.
    ///
    /// # Errors
    ///
    /// The system refused a thread. It may be tried again.
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        // Held for the whole start, so that of several callers one starts it. Not the lock of the queue, for which
        // threads wait that hold the lock of the engine.
        let mut thread = self.thread.lock();
        if self.is_started() || !self.open() {
            return Ok(());
        }
        let user_thread = Arc::clone(self);
        let builder = std::thread::Builder::new().name(self.name.to_owned());
        let announced = Announced::new();
        match builder.spawn(move || user_thread.serve(&announced.enter())) {
            Ok(started) => {
                *thread = Some(started);
                // Release: pairs with the Acquire load in `is_started`.
                self.is_started.store(true, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                drop(thread);
                self.take_back().into_iter().for_each(Self::run_apart);
                Err(error)
            }
        }
    }

    /// Whether the thread was started. For callers that would start it.
    pub(super) fn is_started(&self) -> bool {
        // Acquire: pairs with the Release store in `start`.
        self.is_started.load(Ordering::Acquire)
    }

    /// Lets the queue fill, before the thread exists, so that an end of the pool that comes now waits for the thread.
    /// Returns `false` if that end came first.
    fn open(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.gone = queue.closing;
        !queue.closing
    }

    /// The thread does not come: takes back what was queued for it meanwhile.
    fn take_back(&self) -> VecDeque<Due> {
        let mut queue = self.queue.lock();
        queue.gone = true;
        self.changed.notify_all();
        std::mem::take(&mut queue.due)
    }

    /// Queues these, in order; gives them back if the thread has left. May be called under the lock of the engine: the
    /// lock of the queue is held for moments only, and never while something of the user's runs.
    pub(super) fn queue(&self, due: Vec<Due>) -> Vec<Due> {
        if due.is_empty() {
            return due;
        }
        let mut queue = self.queue.lock();
        if queue.gone {
            // The pool was joined, and a callback was attached to a result that outlived it. `gone` is set under the
            // lock under which the thread finds nothing due, so nothing is queued that it would leave behind.
            return due;
        }
        queue.due.extend(due);
        self.changed.notify_all();
        Vec::new()
    }

    /// Runs `due` soon: on the thread, or once that has left apart from it.
    pub(super) fn push(&self, due: Due) {
        self.queue(vec![due]).into_iter().for_each(Self::run_apart);
    }

    /// Runs `due` on a new thread, but not an event; a waker on this one, since it must not be lost for want of a thread, and does not
    /// block. The caller holds no lock.
    pub(super) fn run_apart(due: Due) {
        match due {
            Due::Wake(_) => return run(due),
            // The pool is over: on threads of their own, events would lose their order.
            Due::Event(..) => return,
            Due::Call(..) | Due::Log(..) => {}
        }
        let builder = std::thread::Builder::new().name("procpool-calls".to_owned());
        if let Err(error) = builder.spawn(move || run(due)) {
            log::error!("a callback could not run: no thread: {error}");
        }
    }

    /// Whether the caller is this thread.
    pub(super) fn is_current(&self) -> bool {
        self.thread_id.get() == Some(&std::thread::current().id())
    }

    /// Lets the thread leave once nothing is due. Returns whether nothing is: then it leaves at once, and gets nothing
    /// more.
    pub(super) fn close(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.closing = true;
        self.changed.notify_all();
        let leaves = queue.due.is_empty() && !queue.running;
        // Now, before the thread has woken: what is pushed in between runs on a new thread and does not delay the end.
        queue.gone |= leaves;
        leaves
    }

    /// Lets the thread leave once nothing is due, and waits for that, at most until the deadline; on the thread
    /// itself it does not wait. Returns whether the thread has left; on the thread itself, `true`.
    pub(super) fn finish(&self, deadline: Option<Instant>) -> bool {
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
        // Without the queue's lock, which the thread may still need before it ends.
        drop(queue);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            log::error!("the thread {} panicked: a bug in procpool", self.name);
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
                    // Code of the user: it may push, and may wait for this very queue through the pool.
                    drop(queue);
                    resident.foreign(|| run(due));
                    queue = self.queue.lock();
                    queue.running = false;
                }
                None if queue.closing => break,
                None => {
                    // Unlocked in the parking place: this thread leaves it when no fork is in progress, and a fork waits
                    // until all residents are parked, among them the background thread, which may need the queue.
                    resident.park(move || self.changed.wait(&mut queue));
                    queue = self.queue.lock();
                }
            }
        }
        queue.gone = true;
        self.changed.notify_all();
    }
}

/// Runs `due`; a panic is logged.
fn run(due: Due) {
    let what = match due {
        Due::Call(..) => "a callback",
        Due::Wake(_) => "a waker",
        Due::Log(..) => "the logger",
        Due::Event(..) => "the function for events",
    };
    // Unwind safety: `due` is consumed, so only the user's own code can see what a panic left half done.
    let ran = catch_unwind(AssertUnwindSafe(|| match due {
        Due::Call(callback, log) => callback(&log),
        Due::Wake(waker) => waker.wake(),
        Due::Log(level, text) => log::log!(level, "{text}"),
        Due::Event(line, event) => line.tell(&event),
    }));
    if let Err(payload) = ran {
        let text = payload::into_text(payload);
        // What panicked may be the logger: then it panics again here.
        drop(catch_unwind(|| log::error!("{what} panicked: {text}")));
    }
}
