//! Claim: waiting for many handles costs little more than asking one after the other, and a stream little more than an
//! iterator. One stream of many small tasks is cheaper by far than many handles.
//!
//! Nanoseconds for each item of identity, pool of two. Two tables:
//!
//! - 10,000 calls of `apply_async`: `as_completed` with `get`, `wait` with `get`, `.await` one after the other, and
//!   `get` one after the other;
//! - `imap` and `imap_unordered` of 100,000 items: as a stream, as an iterator; and `Pool::stream` over a stream that
//!   always has an item.
//!
//! The tasks are polled by a small executor that parks its thread, as `futures::executor::block_on` does.

mod common {
    pub(crate) mod contest;
    pub(crate) mod quick;
    pub(crate) mod table;
}

use std::hint::black_box;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::thread;
use std::time::Instant;

use common::contest::Contest;
use common::contest::Figures;
use common::quick::sized;
use futures_core::Stream;
use procpool::AsyncResult;
use procpool::Pool;
use procpool::TaskError;
use procpool::Until;

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    handles(&pool);
    streams(&pool);
    Ok(())
}

fn identity(number: u64) -> u64 {
    black_box(number)
}

/// Times `f`, which gets through so many items and returns their sum, in nanoseconds for each.
fn per_item(items: u64, f: impl FnOnce() -> Result<u64, TaskError>) -> anyhow::Result<Figures<1>> {
    let began = Instant::now();
    let sum = f()?;
    anyhow::ensure!(sum == items * (items - 1) / 2, "the sum is wrong");
    Ok([began.elapsed().as_secs_f64() * 1e9 / items as f64])
}

fn handles(pool: &Pool) {
    let calls = sized(10_000, 100);
    let submit = || -> Vec<_> { (0..calls).map(|x| pool.apply_async((x,), identity)).collect() };
    Contest::new("futures: 10,000 calls, ns for each, less is better", ["apply_async"])
        .add("as_completed", || per_item(calls, || procpool::as_completed(submit()).map(|(_, one)| one.get()).sum()))
        .add("get", || per_item(calls, || submit().iter().map(AsyncResult::get).sum()))
        .add("wait", || {
            per_item(calls, || {
                let handles = submit();
                procpool::wait(&handles, Until::All, None);
                handles.iter().map(AsyncResult::get).sum()
            })
        })
        .add("await", || per_item(calls, || block_on(async { await_all(submit()).await })))
        .run();
}

async fn await_all(handles: Vec<AsyncResult<u64>>) -> Result<u64, TaskError> {
    let mut sum = 0;
    for handle in handles {
        sum += handle.await?;
    }
    Ok(sum)
}

fn streams(pool: &Pool) {
    let items = sized(100_000, 1000);
    for is_ordered in [true, false] {
        let name = if is_ordered { "imap" } else { "imap_unordered" };
        Contest::new("streams: 100,000 items, ns for each, less is better", [name])
            .add("stream", || {
                per_item(items, || match is_ordered {
                    true => block_on(sum(pool.imap(0..items, identity).into_stream())),
                    false => block_on(sum(pool.imap_unordered(0..items, identity).into_stream())),
                })
            })
            .add("iterator", || {
                per_item(items, || match is_ordered {
                    true => pool.imap(0..items, identity).sum(),
                    false => pool.imap_unordered(0..items, identity).sum(),
                })
            })
            .add("of a stream", || {
                let input = Ready(0..items);
                per_item(items, || match is_ordered {
                    true => block_on(sum(pool.stream(input, identity))),
                    false => block_on(sum(pool.stream_unordered(input, identity))),
                })
            })
            .run();
    }
}

async fn sum(mut stream: impl Stream<Item = Result<u64, TaskError>> + Unpin) -> Result<u64, TaskError> {
    let mut sum = 0;
    while let Some(number) = std::future::poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await {
        sum += number?;
    }
    Ok(sum)
}

/// A stream that always has an item.
struct Ready<I>(I);

impl<I: Iterator + Unpin> Stream for Ready<I> {
    type Item = I::Item;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
