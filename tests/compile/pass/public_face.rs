//! The first page of the documentation, as one program.

use std::time::Duration;

use procpool::Pool;
use procpool::StartMethod;
use procpool::Until;
use serde::Deserialize;
use serde::Serialize;

#[derive(Serialize, Deserialize)]
struct Model {
    factor: u32,
}

impl Model {
    fn predict(&self, x: u32) -> u32 {
        self.factor * x
    }
}

fn open_database(name: &'static str) -> Result<(), String> {
    if name.ends_with(".sqlite") { Ok(()) } else { Err(format!("{name} is no database")) }
}

fn parse_file(path: String) -> anyhow::Result<usize> {
    anyhow::ensure!(!path.is_empty(), "no path");
    Ok(path.len())
}

fn simulate(seed: u64) -> u64 {
    seed.wrapping_mul(6_364_136_223_846_793_005)
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(1)?;
    drop(pool);
    let pool = Pool::builder()
        .processes(2)
        .start_method(StartMethod::Spawn)
        .max_tasks_per_child(100)
        .initializer(("db.sqlite",), open_database)
        .build()?;

    let nine: u64 = pool.apply((3u64, 2), u64::pow)?;
    let squares: Vec<u64> = pool.map(0..10, |x| x * x)?;
    let sums: Vec<u32> = pool.starmap([(1, 2), (3, 4)], |a, b| a + b)?;
    assert_eq!((nine, squares[9], sums[1]), (9, 81, 7));
    let paths = vec!["a".to_string(), "bc".to_string()];
    for line in pool.imap(paths.iter().cloned(), parse_file) {
        assert!(line? > 0);
    }
    for r in pool.imap_unordered(0.., simulate).take(100) {
        r?;
    }

    let handle =
        pool.apply_async(("path".to_string(),), parse_file).on_success(|length| assert_eq!(length, 4)).on_error(drop);
    let page: Option<usize> = handle.get_timeout(Duration::from_secs(60))?;
    assert_eq!(page, Some(4));
    let all = pool.map_async(0..5, simulate).get()?;
    assert_eq!(all.len(), 5);

    let handles = [1, 2, 3].map(|seed| pool.apply_async((seed,), simulate));
    let (done, pending) = procpool::wait(&handles, Until::All, Some(Duration::from_secs(60)));
    assert_eq!((done.len(), pending.len()), (3, 0));
    for (index, handle) in procpool::as_completed(handles) {
        assert_eq!(handle.get()?, simulate(index as u64 + 1));
    }
    for (index, r) in pool.window(10).imap_unordered(0..20, simulate).indexed() {
        assert_eq!(r?, simulate(index as u64));
    }
    let stream = pool.imap(0.., simulate).into_stream().cancel_on_drop();
    drop(stream);
    let shared = procpool::reusable(Pool::builder().processes(1))?;
    assert_eq!(shared.apply((2u32, 3), u32::pow)?, 8);

    let model = Model { factor: 3 };
    let predicted = pool.with(&model).chunk_size(16).map(0..1000, |m, i| m.predict(i))?;
    assert_eq!(predicted[999], 2997);
    pool.close();
    pool.join()?;
    Ok(())
}
