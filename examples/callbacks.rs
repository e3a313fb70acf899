//! Callbacks: one for a value, one for an error.
//!
//! Callbacks run on a thread of the pool, so this program sends their results over a channel.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::sync::mpsc;

use anyhow::Context;
use procpool::Pool;

fn parse(text: String) -> anyhow::Result<u32> {
    text.parse().with_context(|| format!("{text:?} is not a number"))
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    let (sender, receiver) = mpsc::channel();

    for text in ["1", "two", "3"] {
        let (values, errors) = (sender.clone(), sender.clone());
        // The handle may be dropped at once: the task still runs, and its callbacks are called.
        let _handle = pool
            .apply_async((text.to_owned(),), parse)
            .on_success(move |number| drop(values.send(format!("parsed {number}"))))
            .on_error(move |error| drop(errors.send(error.to_string())));
    }
    drop(sender);
    pool.close();
    pool.join()?; // Returns when every callback has run.

    let mut lines: Vec<String> = receiver.iter().inspect(|line| println!("{line}")).collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[..2], ["parsed 1", "parsed 3"]);
    assert!(lines[2].starts_with("task failed: \"two\" is not a number: invalid digit"));
    Ok(())
}
