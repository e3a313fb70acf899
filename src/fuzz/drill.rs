//! Runs each fuzz target over its corpus, over variations of the corpus, and over noise.

use std::fs;
use std::path::Path;

use super::blobs;
use super::channels;
use super::describing;
use super::heap;
use super::messages;
use super::steps;
use super::values;

/// A target, and how often it is run.
struct FuzzTarget {
    name: &'static str,
    run: fn(&[u8]),
    /// Maximum runs over the prefixes of one corpus file, and over changes to it.
    changes_max: usize,
    /// The number of noise inputs, and their maximum length.
    noise: (usize, u64),
}

const TARGETS: &[FuzzTarget] = &[
    FuzzTarget { name: "frame", run: messages::frame, changes_max: 4000, noise: (20_000, 64) },
    FuzzTarget { name: "report", run: messages::report, changes_max: 4000, noise: (20_000, 64) },
    FuzzTarget { name: "arrivals", run: messages::arrivals, changes_max: 10_000, noise: (20_000, 200) },
    FuzzTarget { name: "value", run: values::value, changes_max: 1000, noise: (10_000, 200) },
    FuzzTarget { name: "describing", run: describing::describing, changes_max: 2000, noise: (20_000, 200) },
    FuzzTarget { name: "blob", run: blobs::blob, changes_max: 60, noise: (200, 64) },
    FuzzTarget { name: "channel", run: channels::channel, changes_max: 300, noise: (500, 200) },
    FuzzTarget { name: "rings", run: steps::rings, changes_max: 100, noise: (500, 400) },
    FuzzTarget { name: "session", run: steps::session, changes_max: 500, noise: (2000, 400) },
];

#[test]
fn the_corpus_and_its_variations_break_nothing() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if !fuzz.exists() {
        return; // It is not part of the package.
    }
    for target in TARGETS {
        let files = fs::read_dir(fuzz.join("corpus").join(target.name)).unwrap();
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{}: no corpus", target.name);
        for path in paths {
            let mut seed = fs::read(path).unwrap();
            (target.run)(&seed);
            for len in (0..seed.len()).step_by(stride(seed.len(), target)) {
                (target.run)(&seed[..len]);
            }
            // Each byte with each other value. The stride is odd, so that all values occur, if not at all bytes.
            let changes = seed.len() * 256;
            for change in (0..changes).step_by(stride(changes, target) | 1) {
                let (index, by) = (change / 256, change.to_le_bytes()[0]);
                seed[index] ^= by;
                (target.run)(&seed);
                seed[index] ^= by;
            }
        }
    }
}

/// The step through `runs` runs that keeps the target's limit.
fn stride(runs: usize, target: &FuzzTarget) -> usize {
    runs.div_ceil(target.changes_max).max(1)
}

/// xorshift64, from the same seed each time.
fn noise() -> impl FnMut() -> u64 {
    let mut state = 0x5eed_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn noise_of(next: &mut impl FnMut() -> u64, len_max: u64) -> Vec<u8> {
    let len = next() % (len_max + 1);
    // Small numbers are meaningful: they are kinds and lengths.
    let small = next() % 2 == 0;
    (0..len).map(|_| next().to_le_bytes()[4] & if small { 0x1f } else { 0xff }).collect()
}

#[test]
fn noise_breaks_nothing() {
    let mut next = noise();
    for target in TARGETS {
        for _ in 0..target.noise.0 {
            (target.run)(&noise_of(&mut next, target.noise.1));
        }
    }
}

/// Whatever lengths the bytes claim, a worker's message costs its reader at most a few times its length.
#[test]
fn no_message_makes_its_reader_ask_for_much_memory() {
    let mut next = noise();
    for _ in 0..20_000 {
        let bytes = noise_of(&mut next, 200);
        for read in [messages::frame, messages::report] {
            let allocated = heap::allocated_by(|| read(&bytes));
            assert!(allocated <= 16 * bytes.len() + 4096, "{allocated} for {bytes:?}");
        }
    }
}
