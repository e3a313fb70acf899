//! Results travel through serde: `#[derive(Serialize, Deserialize)]`.

use procpool::Pool;

struct Point {
    x: u32,
}

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.map([1], |x| Point { x });
}
