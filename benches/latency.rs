//! Claim: a call right after another returns without a sleep, and a call after a pause costs one wake-up.
//!
//! Round trip of one `apply` that returns its argument, in microseconds; pool of two. Median and 99th percentile of calls
//! in direct succession, and of calls with a pause of 1 ms before each, in which all threads may fall asleep. Contestants:
//!
//! - `procpool`: `Pool::apply`;
//! - `rayon`: `ThreadPool::install`;
//! - `procspawn`: `Pool::spawn` and `join`;
//! - `spinning`, a limit: two processes that pass a word of shared memory back and forth and never sleep;
//! - `futex`, a limit: the same, but each sleeps while it is not its turn. After a pause this is the fastest possible
//!   without keeping a processor busy.

mod common {
    pub(crate) mod contest;
    pub(crate) mod fork;
    pub(crate) mod futex;
    pub(crate) mod quick;
    pub(crate) mod shared;
    pub(crate) mod table;
}

use std::hint::black_box;
use std::hint::spin_loop;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::thread::sleep;
use std::thread::yield_now;
use std::time::Duration;
use std::time::Instant;

use common::contest::Contest;
use common::contest::Figures;
use common::fork::Forked;
use common::futex;
use common::quick::sized;
use common::shared;
use common::shared::LINE_WORDS;

const ROWS: [&str; 4] = ["at once, p50", "at once, p99", "1 ms apart, p50", "1 ms apart, p99"];
const PAUSE: Duration = Duration::from_millis(1);
const WARM_UP: u32 = 20;

fn main() -> anyhow::Result<()> {
    procpool::init();
    procspawn::init();

    let pool = procpool::Pool::new(2)?;
    let rayon_pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    let procspawn_pool = procspawn::Pool::new(2)?;
    let words = shared::lines(2)?;
    let (there, back) = (&words[0], &words[LINE_WORDS]);

    Contest::new("latency: round trip of one call in µs, less is better", ROWS)
        .add("procpool", || round_trips(|number| Ok(pool.apply((number,), identity)?)))
        .add("rayon", || round_trips(|number| Ok(rayon_pool.install(|| identity(number)))))
        .add("procspawn", || round_trips(|number| Ok(procspawn_pool.spawn(number, identity).join()?)))
        .add("spinning (limit)", || ping_pong(there, back, &Spinning))
        .add("futex (limit)", || ping_pong(there, back, &Sleeping))
        .run();
    Ok(())
}

fn identity(number: u32) -> u32 {
    black_box(number)
}

fn at_once() -> u32 {
    sized(2000, 100)
}

fn apart() -> u32 {
    sized(150, 10)
}

/// Times `call`, called with 1, 2, 3, …
fn round_trips(mut call: impl FnMut(u32) -> anyhow::Result<u32>) -> anyhow::Result<Figures<4>> {
    let mut number = 0;
    let mut timed = |pause: Duration, calls: u32| -> anyhow::Result<Vec<f64>> {
        (0..calls)
            .map(|_| {
                if !pause.is_zero() {
                    sleep(pause);
                }
                number += 1;
                let began = Instant::now();
                black_box(call(number)?);
                Ok(began.elapsed().as_secs_f64() * 1e6)
            })
            .collect()
    };
    timed(Duration::ZERO, WARM_UP)?;
    let [at_once50, at_once99] = percentiles(timed(Duration::ZERO, at_once())?);
    let [apart50, apart99] = percentiles(timed(PAUSE, apart())?);
    Ok([at_once50, at_once99, apart50, apart99])
}

fn percentiles(mut micros: Vec<f64>) -> [f64; 2] {
    micros.sort_by(f64::total_cmp);
    [micros[micros.len() / 2], micros[micros.len() * 99 / 100]]
}

/// How a process waits until the other has written.
trait Signal {
    fn send(&self, word: &AtomicU32, value: u32);
    fn receive(&self, word: &AtomicU32, value: u32);
}

struct Spinning;

impl Signal for Spinning {
    fn send(&self, word: &AtomicU32, value: u32) {
        word.store(value, Release);
    }

    fn receive(&self, word: &AtomicU32, value: u32) {
        let mut spins = 0u32;
        while word.load(Acquire) != value {
            spin_loop();
            spins = spins.wrapping_add(1);
            // From time to time, so that other processes can run.
            if spins % 100_000 == 0 {
                yield_now();
            }
        }
    }
}

struct Sleeping;

impl Signal for Sleeping {
    fn send(&self, word: &AtomicU32, value: u32) {
        word.store(value, Release);
        futex::wake(word);
    }

    fn receive(&self, word: &AtomicU32, value: u32) {
        while word.load(Acquire) != value {
            futex::wait(word, value.wrapping_sub(1));
        }
    }
}

/// The same calls to a process that only sends the number back.
fn ping_pong(there: &AtomicU32, back: &AtomicU32, signal: &impl Signal) -> anyhow::Result<Figures<4>> {
    there.store(0, Release);
    back.store(0, Release);
    let calls = WARM_UP + at_once() + apart();
    let partner = Forked::run(|| {
        for number in 1..=calls {
            signal.receive(there, number);
            signal.send(back, identity(number));
        }
    })?;
    let figures = round_trips(|number| {
        signal.send(there, number);
        signal.receive(back, number);
        Ok(number)
    });
    partner.wait()?;
    figures
}
