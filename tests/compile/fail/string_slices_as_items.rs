//! Items are decoded in another process, where nothing could own what they borrow: `.map(str::to_owned)`.

use procpool::Pool;

fn main() {
    procpool::init();
    let pool = Pool::new(1).unwrap();
    let _ = pool.map(["a", "b"], |text| text.len());
}
