//! No element of a shared array can be borrowed: other processes may change it.

use procpool::SharedArray;

fn main() -> std::io::Result<()> {
    let numbers = SharedArray::new(&[1u32, 2])?;
    let first: &u32 = &numbers[0];
    assert_eq!(*first, 1);
    Ok(())
}
