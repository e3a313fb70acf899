//! A producer and a consumer with a bounded queue between them, and a second queue for what all processes log: the
//! `QueueHandler` and `QueueListener` of Python's logging cookbook, on spawn and on forkserver.
//!
//! A pool brings the records of its workers to the parent's logger by itself; this is how to do it for processes of your
//! own, or with a format of your own.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::collections::BTreeMap;
use std::thread;

use procpool::StartMethod;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::Sender;
use procpool::process;
use procpool::process::Process;
use serde::Deserialize;
use serde::Serialize;

const ITEMS: u32 = 50;

#[derive(Serialize, Deserialize)]
struct Record {
    process: String,
    text: String,
}

/// The `QueueHandler`: formats nothing and writes nothing, it only sends.
#[derive(Clone, Serialize, Deserialize)]
struct Log(Sender<Record>);

impl Log {
    fn say(&self, text: String) {
        // A log that nobody reads any more stops no work.
        self.0.send(Record { process: process::current().name().to_owned(), text }).ok();
    }
}

fn produce(items: Sender<u32>, log: Log) -> anyhow::Result<()> {
    for item in 0..ITEMS {
        items.send(item)?;
        log.say(format!("made {item}"));
    }
    Ok(())
}

fn consume(items: Receiver<u32>, log: Log) -> anyhow::Result<u32> {
    let mut sum = 0;
    for item in items {
        sum += item?;
        log.say(format!("sum is {sum}"));
    }
    Ok(sum)
}

/// The `QueueListener`: the only one that writes, so that lines are whole. Counts the records of each process.
fn listen(records: Receiver<Record>) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for record in records {
        let Record { process, text } = record?;
        println!("{process:>10}: {text}");
        *counts.entry(process).or_default() += 1;
    }
    Ok(counts)
}

fn run(method: StartMethod) -> anyhow::Result<()> {
    let (log, records) = channel::bounded(16)?;
    let log = Log(log);
    let listener = thread::spawn(move || listen(records));

    let (sender, receiver) = channel::bounded(4)?;
    let builder = |name: &str| Process::builder().name(name).start_method(method);
    let producer = builder("producer").spawn((sender, log.clone()), produce)?;
    let consumer = builder("consumer").spawn((receiver, log.clone()), consume)?;
    drop(log);

    producer.join()?;
    assert_eq!(consumer.join()?, ITEMS * (ITEMS - 1) / 2);
    // The listener ends when the last process that could log is gone: nothing is cut off.
    let counts = listener.join().expect("the listener does not panic")?;
    println!("{method}: {counts:?}");
    assert_eq!(counts, BTreeMap::from(["consumer", "producer"].map(|name| (name.to_owned(), ITEMS as usize))));
    Ok(())
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    run(StartMethod::Forkserver)?;
    run(StartMethod::Spawn)
}
