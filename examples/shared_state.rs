//! Shared state of any type: what Python's `Manager().dict()` and `Namespace()` are for. A task that crashes in the midst of
//! a change changes nothing, and the next holder is told.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::collections::BTreeMap;

use procpool::Pool;
use procpool::TaskError;
use procpool::sync::Mutex;
use serde::Deserialize;
use serde::Serialize;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    /// The words of the texts so far, and how often each occurs.
    words: BTreeMap<String, u32>,
    texts: u32,
}

fn add(index: &Mutex<Index>, text: String) -> anyhow::Result<()> {
    let mut index = index.lock()?;
    if let Some(pid) = index.owner_died() {
        println!("process {pid} died while it changed the index, which is as it was: {} texts", index.texts);
    }
    for word in text.split_whitespace() {
        *index.words.entry(word.to_owned()).or_default() += 1;
        if word == "crash" {
            std::process::abort(); // Stands for a crash, half way.
        }
    }
    index.texts += 1;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    let index = Mutex::with_capacity(Index::default(), 64 * 1024)?;
    let texts = ["to be or not to be", "here is a crash", "or to be"].map(str::to_owned);
    let results = pool.with(&index).chunk_size(1).map_results(texts, add)?;
    assert!(matches!(results[1], Err(TaskError::WorkerDied { .. })));

    let index = index.lock()?;
    println!("{} texts: {:?}", index.texts, index.words);
    assert_eq!((index.texts, index.words["be"], index.words.get("crash")), (2, 3, None));
    Ok(())
}
