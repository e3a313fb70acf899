//! The state of a mutex, run in every order that the memory model allows (loom), with a death at every step.
//!
//! The code under test is the code that ships, over loom's atomics. The latch is a mutex, and the gate its condition
//! variable; the pidfd of a process is a flag that its death sets. A process dies by unwinding out of the step at which it
//! is to die.

use std::cell::Cell as StdCell;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::Condvar;
use loom::sync::Mutex;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering;
use loom::thread;

use super::AfterDeath;
use super::Attempt;
use super::Ownership;
use crate::ipc::sync::lease::Cell;
use crate::ipc::sync::lease::Me;
use crate::ipc::sync::lease::Place;
use crate::ipc::sync::lease::cell;

cell!(AtomicU64);

/// More steps than any call here takes: a process that is to die at this one lives.
const NEVER: usize = 99;

/// The payload of the panic by which a process dies.
struct Died;

#[derive(Default)]
struct Kernel {
    /// The processes that have died.
    dead: Vec<u32>,
    /// How many changes were published.
    kept: u64,
    /// How many processes died as the holder, and how many deaths were told.
    holders_died: u32,
    told: u32,
}

struct World {
    latch: Mutex<Kernel>,
    changed: Condvar,
    holder: AtomicU64,
    start: AtomicU64,
    died: AtomicU64,
    valid: AtomicU64,
    /// Two words a slot, which are not atomic together.
    slots: [[AtomicU64; 2]; 2],
}

struct Process {
    world: Arc<World>,
    me: Me,
    dies_at: usize,
    steps: StdCell<usize>,
    is_holder: StdCell<bool>,
}

impl Process {
    fn new(world: &Arc<World>, pid: u32, dies_at: usize) -> Self {
        let me = Me { pid, tid: pid, start: u64::from(pid) + 100 };
        Self { world: Arc::clone(world), me, dies_at, steps: StdCell::new(0), is_holder: StdCell::new(false) }
    }

    fn step(&self, name: &str) {
        match name {
            "lease_taken" => self.is_holder.set(true),
            "released" => self.is_holder.set(false),
            _ => {}
        }
        let step = self.steps.get();
        self.steps.set(step + 1);
        if step == self.dies_at {
            resume_unwind(Box::new(Died));
        }
    }

