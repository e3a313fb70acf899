//! The ledger, run in every order that the memory model allows (loom).
//!
//! The code under test is the code that ships, over loom's atomics. Relaxed atomics stand for the bytes of records,
//! so that a change of the ledger that did not order them would show an old value. A bell is a futex: a count, and
//! a thread that sleeps until it changes.

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::Condvar;
use loom::sync::Mutex;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::AtomicU64;
use loom::sync::atomic::Ordering;
use loom::thread;

use super::AfterRecord;
use super::Count;
use super::ParentLedger;
use super::Wake;
use super::Word;
use super::WorkerLedger;

word!(AtomicU64);

/// A futex.
#[derive(Default)]
struct Bell {
    rings: Mutex<u32>,
    changed: Condvar,
}

impl Bell {
    fn rings(&self) -> u32 {
        *self.rings.lock().unwrap()
    }

    fn ring(&self) {
        *self.rings.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    fn sleep(&self, rings: u32) {
        let mut now = self.rings.lock().unwrap();
        while *now == rings {
            now = self.changed.wait(now).unwrap();
        }
    }
}

/// What both sides share: three records at most.
#[derive(Default)]
struct Shared {
    word: AtomicU64,
    down: [AtomicU32; 3],
    up: [AtomicU32; 3],
    begun: [AtomicU32; 3],
    taken: AtomicU32,
    /// Where the last record ends, and how often records were taken back.
    sent: AtomicU32,
    recalls: AtomicU32,
    worker_bell: Bell,
    parent_bell: Bell,
}

impl Shared {
    fn parent(&self) -> ParentLedger<'_, AtomicU64> {
        ParentLedger(&self.word)
    }

    fn worker(&self) -> WorkerLedger<'_, AtomicU64> {
        WorkerLedger(&self.word)
    }

    fn send(&self, record: usize, value: u32) {
        self.down[record].store(value, Ordering::Relaxed);
        if self.parent().send(1).1 == Wake::Needed {
            self.worker_bell.ring();
        }
    }

    /// Sleeps until a record is begun.
    fn begin(&self) {
        while !self.worker().begin() {
            let rings = self.worker_bell.rings();
            if self.worker().sleep() {
                self.worker_bell.sleep(rings);
            }
        }
    }

    /// Runs the record that has begun: the answer is the double of what was sent.
    fn run(&self, record: usize) {
        self.begun[record].fetch_add(1, Ordering::Relaxed);
        let value = self.down[record].load(Ordering::Relaxed);
        assert_ne!(value, 0, "what has begun can be read");
        self.up[record].store(2 * value, Ordering::Relaxed);
    }

    /// Whether the next has begun.
    fn finish(&self) -> bool {
        let finished = self.worker().finish(AfterRecord::BeginNext);
        if finished.wake == Wake::Needed {
            self.parent_bell.ring();
        }
        finished.next_has_begun
    }

    /// Runs records until `last` has been run.
    fn work(&self, first: usize, last: usize) {
        self.begin();
        for record in first..=last {
            self.run(record);
            if !self.finish() && record < last {
                self.begin();
            }
        }
    }

    /// The parent sleeps until `records` are done.
    fn wait_until_done(&self, records: u32) {
        let mut seen = self.parent().load().done();
        while seen != Count::default().plus(records) {
            let rings = self.parent_bell.rings();
            if self.parent().sleep().done() == seen {
                self.parent_bell.sleep(rings);
            }
            seen = self.parent().load().done();
        }
    }
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    // Every order with up to three preemptions: according to the authors of loom, these reveal almost all faults.
    model_with(3, f);
}

fn model_with(switches: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(f);
}

#[test]
fn every_record_is_answered_and_no_side_oversleeps() {
    model(|| {
        let shared = Arc::new(Shared::default());
        let worker = Arc::clone(&shared);
        let worker = thread::spawn(move || worker.work(0, 1));
        shared.send(0, 7);
        shared.send(1, 8);
        shared.wait_until_done(2);
        assert_eq!(shared.up[0].load(Ordering::Relaxed), 14);
        assert_eq!(shared.up[1].load(Ordering::Relaxed), 16);
        worker.join().unwrap();
    });
}

#[test]
fn a_record_is_begun_or_taken_back_and_never_both() {
    model(|| {
        let shared = Arc::new(Shared::default());
        shared.send(0, 7);
        shared.send(1, 8);
        let worker = Arc::clone(&shared);
        let worker = thread::spawn(move || {
            worker.begin();
            worker.run(0);
            // The second record, or the one that was sent in its place.
            if !worker.finish() {
                worker.begin();
            }
            let value = worker.down[1].load(Ordering::Relaxed);
            worker.run(1);
            worker.finish();
            value
        });
        let view = shared.parent().hold();
        let records = view.sent().since(view.done()) - u32::from(view.has_begun());
        let begun = shared.begun[1].load(Ordering::Relaxed);
        if records >= 1 {
            assert_eq!(begun, 0, "what is taken back has not begun");
        }
        // Whatever was taken back is written anew, with the same first record, so that the worker has work.
        let first_taken = 2 - records as usize;
        for record in first_taken..2 {
            shared.down[record].store([7, 9][record], Ordering::Relaxed);
        }
        if shared.parent().release(records) == Wake::Needed {
            shared.worker_bell.ring();
        }
        for record in first_taken..2 {
            shared.send(record, [7, 9][record]);
        }
        shared.wait_until_done(2);
        let expected = if records >= 1 { 9 } else { 8 };
        assert_eq!(worker.join().unwrap(), expected);
        assert_eq!(shared.up[1].load(Ordering::Relaxed), 2 * expected);
        for begun in &shared.begun[..2] {
            assert_eq!(begun.load(Ordering::Relaxed), 1, "nothing runs twice");
        }
    });
}

