//! The context travels through serde: `#[derive(Serialize, Deserialize)]`.

use procpool::Pool;

struct Scale(u32);

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.with(&Scale(2));
}
