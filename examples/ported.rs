//! A script of Python's `multiprocessing` with Queue, Process, Value and Lock, and the same program here.
//!
//! ```python
//! from multiprocessing import Process, Queue, Value
//!
//! def work(tasks, results, done):
//!     while (n := tasks.get()) is not None:
//!         results.put((n, n * n))
//!         with done.get_lock():
//!             done.value += 1
//!
//! if __name__ == "__main__":
//!     tasks, results, done = Queue(8), Queue(8), Value("Q", 0)
//!     workers = [Process(target=work, args=(tasks, results, done), name=f"worker-{i}") for i in range(3)]
//!     for worker in workers: worker.start()
//!     feeder = Process(target=feed, args=(tasks, len(workers)))
//!     feeder.start()
//!     squares = dict(results.get() for _ in range(100))
//!     for worker in workers: worker.join()
//!     print(len(squares), done.value)
//! ```
//!
//! What is different: the loops end by themselves when the last sender is gone, so there is no `None` for each worker and
//! no count of results; a worker that is killed loses what it had taken, and `join` says so, where Python's queue may stay
//! locked for ever.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use procpool::Shared;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::Sender;
use procpool::process::Process;

fn feed(tasks: Sender<u64>) -> anyhow::Result<()> {
    for n in 0..100 {
        tasks.send(n)?;
    }
    Ok(())
}

fn work(tasks: Receiver<u64>, results: Sender<(u64, u64)>, done: Shared<AtomicU64>) -> anyhow::Result<()> {
    for n in tasks {
        let n = n?;
        results.send((n, n * n))?;
        done.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let (tasks, inputs) = channel::bounded(8)?;
    let (outputs, results) = channel::bounded(8)?;
    let done = Shared::<AtomicU64>::new()?;

    let mut workers = Vec::new();
    for i in 0..3 {
        let arguments = (inputs.clone(), outputs.clone(), done.clone());
        workers.push(Process::builder().name(format!("worker-{i}")).spawn(arguments, work)?);
    }
    let feeder = Process::spawn((tasks,), feed)?;
    // The ends of this process: while it had them, the loops of the others would not end.
    drop((inputs, outputs));

    let squares = results.iter().collect::<Result<BTreeMap<u64, u64>, _>>()?;
    feeder.join()?;
    for worker in workers {
        worker.join()?;
    }
    println!("{} squares, {} done", squares.len(), done.load(Relaxed));
    assert_eq!(squares.len(), 100);
    assert_eq!(done.load(Relaxed), 100);
    Ok(())
}
