//! Processes with one function each: a result, a struct with a method as the subclass, two that talk, and a parent's name.
//!
//! The second half is a Python program, ported:
//!
//! ```python
//! class Upper(Process):
//!     def __init__(self, texts, loud):
//!         super().__init__(name="upper")
//!         self.texts, self.loud = texts, loud
//!
//!     def run(self):
//!         for text in iter(self.texts.get, None):
//!             self.loud.put((current_process().name, text.upper()))
//!
//! texts, loud = Queue(4), Queue(4)
//! upper = Upper(texts, loud)
//! upper.start()
//! for text in ("to", "be"):
//!     texts.put(text)
//! texts.put(None)
//! for _ in range(2):
//!     print(*loud.get())
//! upper.join()
//! ```

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use procpool::channel;
use procpool::channel::{Receiver, Sender};
use procpool::process::{self, Process, ProcessError};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Upper {
    texts: Receiver<String>,
    loud: Sender<(String, String)>,
}

impl Upper {
    /// Ends when the last sender of texts is gone: no sentinel is needed.
    fn run(self) -> anyhow::Result<u32> {
        let mut count = 0;
        for text in self.texts {
            self.loud.send((process::current().name().to_owned(), text?.to_uppercase()))?;
            count += 1;
        }
        Ok(count)
    }
}

fn die() {
    std::process::abort()
}

fn main() -> anyhow::Result<()> {
    procpool::init();

    // A function, its arguments, and its result.
    let primes = Process::spawn((20_000,), |limit: u32| {
        (2..limit).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count()
    })?;
    println!("{} is process {}", primes.name(), primes.pid());
    assert_eq!(primes.join()?, 2262);

    // A child knows who has started it.
    let parent = Process::spawn((), || process::current().parent().map(|parent| parent.name().to_owned()))?.join()?;
    println!("started by {}", parent.as_deref().unwrap_or("nobody"));
    assert_eq!(parent.as_deref(), Some("MainProcess"));

    // The program above.
    let (texts, input) = channel::bounded(4)?;
    let (output, loud) = channel::bounded(4)?;
    let upper = Process::builder().name("upper").spawn((Upper { texts: input, loud: output },), Upper::run)?;
    for text in ["to", "be"] {
        texts.send(text.to_owned())?;
    }
    drop(texts);
    let mut words = Vec::new();
    for message in &loud {
        let (name, word) = message?;
        println!("{name}: {word}");
        words.push(word);
    }
    assert_eq!(words, ["TO", "BE"]);
    assert_eq!(upper.join()?, 2);

    // A death is told, and costs nobody else anything.
    match Process::spawn((), die)?.join() {
        Err(ProcessError::Died { pid, status, .. }) => println!("process {pid} died: {status:?}"),
        other => anyhow::bail!("it should have died: {:?}", other.map(|()| "a result")),
    }
    Ok(())
}
