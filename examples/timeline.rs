//! Pictures of two pools: one with everything that can happen to a worker, one with millions of tiny items.
//!
//! `cargo run --release --example timeline -- FOLDER` leaves `deaths.svg`, `deaths.json`, `tiny.svg` and `tiny.json` there;
//! without a folder, they are made in memory and checked.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;
use procpool::Event;
use procpool::Pool;
use procpool::Timeline;

/// An image of this size takes so many milliseconds; some kill their process, and one never ends.
fn resize(image: u64) -> u64 {
    match image % 41 {
        17 => std::process::abort(),
        _ if image == 60 => sleep(Duration::from_secs(3600)),
        size => sleep(Duration::from_millis(3 + size * 37 % 60)),
    }
    image
}

fn inspect(image: u64) -> anyhow::Result<u64> {
    sleep(Duration::from_millis(4));
    ensure!(image % 13 != 5, "no pixels");
    Ok(image)
}

fn deaths() -> anyhow::Result<Timeline> {
    let pool = Pool::builder()
        .processes(4)
        .max_tasks_per_child(25)
        .slow_after(Duration::from_millis(200))
        .on_event(|event| match event {
            Event::WorkerGone { pid, lane, how } => println!("lane {lane}: process {pid} is gone: {how:?}"),
            Event::ItemSlow { index, running, .. } => println!("item {index} has run for {running:.0?}"),
            _ => {}
        })
        .record(100_000)
        .build()?;
    let inspected = pool.label("inspect").map_async(0..60, inspect);
    let call = pool.label("resize").chunk_size(1).timeout(Duration::from_millis(400));
    let resized = call.map_results(0..120, resize)?;
    inspected.wait();
    let lost = resized.iter().filter(|result| result.is_err()).count();
    ensure!(lost == 4, "three images kill their process and one never ends, but {lost} have an error");
    let totals = pool.stats().totals;
    ensure!(totals.items_done + totals.items_failed + 4 == 180, "{totals:?}");
    let timeline = pool.timeline();
    println!("{}", timeline.report(5));
    Ok(timeline)
}

fn tiny() -> anyhow::Result<Timeline> {
    let pool = Pool::builder().processes(2).record(100_000).build()?;
    let sum: u64 = pool.label("squares").map(0..500_000u64, |x| x * x)?.iter().sum();
    let mut cubes = 0;
    for cube in pool.label("cubes").imap(0..500_000u64, |x| x % 1000 * x) {
        cubes ^= cube?;
    }
    println!("{sum} {cubes}");
    println!("{}", pool.timeline().report(3));
    Ok(pool.timeline())
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    for (name, timeline) in [("deaths", deaths()?), ("tiny", tiny()?)] {
        match &folder {
            Some(folder) => {
                timeline.write_svg(folder.join(name).with_extension("svg"))?;
                timeline.write_trace(folder.join(name).with_extension("json"))?;
            }
            None => ensure!(timeline.to_svg().contains("</svg>") && timeline.to_trace().contains("traceEvents")),
        }
    }
    Ok(())
}