#[test]
fn a_worker_that_fell_asleep_under_a_hold_is_woken() {
    model(|| {
        let shared = Arc::new(Shared::default());
        shared.send(0, 7);
        let worker = Arc::clone(&shared);
        let worker = thread::spawn(move || worker.work(0, 0));
        let _view = shared.parent().hold();
        if shared.parent().release(0) == Wake::Needed {
            shared.worker_bell.ring();
        }
        shared.wait_until_done(1);
        worker.join().unwrap();
    });
}

/// A worker's private copy of what it has not begun.
#[derive(Default)]
struct Copied {
    records: Vec<u32>,
    recalls: u32,
}

impl Copied {
    /// As the worker's end of the rings does: a copy is good as long as nothing was taken back.
    fn read(&mut self, shared: &Shared, record: usize) -> u32 {
        let recalls = shared.recalls.load(Ordering::Acquire);
        if recalls != self.recalls {
            self.recalls = recalls;
            self.records.clear();
        }
        if self.records.len() <= record {
            let sent = shared.sent.load(Ordering::Acquire) as usize;
            self.records = shared.down[..sent].iter().map(|record| record.load(Ordering::Relaxed)).collect();
        }
        self.records[record]
    }
}

#[test]
fn what_was_copied_ahead_is_what_was_sent() {
    // One switch is enough to find it broken if a store or a load is relaxed.
    model_with(2, || {
        let shared = Arc::new(Shared::default());
        let send = |shared: &Shared, record: usize, value: u32| {
            shared.down[record].store(value, Ordering::Relaxed);
            shared.sent.store(u32::try_from(record).unwrap() + 1, Ordering::Release);
            if shared.parent().send(1).1 == Wake::Needed {
                shared.worker_bell.ring();
            }
        };
        send(&shared, 0, 7);
        let worker = Arc::clone(&shared);
        let worker = thread::spawn(move || {
            let mut copied = Copied::default();
            worker.begin();
            assert_eq!(copied.read(&worker, 0), 7);
            if !worker.finish() {
                worker.begin();
            }
            let value = copied.read(&worker, 1);
            worker.finish();
            value
        });
        send(&shared, 1, 8);
        let view = shared.parent().hold();
        let records = view.sent().since(view.done()) - u32::from(view.has_begun());
        // The first record stays: the worker has begun it, or it is sent again as it was.
        shared.sent.store(2 - records, Ordering::Release);
        shared.recalls.fetch_add(1, Ordering::Release);
        if shared.parent().release(records) == Wake::Needed {
            shared.worker_bell.ring();
        }
        for record in 2 - records as usize..2 {
            send(&shared, record, [7, 9][record]);
        }
        shared.wait_until_done(2);
        assert_eq!(worker.join().unwrap(), if records >= 1 { 9 } else { 8 });
    });
}

/// The parent sleeps, and wants to be rung; the worker sleeps, or is about to; and another thread of the parent's takes
/// everything back and sends it again.
#[test]
fn a_recall_costs_no_sleeper_its_ring() {
    model(|| {
        let shared = Arc::new(Shared::default());
        shared.send(0, 7);
        let worker = Arc::clone(&shared);
        let worker = thread::spawn(move || worker.work(0, 0));
        let rings = shared.parent_bell.rings();
        let sleeps = shared.parent().sleep().done() == Count::default();
        let view = shared.parent().hold();
        let records = view.sent().since(view.done()) - u32::from(view.has_begun());
        if shared.parent().release(records) == Wake::Needed {
            shared.worker_bell.ring();
        }
        if records > 0 {
            shared.send(0, 7);
        }
        if sleeps {
            shared.parent_bell.sleep(rings);
        }
        shared.wait_until_done(1);
        assert_eq!(shared.up[0].load(Ordering::Relaxed), 14);
        worker.join().unwrap();
    });
}

/// A worker whose bell to the parent is gone ends after what it is running.
#[test]
fn what_a_leaving_worker_has_not_begun_stays_unbegun() {
    model(|| {
        let shared = Arc::new(Shared::default());
        shared.send(0, 7);
        let worker = Arc::clone(&shared);
        let worker = thread::spawn(move || {
            worker.begin();
            worker.run(0);
            let finished = worker.worker().finish(AfterRecord::Leave);
            assert!(!finished.next_has_begun);
            finished.wake
        });
        let asked = shared.parent().sleep().done() == Count::default();
        shared.send(1, 8);
        let wake = worker.join().unwrap();
        let view = shared.parent().load();
        assert_eq!((view.sent().since(view.done()), view.has_begun()), (1, false));
        assert_eq!(wake == Wake::Needed, asked);
        assert_eq!(shared.begun[1].load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_worker_that_waits_for_room_gets_it() {
    model(|| {
        let shared = Arc::new(Shared::default());
        let worker = Arc::clone(&shared);
        let has_room = |shared: &Shared| shared.taken.load(Ordering::Acquire) == 1;
        let worker = thread::spawn(move || {
            while !has_room(&worker) {
                let rings = worker.worker_bell.rings();
                worker.worker().wait_for_room();
                let parent_will_ring = match has_room(&worker) {
                    true => !worker.worker().room_found(),
                    false => true,
                };
                if parent_will_ring {
                    worker.worker_bell.sleep(rings);
                }
            }
        });
        shared.taken.store(1, Ordering::Release);
        if shared.parent().made_room() == Wake::Needed {
            shared.worker_bell.ring();
        }
        worker.join().unwrap();
    });
}
