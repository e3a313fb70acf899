//! Arguments are a tuple, even if there is only one: `(4,)`.

use procpool::Pool;

fn square(x: u64) -> u64 {
    x * x
}

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.apply(4, square);
}
