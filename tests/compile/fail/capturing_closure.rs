//! A task runs in another process, where the captured variable does not exist.

use procpool::Pool;

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let k = 3;
    let _ = pool.map(0..4u32, |x| x * k);
}
