//! The latch, run in every order that the memory model allows (loom), with a death at every step.
//!
//! The code under test is the code that ships, over loom's atomics. The futex and the kernel's treatment of the dead are
//! here, as in futex(2) and in `exit_robust_list` of Linux. A thread dies by unwinding out of the step at which it is to die.

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

use super::DIED;
use super::HOLDER;
use super::Previous;
use super::Slept;
use super::Thread;
use super::WAITERS;
use super::Word;
use super::release;
use super::take;

word!(AtomicU32);

/// More steps than any call here takes: a thread that is to die at this one lives.
const NEVER: usize = 99;

/// The payload of the panic by which a thread dies.
struct Died;

#[derive(Default)]
struct World {
    word: AtomicU32,
    futex: Mutex<()>,
    woken: Condvar,
    /// What the latch guards: not atomic together.
    first: AtomicU32,
    second: AtomicU32,
    deaths_told: AtomicU32,
}

/// How a sleep ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleeps {
    /// When it is woken, and never otherwise: a wake-up that is lost is a deadlock, which loom reports.
    UntilWoken,
    /// Also after every change of the word, woken or not: as if each sleep were short. (A sleeper that wakes up while
    /// the word has not changed only sleeps again.)
    Shortly,
}

struct Model {
    world: Arc<World>,
    id: u32,
    sleeps: Sleeps,
    dies_at: usize,
    steps: Cell<usize>,
    pending: Cell<bool>,
}

impl Thread<AtomicU32> for Model {
    fn id(&self) -> u32 {
        self.id
    }

    fn announce(&self, _: &AtomicU32) {
        self.pending.set(true);
    }

    fn retract(&self) {
        self.pending.set(false);
        self.let_time_pass();
    }

    fn sleep(&self, word: &AtomicU32, value: u32) -> Slept {
        let futex = self.world.futex.lock().unwrap();
        if Word::load(word) == value {
            drop(self.world.woken.wait(futex).unwrap());
        }
        Slept::Shorter
    }

    fn wake_one(&self, _: &AtomicU32) {
        let _futex = self.world.futex.lock().unwrap();
        self.world.woken.notify_one();
    }

    fn pause(&self) {}

    fn exists(&self, _: u32) -> bool {
        true
    }

    fn step(&self, _: &str) {
        let step = self.steps.get();
        self.steps.set(step + 1);
        if step == self.dies_at {
            resume_unwind(Box::new(Died));
        }
    }
}

impl Model {
    fn new(world: &Arc<World>, id: u32, sleeps: Sleeps, dies_at: usize) -> Self {
        let world = Arc::clone(world);
        Self { world, id, sleeps, dies_at, steps: Cell::new(0), pending: Cell::new(false) }
    }

    fn let_time_pass(&self) {
        if self.sleeps == Sleeps::Shortly {
            let _futex = self.world.futex.lock().unwrap();
            self.world.woken.notify_all();
        }
    }

    /// Takes the latch, changes what it guards, and releases it. If this thread dies, the kernel does its part.
    fn work(&self) {
        let word = &self.world.word;
        let worked = catch_unwind(AssertUnwindSafe(|| {
            let previous = take(word, self, || false).expect("it does not give up");
            let (first, second) = (&self.world.first, &self.world.second);
            if previous == Previous::Died {
                self.world.deaths_told.fetch_add(1, Ordering::Relaxed);
                second.store(first.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            assert_eq!(first.load(Ordering::Relaxed), second.load(Ordering::Relaxed), "two hold it, or no repair");
            first.store(first.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            self.step("half done");
            second.store(second.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            release(word, self);
        }));
        match worked {
            Ok(()) => {}
            Err(payload) if payload.is::<Died>() => {
                self.on_death();
                self.let_time_pass();
            }
            Err(failed_assertion) => resume_unwind(failed_assertion),
        }
    }

    /// What Linux does with `list_op_pending` of a thread that has ended.
    fn on_death(&self) {
        while self.pending.get() {
            let now = self.world.word.load(Ordering::SeqCst);
            if now & HOLDER == 0 {
                return self.wake_one(&self.world.word);
            }
            if now & HOLDER != self.id {
                return;
            }
            let marked = now & WAITERS | DIED;
            if self.world.word.compare_exchange(now, marked, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                if now & WAITERS != 0 {
                    self.wake_one(&self.world.word);
                }
                return;
            }
        }
    }
}

/// Every order with up to so many preemptions.
fn model(preemptions: usize, f: impl Fn(&Arc<World>) + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || f(&Arc::new(World::default())));
}

#[test]
fn it_excludes_and_wakes() {
    model(2, |world| {
        let [one, two] = [1, 2].map(|id| Model::new(world, id, Sleeps::UntilWoken, NEVER));
        let one = thread::spawn(move || one.work());
        let two = thread::spawn(move || two.work());
        Model::new(world, 3, Sleeps::UntilWoken, NEVER).work();
        one.join().unwrap();
        two.join().unwrap();
        assert_eq!(world.word.load(Ordering::SeqCst), 0);
        assert_eq!(world.second.load(Ordering::SeqCst), 3);
    });
}

/// With one other thread no wake-up is lost, even if the holder or the sleeper dies.
#[test]
fn a_death_at_any_step_opens_it_and_is_told() {
    for dies_at in 0..6 {
        model(3, move |world| {
            let victim = Model::new(world, 1, Sleeps::UntilWoken, dies_at);
            let victim = thread::spawn(move || victim.work());
            Model::new(world, 2, Sleeps::UntilWoken, NEVER).work();
            victim.join().unwrap();
            assert_settled(world);
        });
    }
}

/// A sleeper that is woken and dies may leave others asleep: their sleep is short.
#[test]
fn a_death_among_three_holds_up_none_for_long() {
    for dies_at in 0..6 {
        model(2, move |world| {
            let victim = Model::new(world, 1, Sleeps::Shortly, dies_at);
            let other = Model::new(world, 2, Sleeps::Shortly, NEVER);
            let victim = thread::spawn(move || victim.work());
            let other = thread::spawn(move || other.work());
            Model::new(world, 3, Sleeps::Shortly, NEVER).work();
            victim.join().unwrap();
            other.join().unwrap();
            assert_settled(world);
        });
    }
}

/// Nothing holds it, and a change that was left half done was told or still will be.
fn assert_settled(world: &World) {
    let word = world.word.load(Ordering::SeqCst);
    assert_eq!(word & HOLDER, 0, "it is open");
    let is_half_done = world.first.load(Ordering::SeqCst) != world.second.load(Ordering::SeqCst);
    assert!(!is_half_done || word & DIED != 0, "the next holder will be told");
    assert!(world.deaths_told.load(Ordering::SeqCst) <= 1, "one death is told once");
}
