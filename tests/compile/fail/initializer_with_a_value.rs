//! What an initializer returns would be lost, unless it is an error.

use procpool::Pool;

fn open(path: String) -> usize {
    path.len()
}

fn main() {
    procpool::init();
    let _ = Pool::builder().initializer(("db".to_owned(),), open);
}
