//! A shared slice is read-only: no reference may change what other processes read.

use procpool::SharedSlice;

fn main() -> std::io::Result<()> {
    let mut numbers = SharedSlice::new(&[1u32, 2])?;
    numbers[0] = 3;
    let all: &mut [u32] = &mut numbers;
    all.fill(0);
    Ok(())
}
