//! Failpoints (fault injection for tests): at a named point, a process fails in the way that a rule describes.
//!
//! Only builds with the feature `failpoints` *and* debug assertions have them; in all other builds a point compiles to
//! nothing. The feature alone is not sufficient as a condition: building examples or benches also builds the
//! dev-dependencies, and with them the feature, which `procpool` enables on itself for its own tests.
//!
//! The environment variable `START_METHODS_FAILPOINTS` holds the rules, so that they reach every process, whatever its
//! start method. Rules are separated by semicolons. The syntax of a rule:
//!
//! ```text
//! PROCESS POINT HITS ACTION [ARGUMENT] [while FILE | once FILE]
//!
//! procpool-0    before_hello  1    kill                      the first worker of the pool
//! procpool-*    after_run     3-   exit 7                    every worker, from its third item on
//! parent        fork          1-5  errno 11                  the first five forks of the process that armed them
//! fork-template before_fork   1-   kill     once /tmp/token  only the process that removes the file
//! newborn       at_birth      1-   wait /tmp/gate            a process that does not know its name yet
//! parent        unlisted      1-   sleep 2                   each time takes two milliseconds
//! ```
//!
//! Each process counts its own hits.

/// `failpoint!("point")`: a rule may stop, delay or end the process here.
macro_rules! failpoint {
    ($point:literal) => {
        #[cfg(all(feature = "failpoints", debug_assertions))]
        crate::sys::failpoint::harm($point);
    };
}
pub(crate) use failpoint;

/// `fault!("point")`: a rule may also make the enclosing function, which returns an `io::Result`, fail here.
macro_rules! fault {
    ($point:literal) => {
        #[cfg(all(feature = "failpoints", debug_assertions))]
        crate::sys::failpoint::reach($point)?;
    };
}
pub(crate) use fault;

#[cfg(all(feature = "failpoints", debug_assertions))]
pub use armed::*;

#[cfg(all(feature = "failpoints", debug_assertions))]
mod armed {
    use std::env;
    use std::fs;
    use std::fs::File;
    use std::io;
    use std::path::Path;
    use std::path::PathBuf;
    use std::str::SplitWhitespace;
    use std::sync::Arc;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use nix::fcntl::Flock;
    use nix::fcntl::FlockArg;
    use nix::sys::signal::Signal;
    use nix::sys::signal::raise;

    use crate::sys::process;
    use crate::sys::process::PerProcess;

    /// The environment variable that holds the rules.
    pub const VARIABLE: &str = "START_METHODS_FAILPOINTS";

    /// The failpoints of this process. A forked child parses the environment again, and has another name.
    static STATE: PerProcess<State> = PerProcess::new();

    #[derive(Debug)]
    struct State {
        name: Mutex<String>,
        rules: Mutex<Arc<[Rule]>>,
    }

    impl Default for State {
        fn default() -> Self {
            let rules = env::var(VARIABLE).unwrap_or_default();
            Self { name: Mutex::new("newborn".to_owned()), rules: Mutex::new(parse(&rules)) }
        }
    }

    #[derive(Debug)]
    struct Rule {
        process: String,
        point: String,
        hits: (u32, u32),
        action: Action,
        condition: Condition,
        hit_count: AtomicU32,
    }

    #[derive(Debug)]
    enum Action {
        Kill,
        Stop,
        Abort,
        Panic,
        Exit(i32),
        Errno(i32),
        Wait(PathBuf),
        Milliseconds(u64),
        Sleep(u64),
    }

    #[derive(Debug)]
    enum Condition {
        Always,
        While(PathBuf),
        Once(PathBuf),
    }

    /// Replaces the rules of this process and names it `parent`. Children get their rules from the environment.
    pub fn arm(rules: &str) {
        call_it("parent");
        *process::lock(&STATE.get().rules) = parse(rules);
    }

    /// Sets the name by which rules refer to this process.
    pub fn call_it(name: &str) {
        name.clone_into(&mut process::lock(&STATE.get().name));
    }

    /// A point at which a system call may fail.
    ///
    /// # Errors
    ///
    /// The error number that a matching rule names.
    pub fn reach(point: &str) -> io::Result<()> {
        for rule in rules().iter().filter(|rule| rule.is_hit(point)) {
            match &rule.action {
                Action::Kill => drop(raise(Signal::SIGKILL)),
                Action::Stop => drop(raise(Signal::SIGSTOP)),
                Action::Abort => std::process::abort(),
                Action::Panic => panic!("a rule makes {point} panic"),
                Action::Exit(code) => std::process::exit(*code),
                Action::Errno(errno) => return Err(io::Error::from_raw_os_error(*errno)),
                Action::Wait(path) => pass(path),
                Action::Milliseconds(_) => {}
                Action::Sleep(milliseconds) => std::thread::sleep(Duration::from_millis(*milliseconds)),
            }
        }
        Ok(())
    }

