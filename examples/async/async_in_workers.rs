//! Async tasks inside workers: an initializer makes a runtime in each worker, and a task runs on it. The analogue of
//! `asyncio.run` in a worker of Python.
//!
//! It pays off where one item is many requests that wait at the same time. Here each item opens a number of connections
//! to a server, which answers none of them before all are open: without concurrency in the worker, the program would
//! hang.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::OnceLock;

use anyhow::Context;
use futures_util::future::try_join_all;
use procpool::Pool;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// Connections of one item.
const CONNECTIONS: usize = 20;

/// One in each worker.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

fn start_runtime(_: u8) -> anyhow::Result<()> {
    // On the worker's thread: more threads would be in the way of a fork in a task.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    RUNTIME.set(runtime).ok().context("the initializer runs once in each worker")
}

async fn fetch(address: SocketAddr) -> std::io::Result<usize> {
    let mut answer = Vec::new();
    TcpStream::connect(address).await?.read_to_end(&mut answer).await
}

/// The task: a plain function that blocks on async code.
fn fetch_all(address: SocketAddr) -> anyhow::Result<usize> {
    let runtime = RUNTIME.get().context("an initializer has made a runtime")?;
    let lengths = runtime.block_on(try_join_all((0..CONNECTIONS).map(|_| fetch(address))))?;
    Ok(lengths.iter().sum())
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::builder().processes(2).initializer((0,), start_runtime).build()?;

    // A server for each item, which answers when all connections of the item are open.
    let listeners: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    let totals = std::thread::scope(|scope| {
        for listener in listeners {
            scope.spawn(move || -> std::io::Result<()> {
                let connections = listener.incoming().take(CONNECTIONS).collect::<Result<Vec<_>, _>>()?;
                connections.into_iter().try_for_each(|mut connection| connection.write_all(b"hello"))
            });
        }
        pool.map(addresses, fetch_all)
    })?;
    println!("4 items, {CONNECTIONS} connections each: {totals:?} bytes");
    assert_eq!(totals, [5 * CONNECTIONS; 4]);

    pool.close();
    pool.join()?;
    Ok(())
}
