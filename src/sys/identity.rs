//! The name of this process, and of the process that started it.
//!
//! Names are those of CPython: `MainProcess`, `Process-1`, and `Process-1:2` for the second child of that. The children
//! of a pool's worker are named after the worker, whose name is that of the pool with a number.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::Serialize;

use crate::sys::generation::PerGeneration;

/// The name of a process that this crate has not started.
const MAIN: &str = "MainProcess";

/// A process: its id and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

/// What a new process is told of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Born {
    pub(crate) name: String,
    /// What the names of its own children begin with.
    prefix: String,
    parent: Named,
}

/// What a process knows of itself.
#[derive(Debug)]
pub(crate) struct Identity {
    name: String,
    prefix: String,
    parent: Option<Named>,
    /// How many names it has given to children.
    named: AtomicU32,
}

/// Set once, before any code of the user's runs. A copy that a task forks keeps the name.
static IDENTITY: PerGeneration<Identity> = PerGeneration::new();

/// The identity of this process.
pub(crate) fn here() -> &'static Identity {
    IDENTITY.here().get_or_init(|| Identity {
        name: MAIN.to_owned(),
        prefix: "Process-".to_owned(),
        parent: None,
        named: AtomicU32::new(0),
    })
}

/// This process has begun, and is told its name.
pub(crate) fn begin(born: Born) {
    let Born { name, prefix, parent } = born;
    let identity = Identity { name, prefix, parent: Some(parent), named: AtomicU32::new(0) };
    let set = IDENTITY.here().set(identity);
    debug_assert!(set.is_ok(), "a process begins once, and is named before anything else");
}

impl Identity {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The process that started this one; `None` if that was not this crate.
    pub(crate) fn parent(&self) -> Option<&Named> {
        self.parent.as_ref()
    }

    /// A child of this process, with a name of its own or with the next one of this process.
    pub(crate) fn child(&self, name: Option<String>) -> Born {
        // Counted whether or not it is used, so that a name says how many were started before. Relaxed: the number stands
        // alone.
        let number = self.named.fetch_add(1, Ordering::Relaxed) + 1;
        let place = format!("{}{number}", self.prefix);
        Born { prefix: format!("{place}:"), name: name.unwrap_or(place), parent: self.as_parent() }
    }

    /// A worker with this name.
    pub(crate) fn worker(&self, name: String) -> Born {
        Born { prefix: format!("{name}:"), name, parent: self.as_parent() }
    }

    fn as_parent(&self) -> Named {
        Named { pid: std::process::id(), name: self.name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn born(born: Born) -> Identity {
        let Born { name, prefix, parent } = born;
        Identity { name, prefix, parent: Some(parent), named: AtomicU32::new(0) }
    }

    #[test]
    fn names_are_those_of_python() {
        let main = Identity { name: MAIN.into(), prefix: "Process-".into(), parent: None, named: AtomicU32::new(0) };
        let first = born(main.child(None));
        let second = born(main.child(Some("logger".to_owned())));
        let third = born(main.child(None));
        assert_eq!([&first.name, &second.name, &third.name], ["Process-1", "logger", "Process-3"]);
        assert_eq!(first.child(None).name, "Process-1:1");
        assert_eq!(second.child(None).name, "Process-2:1");
        assert_eq!(born(first.child(None)).child(None).name, "Process-1:2:1");
        assert_eq!(second.parent, Some(Named { pid: std::process::id(), name: MAIN.to_owned() }));
    }

    #[test]
    fn children_of_a_worker_are_named_after_it() {
        let main = Identity { name: MAIN.into(), prefix: "Process-".into(), parent: None, named: AtomicU32::new(0) };
        let worker = born(main.worker("resize-0".to_owned()));
        assert_eq!(worker.child(None).name, "resize-0:1");
        assert_eq!(main.child(None).name, "Process-1");
    }
}
