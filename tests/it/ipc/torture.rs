//! Senders and receivers are killed at random: a short form of the example `torture`, whose rounds these are.

#[path = "../../../examples/torture/round.rs"]
mod round;

use std::time::Duration;

use procpool::StartMethod;

use self::round::Ending;
use self::round::Round;
use self::round::Victims;
use crate::harness::cases;

cases![senders_and_receivers_die, senders_die, receivers_die,];

fn torture(method: StartMethod, capacity: usize, victims: Victims) {
    for (ending, seed) in [(Ending::Close, 7), (Ending::KillSenders, 8)] {
        let (time, pause) = (Duration::from_secs(1), Duration::from_millis(1));
        let tally = round::run(&Round { method, time, capacity, victims, ending, pause, seed }).unwrap();
        assert_eq!(tally.faults(), 0, "{tally:?}");
        assert!(tally.received > 0 && tally.killed_senders + tally.killed_receivers > 0, "{tally:?}");
    }
}

fn senders_and_receivers_die(method: StartMethod) {
    torture(method, 3, Victims::Both);
}

fn senders_die(method: StartMethod) {
    torture(method, 1024, Victims::Senders);
}

fn receivers_die(method: StartMethod) {
    torture(method, 1, Victims::Receivers);
}
