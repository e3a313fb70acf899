//! An item is passed by value: `|text: String| text.len()`.

use procpool::Pool;

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.map(["1".to_owned()], String::len);
}
