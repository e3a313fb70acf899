//! Nothing says what `?` turns the error into: `|text| -> anyhow::Result<u32> { … }`.

use procpool::Pool;

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.map(["1".to_owned()], |text| Ok(text.parse::<u32>()?));
}
