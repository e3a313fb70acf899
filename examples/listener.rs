//! One listening socket for all workers: the kernel gives each connection to one that is free, as servers that fork
//! in advance do. A worker that dies takes its connection along; the others go on, and a replacement listens too.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;

use procpool::Fd;
use procpool::Pool;

const CONNECTIONS: usize = 20;

thread_local! {
    static LISTENER: RefCell<Option<TcpListener>> = const { RefCell::new(None) };
}

/// The initializer: each worker, and each replacement, gets the socket once.
fn listen(listener: Fd<TcpListener>) {
    LISTENER.set(Some(listener.into_inner()));
}

/// Serves one connection.
fn serve(_: usize) -> anyhow::Result<u32> {
    LISTENER.with_borrow(|listener| {
        let listener = listener.as_ref().expect("the initializer has run");
        let (mut stream, _) = listener.accept()?;
        let mut name = [0; 5];
        stream.read_exact(&mut name)?;
        write!(stream, "{}", String::from_utf8_lossy(&name).to_uppercase())?;
        Ok(std::process::id())
    })
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let pool = Pool::builder().processes(2).initializer((Fd::new(listener),), listen).build()?;
    let served = pool.map_async(0..CONNECTIONS, serve);

    for client in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "abc{client:02}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert_eq!(answer, format!("ABC{client:02}"));
    }
    let workers: BTreeSet<u32> = served.get()?.into_iter().collect();
    println!("{CONNECTIONS} connections were served by the processes {workers:?}");
    Ok(())
}
