//! A boxed error cannot travel: `anyhow::Result`.

use procpool::Pool;

fn parse(text: String) -> Result<u32, Box<dyn std::error::Error>> {
    Ok(text.parse()?)
}

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.map(["1".to_owned()], parse);
}
