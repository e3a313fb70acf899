//! What other processes may write at any time must be an atomic.

use procpool::Shared;

fn main() -> std::io::Result<()> {
    let count = Shared::<u64>::new()?;
    drop(count);
    Ok(())
}
