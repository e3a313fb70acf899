//! Claim: values as users have them move like bytes do, without wrapper types.
//!
//! Values of about 8 MiB, through `imap_unordered` to two workers; gigabytes per second. *In*: the value is the argument,
//! and exists before the clock starts. *Out*: the worker makes the value, so the time to fill fresh memory is included.
//!
//! - `procpool`: the type of the row;
//! - `ByteBuf`, a limit: `serde_bytes::ByteBuf` of the same size, which serde passes as one piece. The ratio says what the
//!   type costs.

mod common {
    pub(crate) mod contest;
    pub(crate) mod quick;
    pub(crate) mod table;
}

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use common::contest::Contest;
use common::quick::sized;
use procpool::Pool;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

const BYTES: usize = 8 << 20;
const ROWS: [&str; 24] = [
    "in: ByteBuf",
    "in: Vec<u8>",
    "in: Vec<u32>",
    "in: Vec<u64>",
    "in: Vec<f32>",
    "in: Vec<f64>",
    "in: String",
    "in: struct of four Vecs",
    "in: VecDeque<f64>",
    "in: Vec<struct of 3 numbers>",
    "in: Vec<String> of 16 bytes",
    "in: HashMap<u64, u64>",
    "out: ByteBuf",
    "out: Vec<u8>",
    "out: Vec<u32>",
    "out: Vec<u64>",
    "out: Vec<f32>",
    "out: Vec<f64>",
    "out: String",
    "out: struct of four Vecs",
    "out: VecDeque<f64>",
    "out: Vec<struct of 3 numbers>",
    "out: Vec<String> of 16 bytes",
    "out: HashMap<u64, u64>",
];

fn main() -> anyhow::Result<()> {
    procpool::init();
    let pool = Pool::new(2)?;
    Contest::new("values: GB/s, more is better", ROWS)
        .add("procpool", || {
            let figures = [
                both::<ByteBuf>(&pool)?,
                both::<Vec<u8>>(&pool)?,
                both::<Vec<u32>>(&pool)?,
                both::<Vec<u64>>(&pool)?,
                both::<Vec<f32>>(&pool)?,
                both::<Vec<f64>>(&pool)?,
                both::<String>(&pool)?,
                both::<Image>(&pool)?,
                both::<std::collections::VecDeque<f64>>(&pool)?,
                both::<Vec<Sample>>(&pool)?,
                both::<Vec<String>>(&pool)?,
                both::<HashMap<u64, u64>>(&pool)?,
            ];
            Ok(std::array::from_fn(|row| figures[row % figures.len()][row / figures.len()]))
        })
        .add("ByteBuf (limit)", || {
            let [taken, given] = both::<ByteBuf>(&pool)?;
            Ok(std::array::from_fn(|row| if row < ROWS.len() / 2 { taken } else { given }))
        })
        .run();
    Ok(())
}

/// A value of about [`BYTES`], as it lies in memory.
trait Made: Serialize + DeserializeOwned + Send + 'static {
    fn made(filling: u8) -> Self;
}

macro_rules! collections_of_numbers {
    ($($collection:ty: $number:ty;)*) => {
        $(impl Made for $collection {
            fn made(filling: u8) -> Self {
                (0..BYTES / size_of::<$number>()).map(|_| <$number>::from(filling)).collect()
            }
        })*
    };
}

collections_of_numbers! {
    Vec<u8>: u8;
    Vec<u32>: u32;
    Vec<u64>: u64;
    Vec<f32>: f32;
    Vec<f64>: f64;
    std::collections::VecDeque<f64>: f64;
}

impl Made for ByteBuf {
    fn made(filling: u8) -> Self {
        ByteBuf::from(vec![filling; BYTES])
    }
}

impl Made for String {
    fn made(filling: u8) -> Self {
        char::from(filling % 26 + b'a').to_string().repeat(BYTES)
    }
}

#[derive(Serialize, Deserialize)]
struct Image {
    name: String,
    pixels: Vec<u8>,
    depths: Vec<f32>,
    ids: Vec<u64>,
    weights: Vec<f64>,
}

impl Made for Image {
    fn made(filling: u8) -> Self {
        let quarter = BYTES / 4;
        Image {
            name: "image".to_owned(),
            pixels: vec![filling; quarter],
            depths: vec![f32::from(filling); quarter / 4],
            ids: vec![u64::from(filling); quarter / 8],
            weights: vec![f64::from(filling); quarter / 8],
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Sample {
    x: f64,
    y: f64,
    label: u32,
}

impl Made for Vec<Sample> {
    fn made(filling: u8) -> Self {
        let sample = |label| Sample { x: f64::from(filling), y: 0.5, label };
        (0..).map(sample).take(BYTES / size_of::<Sample>()).collect()
    }
}

impl Made for Vec<String> {
    fn made(filling: u8) -> Self {
        (0..BYTES / 16).map(|index| format!("{filling:04}{index:012}")).collect()
    }
}

impl Made for HashMap<u64, u64> {
    fn made(filling: u8) -> Self {
        (0..BYTES as u64 / 16).map(|key| (key, u64::from(filling) << 40)).collect()
    }
}

fn take<T: Made>(value: T) -> usize {
    black_box(&value);
    0
}

fn make<T: Made>(filling: u8) -> T {
    T::made(filling)
}

/// Gigabytes per second, in and out.
fn both<T: Made>(pool: &Pool) -> anyhow::Result<[f64; 2]> {
    let count: u8 = sized(4, 1);
    let values: Vec<T> = (1..=count).map(T::made).collect();
    let began = Instant::now();
    for taken in pool.imap_unordered(values, take::<T>) {
        black_box(taken?);
    }
    let taken = began.elapsed();
    let began = Instant::now();
    for given in pool.imap_unordered(1..=count, make::<T>) {
        black_box(given?);
    }
    let given = began.elapsed();
    let bytes = BYTES as f64 * f64::from(count);
    Ok([taken, given].map(|time| bytes / time.as_secs_f64() / 1e9))
}
