//! A shared slice holds plain data: what its bytes point to is in one process only.

use procpool::SharedSlice;

fn main() {
    let _ = SharedSlice::new(&["a".to_owned()]);
}
