//! Each function over its corpus, over all that is near it, and over noise.

use std::fs;
use std::path::Path;

use super::heap;

/// A target, and how much it is asked.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    /// Runs over beginnings of one file of the corpus, and over changes to it.
    changes_max: usize,
    /// Inputs of noise, and their length.
    noise: (usize, u64),
}

const TARGETS: &[Target] = &[
    Target { name: "frame", run: super::frame, changes_max: 4000, noise: (20_000, 64) },
    Target { name: "report", run: super::report, changes_max: 4000, noise: (20_000, 64) },
    Target { name: "arrivals", run: super::arrivals, changes_max: 10_000, noise: (20_000, 200) },
    Target { name: "value", run: super::value, changes_max: 1000, noise: (10_000, 200) },
    Target { name: "blob", run: super::blob, changes_max: 60, noise: (200, 64) },
    Target { name: "rings", run: super::rings, changes_max: 100, noise: (500, 400) },
    Target { name: "session", run: super::session, changes_max: 500, noise: (2000, 400) },
];

#[test]
fn the_corpus_and_all_that_is_near_it_is_endured() {
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
            // Each byte in every other way. The stride is odd, so that all ways are met though not at all bytes.
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

/// How many of so many runs are one step, if there is time for some of them only.
fn stride(runs: usize, target: &Target) -> usize {
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
    // Small numbers are kinds and lengths, and mean something.
    let small = next() % 2 == 0;
    (0..len).map(|_| next().to_le_bytes()[4] & if small { 0x1f } else { 0xff }).collect()
}

#[test]
fn noise_is_endured() {
    let mut next = noise();
    for target in TARGETS {
        for _ in 0..target.noise.0 {
            (target.run)(&noise_of(&mut next, target.noise.1));
        }
    }
}

/// Whatever lengths the bytes promise: the messages of a worker cost no more than a few times what they are long.
#[test]
fn no_message_makes_its_reader_ask_for_much_memory() {
    let mut next = noise();
    for _ in 0..20_000 {
        let bytes = noise_of(&mut next, 200);
        for read in [super::frame, super::report] {
            let asked = heap::asked_for(|| read(&bytes));
            assert!(asked <= 16 * bytes.len() + 4096, "{asked} for {bytes:?}");
        }
    }
}
