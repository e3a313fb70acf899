//! The smallest program: a pool, a few calls, and a clean shutdown.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use procpool::Pool;

fn main() -> anyhow::Result<()> {
    procpool::init(); // Workers start here and never return.
    let pool = Pool::new(2)?;

    let power: u64 = pool.apply((3u64, 4), u64::pow)?;
    println!("3 to the power of 4 is {power}");

    let squares: Vec<u64> = pool.map(0..10u64, |x| x * x)?;
    println!("squares: {squares:?}");

    let greeting = pool.apply(("hello".to_owned(),), |word| format!("{word} from process {}", std::process::id()))?;
    println!("{greeting}; this is process {}", std::process::id());

    assert_eq!(power, 81);
    assert_eq!(squares.iter().sum::<u64>(), 285);
    assert!(!greeting.ends_with(&format!(" {}", std::process::id())));
    pool.close();
    pool.join()?;
    Ok(())
}
