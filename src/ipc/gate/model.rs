//! The gate, run in every order that the memory model allows (loom), with a death at every step.
//!
//! The code under test is the code that ships, over loom's atomics. The latch is a mutex that is told of deaths; the socket
//! is a count of tokens. A process dies by unwinding out of the step at which it is to die.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::Condvar;
use loom::sync::Mutex;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering;
use loom::thread;

use super::Flag;
use super::Put;
use super::Tokens;
use super::UNKNOWN;
use super::arm;
use super::repair;
use super::wake;

flag!(AtomicU32);

/// More steps than any call here takes: a process that is to die at this one lives.
const NEVER: usize = 99;

/// The payload of the panic by which a process dies.
struct Died;

/// What the processes share.
struct World {
    /// Whether the last holder of the latch has died.
    latch: Mutex<bool>,
    flag: AtomicU32,
    tokens: Mutex<u32>,
    token_came: Condvar,
    /// The condition: how many messages there are.
    messages: AtomicU32,
}

struct Process {
    world: Arc<World>,
    dies_at: usize,
    steps: Cell<usize>,
}

impl Tokens for Process {
    fn put(&self) -> Put {
        *self.world.tokens.lock().unwrap() += 1;
        self.world.token_came.notify_all();
        Put::Done
    }

    fn drain(&self) {
        *self.world.tokens.lock().unwrap() = 0;
    }

    fn step(&self, _: &str) {
        let step = self.steps.get();
        self.steps.set(step + 1);
        if step == self.dies_at {
            resume_unwind(Box::new(Died));
        }
    }
}

impl Process {
    fn new(world: &Arc<World>, dies_at: usize) -> Self {
        Self { world: Arc::clone(world), dies_at, steps: Cell::new(0) }
    }

    /// Runs `f` under the latch. `None` if this process dies in it; then the kernel marks the latch.
    fn under_latch<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        let mut has_died = self.world.latch.lock().unwrap();
        if std::mem::take(&mut *has_died) {
            repair(&self.world.flag);
        }
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(result) => Some(result),
            Err(payload) if payload.is::<Died>() => {
                *has_died = true;
                None
            }
            Err(failed_assertion) => resume_unwind(failed_assertion),
        }
    }

    /// Sends a message.
    fn change(&self) {
        self.under_latch(|| {
            wake(&self.world.flag, self);
            let messages = self.world.messages.load(Ordering::Relaxed);
            self.world.messages.store(messages + 1, Ordering::Release);
            self.step("published");
        });
    }

    /// Sleeps until there are so many messages, or until this process has died.
    fn wait_for(&self, messages: u32) {
        let is_there = || self.world.messages.load(Ordering::Acquire) >= messages;
        while !is_there() {
            let armed = self.under_latch(|| {
                if is_there() {
                    return false;
                }
                arm(&self.world.flag, self);
                assert_eq!(*self.world.tokens.lock().unwrap(), 0, "a token is left, so no sleeper would sleep");
                true
            });
            match armed {
                None => return,
                Some(true) => self.sleep(),
                Some(false) => {}
            }
        }
    }

    fn sleep(&self) {
        let mut tokens = self.world.tokens.lock().unwrap();
        while *tokens == 0 {
            tokens = self.world.token_came.wait(tokens).unwrap();
        }
    }
}

/// Every order with up to two preemptions.
fn model(f: impl Fn(&Arc<World>) + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        f(&Arc::new(World {
            latch: Mutex::new(false),
            flag: AtomicU32::new(UNKNOWN),
            tokens: Mutex::new(0),
            token_came: Condvar::new(),
            messages: AtomicU32::new(0),
        }));
    });
}

/// The steps of a change that wakes are 0 to 3, those of `arm` 0 to 2.
const STEPS: [usize; 6] = [0, 1, 2, 3, 4, NEVER];

#[test]
fn no_receiver_oversleeps() {
    model(|world| {
        let sender = Process::new(world, NEVER);
        let sender = thread::spawn(move || {
            sender.change();
            sender.change();
        });
        Process::new(world, NEVER).wait_for(2);
        sender.join().unwrap();
    });
}

#[test]
fn no_receiver_oversleeps_because_a_sender_dies() {
    for dies_at in STEPS {
        model(move |world| {
            let (victim, sender) = (Process::new(world, dies_at), Process::new(world, NEVER));
            let victim = thread::spawn(move || victim.change());
            let sender = thread::spawn(move || sender.change());
            Process::new(world, NEVER).wait_for(1);
            victim.join().unwrap();
            sender.join().unwrap();
        });
    }
}

#[test]
fn no_receiver_oversleeps_because_another_dies() {
    for dies_at in STEPS {
        model(move |world| {
            let (victim, sender) = (Process::new(world, dies_at), Process::new(world, NEVER));
            let victim = thread::spawn(move || victim.wait_for(1));
            let sender = thread::spawn(move || sender.change());
            Process::new(world, NEVER).wait_for(1);
            victim.join().unwrap();
            sender.join().unwrap();
        });
    }
}

#[test]
fn two_receivers_are_both_woken() {
    model(|world| {
        let (other, sender) = (Process::new(world, NEVER), Process::new(world, NEVER));
        let other = thread::spawn(move || other.wait_for(1));
        let sender = thread::spawn(move || sender.change());
        Process::new(world, NEVER).wait_for(1);
        other.join().unwrap();
        sender.join().unwrap();
    });
}
