//! Workers tell how far they are over a channel, while the caller shows it and waits for the results.
//!
//! In Python: a `Manager().Queue()` given to each task, and a thread that reads it until a sentinel comes.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use procpool::Pool;
use procpool::channel;

const TASKS: u64 = 8;
const STEPS: u64 = 5;

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    let (progress, reports) = channel::bounded::<(u64, u64)>(64)?;

    // The sender is the context of the call: each worker has it, and loses it when the call is over.
    let sums = pool.with(&progress).map_async(0..TASKS, |progress, task| -> anyhow::Result<u64> {
        let mut sum = 0;
        for step in 1..=STEPS {
            sum += task * step;
            progress.send((task, step))?;
        }
        Ok(sum)
    });

    // Without this, the loop below would wait for reports of this process itself.
    drop(progress);
    let mut steps = 0;
    for report in &reports {
        let (task, step) = report?;
        steps += 1;
        println!("task {task}: step {step} of {STEPS}   ({steps} of {} in all)", TASKS * STEPS);
    }
    // The loop ends when no process has the sender any more: no sentinel, no count.
    assert_eq!(steps, TASKS * STEPS);

    let sums = sums.get()?;
    println!("sums: {sums:?}");
    assert_eq!(sums, (0..TASKS).map(|task| task * STEPS * (STEPS + 1) / 2).collect::<Vec<_>>());
    Ok(())
}
