//! An `Imap` is an iterator only: `into_stream` makes a stream of it. With both traits, `next` would be ambiguous.

use futures_core::Stream;

fn consume(_: impl Stream) {}

fn main() {
    procpool::init();
    let pool = procpool::Pool::new(1).unwrap();
    consume(pool.imap(0..3u8, |x| x).into_stream());
    consume(pool.imap(0..3u8, |x| x));
}
