//! An item is passed by value: `|text: String| count(&text)`.

use procpool::Pool;

fn count(text: &str) -> usize {
    text.len()
}

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.map(["1".to_owned()], count);
}
