//! An `io::Error` cannot travel: `anyhow::Result`.

use procpool::Pool;

fn size(path: String) -> std::io::Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.map(["/".to_owned()], size);
}
