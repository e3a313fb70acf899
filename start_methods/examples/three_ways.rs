//! Starts a process by each of the three methods, exchanges a message with it, and waits for its end.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::io::IoSlice;
use std::time::Duration;

use start_methods::{Birth, Boot, Received, StartMethod};

fn main() -> Result<(), Box<dyn Error>> {
    start_methods::init(); // Children of spawn and forkserver never return from here.
    for method in StartMethod::ALL {
        let boot = Boot::new(double).name("doubler");
        let child = start_methods::start(method, &boot)?;
        child.wait_hello(Duration::from_secs(10))?;

        child.control().send(&[IoSlice::new(&21_u64.to_le_bytes())], &[])?;
        let mut answer = [0; 8];
        child.control().recv(&mut answer, &mut Vec::new())?;

        let (pid, exit) = (child.pid(), child.wait()?);
        println!("{method:>10}: process {pid} replied {}, {exit}", u64::from_le_bytes(answer));
    }
    Ok(())
}

fn double(birth: Birth) -> u8 {
    let mut question = [0; 8];
    match birth.control.recv(&mut question, &mut Vec::new()) {
        Ok(Received::Message(8)) => {}
        _ => return 1,
    }
    let answer = 2 * u64::from_le_bytes(question);
    let sent = birth.control.send(&[IoSlice::new(&answer.to_le_bytes())], &[]);
    u8::from(sent.is_err())
}