    /// A point at which nothing can return an error.
    pub fn harm(point: &str) {
        drop(reach(point));
    }

    /// The timeout to use in place of `limit`: that of a matching rule, or `limit`.
    pub fn shortened(point: &str, limit: Duration) -> Duration {
        let limits = rules();
        let mut limits = limits.iter().filter(|rule| rule.is_hit(point)).filter_map(|rule| match rule.action {
            Action::Milliseconds(milliseconds) => Some(Duration::from_millis(milliseconds)),
            _ => None,
        });
        limits.next().unwrap_or(limit)
    }

    fn rules() -> Arc<[Rule]> {
        Arc::clone(&process::lock(&STATE.get().rules))
    }

    /// Waits until the file is not locked, or does not exist.
    fn pass(path: &Path) {
        let Ok(mut file) = File::open(path) else { return };
        while let Err((again, nix::errno::Errno::EINTR)) = Flock::lock(file, FlockArg::LockShared) {
            file = again;
        }
    }

    impl Rule {
        /// Whether the rule applies to this hit, which it counts.
        fn is_hit(&self, point: &str) -> bool {
            if self.point != point || !self.is_for(&process::lock(&STATE.get().name)) {
                return false;
            }
            let count = self.hit_count.fetch_add(1, Ordering::Relaxed) + 1;
            let (first, last) = self.hits;
            (first..=last).contains(&count)
                && match &self.condition {
                    Condition::Always => true,
                    Condition::While(path) => path.exists(),
                    Condition::Once(path) => fs::remove_file(path).is_ok(),
                }
        }

        fn is_for(&self, name: &str) -> bool {
            match self.process.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => self.process == name,
            }
        }
    }

    /// Panics for a malformed rule: a fault that never happens unnoticed would make a test that never fails.
    fn parse(rules: &str) -> Arc<[Rule]> {
        let rules = rules.split(';').filter(|rule| !rule.trim().is_empty());
        rules.map(|rule| parse_rule(rule).unwrap_or_else(|| panic!("malformed rule: {rule:?}"))).collect()
    }

    fn parse_rule(rule: &str) -> Option<Rule> {
        let mut words = rule.split_whitespace();
        let (process, point) = (words.next()?.to_owned(), words.next()?.to_owned());
        let hits = parse_hits(words.next()?)?;
        let action = parse_action(&mut words)?;
        let condition = match (words.next(), words.next()) {
            (None, None) => Condition::Always,
            (Some("while"), Some(path)) => Condition::While(path.into()),
            (Some("once"), Some(path)) => Condition::Once(path.into()),
            _ => return None,
        };
        let rule = Rule { process, point, hits, action, condition, hit_count: AtomicU32::new(0) };
        words.next().is_none().then_some(rule)
    }

    fn parse_hits(hits: &str) -> Option<(u32, u32)> {
        let (first, last) = hits.split_once('-').unwrap_or((hits, hits));
        Some((first.parse().ok()?, if last.is_empty() { u32::MAX } else { last.parse().ok()? }))
    }

    fn parse_action(words: &mut SplitWhitespace<'_>) -> Option<Action> {
        Some(match words.next()? {
            "kill" => Action::Kill,
            "stop" => Action::Stop,
            "abort" => Action::Abort,
            "panic" => Action::Panic,
            "exit" => Action::Exit(words.next()?.parse().ok()?),
            "errno" => Action::Errno(words.next()?.parse().ok()?),
            "wait" => Action::Wait(words.next()?.into()),
            "ms" => Action::Milliseconds(words.next()?.parse().ok()?),
            "sleep" => Action::Sleep(words.next()?.parse().ok()?),
            _ => return None,
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_rule_is_for_a_process_a_point_and_some_hits() {
            let rules = parse("parent fork 2-3 errno 11; procpool-* run 1- kill while /nowhere");
            assert!(!rules[0].is_for("procpool-1") && rules[0].is_for("parent"));
            assert!(rules[1].is_for("procpool-1") && !rules[1].is_for("procpool"));
            arm("parent fork 2-3 errno 11; parent fork 1- kill while /nowhere");
            let fails = || reach("fork").err().and_then(|error| error.raw_os_error());
            assert_eq!([fails(), fails(), fails(), fails()], [None, Some(11), Some(11), None]);
        }

        #[test]
        fn what_is_no_rule_is_not_taken_for_one() {
            for rule in ["parent", "parent fork", "parent fork 1", "parent fork x kill", "parent fork 1 errno"] {
                assert!(parse_rule(rule).is_none(), "{rule}");
            }
            for rest in ["kill while", "kill 7", "dance", "kill once /a /b", "exit 1 2"] {
                assert!(parse_rule(&format!("parent fork 1 {rest}")).is_none(), "{rest}");
            }
        }
    }
}
