//! A value that every task needs, sent once to each worker instead of with each item.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use procpool::Pool;
use serde::{Deserialize, Serialize};

/// How many times this process has received a model.
static RECEIVED: AtomicU32 = AtomicU32::new(0);

#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Vec<f64>", into = "Vec<f64>")]
struct Model(Vec<f64>);

impl From<Vec<f64>> for Model {
    fn from(weights: Vec<f64>) -> Self {
        RECEIVED.fetch_add(1, Relaxed);
        Self(weights)
    }
}

impl From<Model> for Vec<f64> {
    fn from(model: Model) -> Self {
        model.0
    }
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    let model = Model((0..100_000).map(f64::from).collect());
    let predictions =
        pool.with(&model).map(0..10_000usize, |model, i| (model.0[i] * 2.0, process::id(), RECEIVED.load(Relaxed)))?;
    println!("{} predictions; the last is {}", predictions.len(), predictions[9_999].0);

    let received = predictions.iter().map(|prediction| prediction.2).max().unwrap_or(0);
    println!("each worker received the model at most {received} time(s)");
    assert_eq!(received, 1);
    assert!(
        predictions.iter().enumerate().all(|(i, &(value, pid, _))| value == 2.0 * model.0[i] && pid != process::id())
    );
    Ok(())
}
