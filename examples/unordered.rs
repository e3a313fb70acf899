//! Unordered results from an infinite input: the iterator is drawn only as far as the consumer asks for results.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use procpool::Pool;

const WANTED: usize = 1000;

/// Returns a number, and how many steps it takes from there to 1.
fn collatz(start: u64) -> (u64, u32) {
    let (mut n, mut steps) = (start, 0);
    while n != 1 {
        n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    (start, steps)
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;

    let mut drawn = 0usize; // The input stays on this thread, so it may borrow this.
    let mut out_of_order = 0;
    let (mut last, mut longest) = (0, (0, 0));
    for result in pool.imap_unordered((1u64..).inspect(|_| drawn += 1), collatz).take(WANTED) {
        let (start, steps) = result?;
        assert_eq!((start, steps), collatz(start));
        out_of_order += usize::from(start < last);
        last = start;
        longest = longest.max((steps, start));
    }
    println!("{WANTED} results, {out_of_order} of them after a later one; {drawn} items drawn from an infinite input");
    println!("the longest walk: {} steps, from {}", longest.0, longest.1);
    assert!((WANTED..100 * WANTED).contains(&drawn));
    Ok(()) // Dropping the pool ends its workers.
}
