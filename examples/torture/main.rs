//! Torture of channels: senders and receivers are killed at random, and every message is accounted for.
//!
//! ```text
//! cargo run --release --example torture               for a minute
//! cargo run --release --example torture -- --quick    for a few seconds
//! cargo run --release --example torture -- SECONDS
//! ```
//!
//! Prints the number of messages and kills, and what must be zero: messages that are lost although no receiver died with
//! them, that came twice or out of order, rounds that stalled, and processes that did not see the end. Exits with 1 if
//! any is not.

#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

mod round;

use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use procpool::StartMethod;

use crate::round::Ending;
use crate::round::Round;
use crate::round::Tally;
use crate::round::Victims;

/// What varies from round to round: capacity, victims, ending, and the pause between kills in microseconds.
const ROUNDS: [(usize, Victims, Ending, u64); 6] = [
    (1024, Victims::Both, Ending::Close, 800),
    (3, Victims::Both, Ending::KillSenders, 800),
    (1, Victims::Receivers, Ending::Close, 500),
    (1024, Victims::Senders, Ending::KillSenders, 300),
    (2, Victims::Senders, Ending::Close, 300),
    (64, Victims::Both, Ending::KillSenders, 3000),
];

fn main() -> anyhow::Result<ExitCode> {
    procpool::init();
    let (time, round_time) = match std::env::args().nth(1).as_deref() {
        None => (Duration::from_secs(60), Duration::from_secs(3)),
        Some("--quick") => (Duration::from_secs(6), Duration::from_secs(1)),
        Some(seconds) => (Duration::from_secs(seconds.parse()?), Duration::from_secs(3)),
    };
    let began = Instant::now();
    let mut total = Tally::default();
    let methods = [StartMethod::Fork, StartMethod::Forkserver];
    for (index, seed) in (0usize..).zip(1u64..) {
        if began.elapsed() >= time {
            break;
        }
        let (capacity, victims, ending, micros) = ROUNDS[index % ROUNDS.len()];
        let pause = Duration::from_micros(micros);
        let method = methods[index % methods.len()];
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let tally = round::run(&Round { method, time: round_time, capacity, victims, ending, pause, seed })?;
        if tally.faults() > 0 {
            println!("capacity {capacity}, {victims:?} die, {ending:?}, {method}: {tally:?}");
        }
        total.add(&tally);
    }
    println!("{} messages sent, {} received", total.sent, total.received);
    println!("{} senders and {} receivers killed", total.killed_senders, total.killed_receivers);
    println!(
        "lost {}, twice {}, out of order {}, stalls {}, bad ends {}",
        total.lost, total.twice, total.out_of_order, total.stalls, total.bad_ends
    );
    Ok(ExitCode::from(u8::from(total.faults() > 0)))
}
