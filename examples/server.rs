//! State that several processes use, in a process of its own: each request carries the way back for its answer.
//!
//! In Python: a `Manager` with a registered class and proxies. Here the server is a loop over a channel. Nothing has a
//! name in the file system, and nobody else can connect.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::collections::BTreeMap;

use procpool::Pool;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::Reply;
use procpool::channel::Sender;
use procpool::process::Process;
use serde::Deserialize;
use serde::Serialize;

#[derive(Serialize, Deserialize)]
enum Request {
    Add { key: String, amount: u64, reply: Reply<u64> },
    All { reply: Reply<BTreeMap<String, u64>> },
}

/// Answers until nobody can ask any more; then says how often it was asked.
fn serve(requests: Receiver<Request>) -> anyhow::Result<u64> {
    let mut totals = BTreeMap::<String, u64>::new();
    let mut served = 0;
    for request in requests {
        served += 1;
        // Whoever asked may be gone by now, and its reply with it.
        match request? {
            Request::Add { key, amount, reply } => {
                let total = totals.entry(key).or_default();
                *total += amount;
                reply.send(*total).ok();
            }
            Request::All { reply } => drop(reply.send(totals.clone())),
        }
    }
    Ok(served)
}

/// A method call, as a client sees it.
fn add(server: &Sender<Request>, key: &str, amount: u64) -> anyhow::Result<u64> {
    let (reply, answer) = channel::oneshot()?;
    server.send(Request::Add { key: key.to_owned(), amount, reply })?;
    Ok(answer.recv()?)
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let (server, requests) = channel::bounded(16)?;
    let process = Process::builder().name("totals").spawn((requests,), serve)?;

    // Workers are clients like anybody else.
    let pool = Pool::new(2)?;
    pool.with(&server).map(0..100u64, |server, i| add(server, if i % 2 == 0 { "even" } else { "odd" }, i))?;

    let (reply, answer) = channel::oneshot()?;
    server.send(Request::All { reply })?;
    let totals = answer.recv()?;
    println!("{totals:?}");
    assert_eq!(totals, BTreeMap::from([("even".to_owned(), 2450), ("odd".to_owned(), 2500)]));

    // The last sender: the server's loop ends, and with it the process.
    drop(server);
    let served = process.join()?;
    println!("the server answered {served} requests");
    assert_eq!(served, 101);
    Ok(())
}
