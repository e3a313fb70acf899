//! A shared array holds plain data: what its bytes point to is in one process only.

use procpool::SharedArray;

fn main() -> std::io::Result<()> {
    let texts = SharedArray::new(&["a".to_owned()])?;
    drop(texts);
    Ok(())
}
