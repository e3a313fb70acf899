//! Runs each fuzz function over its corpus, over all inputs one byte away from it, and over noise.

use std::fs;
use std::path::Path;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 3] = [("message", super::message), ("marker", super::marker), ("place", super::place)];

/// Noise inputs for each target.
const NOISE_INPUTS: usize = 20_000;

#[test]
fn the_corpus_and_all_that_is_near_it_is_endured() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    if !fuzz.exists() {
        return; // The corpus is not part of the published package.
    }
    for (name, run) in TARGETS {
        let files = fs::read_dir(fuzz.join("corpus").join(name)).unwrap();
        let seeds: Vec<Vec<u8>> = files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(!seeds.is_empty(), "{name}: no corpus");
        for mut seed in seeds {
            (0..=seed.len()).for_each(|len| run(&seed[..len]));
            for index in 0..seed.len() {
                let original = seed[index];
                for byte in 0..=u8::MAX {
                    seed[index] = byte;
                    run(&seed);
                }
                seed[index] = original;
            }
        }
    }
}

#[test]
fn noise_is_endured() {
    let mut state = 0x5eed_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for (_, run) in TARGETS {
        for _ in 0..NOISE_INPUTS {
            let len = next() % 64;
            let bytes: Vec<u8> = (0..len).map(|_| next().to_le_bytes()[4]).collect();
            run(&bytes);
        }
    }
}
