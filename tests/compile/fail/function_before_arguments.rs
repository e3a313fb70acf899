//! Arguments come first, the function last, unlike in Python.

use procpool::Pool;

fn square(x: u64) -> u64 {
    x * x
}

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.apply(square, (4,));
}
