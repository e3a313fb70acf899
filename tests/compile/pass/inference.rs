//! Calls whose types the compiler must infer from the items and the function alone.

use procpool::Pool;
use procpool::TaskError;
use serde::Deserialize;
use serde::Serialize;

fn square(x: u64) -> u64 {
    x * x
}

fn parse(s: String) -> anyhow::Result<i32> {
    Ok(s.parse()?)
}

fn typed(s: String) -> Result<i32, String> {
    s.parse().map_err(|_| s)
}

fn add(a: u32, b: u32) -> u32 {
    a + b
}

fn join(a: String, n: usize) -> anyhow::Result<String> {
    anyhow::ensure!(n < 5, "too many: {n}");
    Ok(a.repeat(n))
}

#[derive(Serialize, Deserialize)]
struct Model {
    k: u32,
}

impl Model {
    fn predict(&self, x: u32) -> u32 {
        self.k * x
    }
}

fn main() -> Result<(), TaskError> {
    procpool::init();
    let p = Pool::new(1)?;
    assert_eq!(p.map(0..4, square)?, [0, 1, 4, 9]);
    assert_eq!(p.map(0..4u32, |x| x * 2)?, [0, 2, 4, 6]);
    assert_eq!(p.map(0..3, |x| x * x)?, [0, 1, 4]);
    assert!(p.map(["1".to_string(), "x".to_string()], parse).is_err());
    assert_eq!(p.map(["1".to_string(), "x".to_string()], typed)?, [Ok(1), Err("x".to_string())]);
    assert_eq!(p.starmap([(1, 2), (3, 4)], add)?, [3, 7]);
    assert_eq!(p.starmap([(1u32, 2u32), (3, 4)], |a, b| a + b)?, [3, 7]);
    assert_eq!(p.starmap([(2i64, 10)], i64::pow)?, [1024]);
    assert!(p.starmap([("ab".to_string(), 2), ("c".to_string(), 9)], join).is_err());
    assert_eq!(p.apply((), || 1)?, 1);
    assert_eq!(p.with(&vec![1u8, 2]).apply((), Vec::len)?, 2);
    assert_eq!(p.apply((3u64, 2), u64::pow)?, 9);
    assert!(p.apply(("x".to_string(),), parse).is_err());
    let failed = p.apply((7,), |x: i32| -> anyhow::Result<i32> { anyhow::bail!("no {x}") });
    assert!(matches!(failed, Err(TaskError::Failed(failure)) if failure.message == "no 7"));
    assert_eq!(p.with(&Model { k: 3 }).map(0..3, |m, i| m.predict(i))?, [0, 3, 6]);
    assert_eq!(p.with(&Model { k: 3 }).map(0..3, Model::predict)?, [0, 3, 6]);
    assert_eq!(p.with(&(2, "p".to_string())).map(0..3, |(k, s), x| format!("{s}{}", k * x))?, ["p0", "p2", "p4"]);
    let sums: Vec<u32> = p.starmap([(1, 2), (3, 4)], |a, b| a + b)?;
    assert_eq!(sums, [3, 7]);
    Ok(())
}