    fn ownership(&self) -> Ownership<'_, AtomicU64> {
        let world = &*self.world;
        Ownership { place: Place { holder: &world.holder, start: &world.start }, died: &world.died }
    }

    /// What the kernel does when the process has died. Under the latch, which it would open.
    fn on_death(&self, kernel: &mut Kernel) {
        kernel.dead.push(self.me.pid);
        kernel.holders_died += u32::from(self.is_holder.get());
        self.world.changed.notify_all();
    }

    /// Runs `f`. `None` if this process dies in it.
    fn alive<R>(f: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(result) => Some(result),
            Err(payload) if payload.is::<Died>() => None,
            Err(failed_assertion) => resume_unwind(failed_assertion),
        }
    }

    /// Takes the mutex. `None` if this process dies meanwhile.
    fn take(&self) -> Option<()> {
        let mut kernel = self.world.latch.lock().unwrap();
        loop {
            let attempt = Self::alive(|| self.ownership().take(self.me, AfterDeath::Tell, |name| self.step(name)));
            match attempt {
                None => {
                    self.on_death(&mut kernel);
                    return None;
                }
                Some(Attempt::Taken { died }) => {
                    kernel.told += u32::from(died.is_some());
                    return Some(());
                }
                Some(Attempt::Busy(lease)) if kernel.dead.contains(&lease.holder.pid()) => {
                    let wake = || self.world.changed.notify_all();
                    let evicted = Self::alive(|| self.ownership().evict(lease, wake, |name| self.step(name)));
                    if evicted.is_none() {
                        self.on_death(&mut kernel);
                        return None;
                    }
                }
                Some(Attempt::Busy(_)) => kernel = self.world.changed.wait(kernel).unwrap(),
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    /// Changes the value: reads one slot, and writes the other.
    fn change(&self) -> u64 {
        let valid = self.world.valid.load(Ordering::Relaxed);
        let [old, new] = [valid, valid ^ 1].map(|slot| &self.world.slots[usize::try_from(slot).unwrap()]);
        let (first, second) = (old[0].load(Ordering::Relaxed), old[1].load(Ordering::Relaxed));
        assert_eq!(first, second, "the valid slot is half written, or two hold the mutex");
        new[0].store(first + 1, Ordering::Relaxed);
        self.step("half written");
        new[1].store(second + 1, Ordering::Relaxed);
        self.step("written");
        valid ^ 1
    }

    fn release(&self, valid: u64) {
        let mut kernel = self.world.latch.lock().unwrap();
        let released = Self::alive(|| {
            self.step("releasing");
            self.world.valid.store(valid, Ordering::Release);
            kernel.kept += 1;
            self.step("flipped");
            self.ownership().release(self.me, || self.world.changed.notify_all());
            self.step("released");
        });
        if released.is_none() {
            self.on_death(&mut kernel);
        }
    }

    fn work(&self) {
        if self.take().is_none() {
            return;
        }
        match Self::alive(|| self.change()) {
            Some(valid) => self.release(valid),
            None => self.on_death(&mut self.world.latch.lock().unwrap()),
        }
    }
}

/// Every order with up to two preemptions.
fn model(f: impl Fn(&Arc<World>) + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let pair = || [AtomicU64::new(0), AtomicU64::new(0)];
        let world = Arc::new(World {
            latch: Mutex::new(Kernel::default()),
            changed: Condvar::new(),
            holder: AtomicU64::new(0),
            start: AtomicU64::new(0),
            died: AtomicU64::new(0),
            valid: AtomicU64::new(0),
            slots: [pair(), pair()],
        });
        f(&world);
        // One that lives takes it at the end, whoever has died, and finds every change that was published.
        let last = Process::new(&world, 9, NEVER);
        last.take().expect("it lives");
        let kernel = world.latch.lock().unwrap();
        let valid = &world.slots[usize::try_from(world.valid.load(Ordering::Relaxed)).unwrap()];
        assert_eq!(valid[0].load(Ordering::Relaxed), kernel.kept);
        assert_eq!(valid[1].load(Ordering::Relaxed), kernel.kept);
        // Several deaths before one that is told are told as one.
        assert!(kernel.told <= kernel.holders_died, "a death was told that was none");
        assert_eq!(kernel.told > 0, kernel.holders_died > 0, "a death with the mutex was not told");
    });
}

#[test]
fn changes_exclude_each_other() {
    model(|world| {
        let [one, two] = [1, 2].map(|pid| Process::new(world, pid, NEVER));
        let one = thread::spawn(move || one.work());
        let two = thread::spawn(move || two.work());
        one.join().unwrap();
        two.join().unwrap();
    });
}

#[test]
fn a_death_at_any_step_keeps_what_was_published_and_is_told() {
    for dies_at in 0..8 {
        model(move |world| {
            let (victim, other) = (Process::new(world, 1, dies_at), Process::new(world, 2, NEVER));
            let victim = thread::spawn(move || victim.work());
            let other = thread::spawn(move || other.work());
            victim.join().unwrap();
            other.join().unwrap();
        });
    }
}

/// The second victim dies while it takes the mutex of the first, or ends its lease.
#[test]
fn a_death_while_another_is_told_is_told_too() {
    for dies_at in 0..6 {
        model(move |world| {
            let (first, second) = (Process::new(world, 1, 2), Process::new(world, 2, dies_at));
            let first = thread::spawn(move || first.work());
            let second = thread::spawn(move || second.work());
            first.join().unwrap();
            second.join().unwrap();
        });
    }
}
