//! The parent that will be killed: its workers are busy, asleep, stopped, dying or starting, or have nested pools.

use std::hint::spin_loop;
use std::io::Write;
use std::thread;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::signal::raise;
use nix::unistd::Pid;
use procpool::Pool;
use procpool::StartMethod;

use crate::dice::Dice;

const PROCESSES: usize = 3;

/// Maximum calls without a result: a stopped worker never returns one.
const UNANSWERED_MAX: usize = 12;

/// What a victim writes to its standard output when it has a pool, and when a task in it has one.
pub(crate) const HAS_POOL: u8 = b'p';
pub(crate) const HAS_NESTED_POOL: u8 = b'n';

/// Makes pools and disturbs them until it is killed.
pub(crate) fn live(method: StartMethod, seed: u64) -> ! {
    // If the hunter is killed, this process is killed too.
    prctl::set_pdeathsig(Signal::SIGKILL).expect("a valid signal");
    let mut dice = Dice::new(seed, 1);
    loop {
        let pool = Pool::builder().processes(PROCESSES).start_method(method).max_tasks_per_child(3).build();
        let pool = pool.expect("a pool");
        report(HAS_POOL);
        let mut handles = Vec::new();
        while handles.len() < UNANSWERED_MAX {
            let inner = dice.pick(&StartMethod::ALL).to_string();
            handles.push(pool.apply_async((inner, dice.next()), misbehave));
            handles.retain(|handle| !handle.ready());
            thread::sleep(Duration::from_micros(dice.below(3000)));
            if dice.once_in(4) {
                end_one_of(&pool.pids(), &mut dice);
            }
        }
        thread::sleep(Duration::from_millis(dice.below(20)));
        // The pool is dropped here: a kill may hit this moment as well.
    }
}

/// A task.
fn misbehave(inner: String, seed: u64) {
    let mut dice = Dice::new(seed, 2);
    match dice.below(8) {
        0 | 1 => loop {
            spin_loop();
        },
        2 => thread::sleep(Duration::from_secs(1000)),
        3 => raise(Signal::SIGSTOP).expect("a valid signal"),
        4 | 5 => nest(&inner, &mut dice),
        _ => {}
    }
}

/// In a task: makes a pool with busy, stopped and idle workers, and never returns.
fn nest(method: &str, dice: &mut Dice) {
    let method = method.parse().expect("a start method");
    // A worker has only one thread, and may fork.
    let pool = Pool::builder().processes(PROCESSES).start_method(method).build().expect("a pool in a task");
    let _busy = pool.apply_async((0u8,), |_| -> u8 {
        loop {
            spin_loop();
        }
    });
    let _stopped = pool.apply_async((0u8,), |_| raise(Signal::SIGSTOP).expect("a valid signal"));
    if pool.apply((1u8,), |x| x).is_ok() {
        report(HAS_NESTED_POOL);
    }
    loop {
        end_one_of(&pool.pids(), dice);
        thread::sleep(Duration::from_millis(10));
    }
}

/// Kills workers, so that a worker is always starting.
fn end_one_of(pids: &[u32], dice: &mut Dice) {
    if let Some(pid) = (!pids.is_empty()).then(|| dice.pick(pids)) {
        // It may already have ended.
        let _gone =
            kill(Pid::from_raw(i32::try_from(pid).expect("process ids are positive C integers")), Signal::SIGKILL);
    }
}

fn report(byte: u8) {
    let mut out = std::io::stdout();
    // If this fails, the hunter is gone, and the end is near.
    let _ = out.write_all(&[byte]).and_then(|()| out.flush());
}
