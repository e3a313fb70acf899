//! Results that announce themselves: one callback for values, one for errors.
//!
//! Callbacks run on a thread of the pool's own, so what they bring travels over a channel here.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::sync::mpsc;

use anyhow::Context;
use procpool::Pool;

fn parse(text: String) -> anyhow::Result<u32> {
    text.parse().with_context(|| format!("{text:?} is no number"))
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    let (sender, receiver) = mpsc::channel();

    for text in ["1", "two", "3"] {
        let (values, errors) = (sender.clone(), sender.clone());
        // The handle may go at once: the task runs, and its callbacks are called.
        let _handle = pool
            .apply_async((text.to_owned(),), parse)
            .on_success(move |number| drop(values.send(format!("parsed {number}"))))
            .on_error(move |error| drop(errors.send(error.to_string())));
    }
    drop(sender);
    pool.close();
    pool.join()?; // It returns when every callback has run.

    let mut news: Vec<String> = receiver.iter().inspect(|line| println!("{line}")).collect();
    news.sort_unstable();
    assert_eq!(news.len(), 3);
    assert_eq!(news[..2], ["parsed 1", "parsed 3"]);
    assert!(news[2].starts_with("task failed: \"two\" is no number: invalid digit"));
    Ok(())
}
