//! What must compile and what must not: inference of the calls as users write them, and what the compiler says to a call
//! that is wrong.

use std::fs;
use std::path::Path;

/// How the messages of this crate begin to name the fix.
const FIXES: [&str; 3] = [": pass ", ": return ", ": derive "];

/// Every file `tests/compile/*.rs` compiles and runs, but those in `fail/`, whose errors stand beside them.
#[test]
fn calls_infer_and_captures_do_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("pass/*.rs");
    cases.compile_fail("fail/*.rs");
}

/// The messages in the guide's table, which are those that rustc does not let this crate change.
fn messages_in_the_guide() -> Vec<String> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide.md");
    let guide = fs::read_to_string(guide).expect("the guide");
    let table = guide.lines().skip_while(|line| !line.starts_with("| rustc says")).skip(2);
    let rows = table.take_while(|line| line.starts_with("| `"));
    rows.map(|row| row.split('`').nth(1).expect("a message").to_owned()).collect()
}

#[test]
fn every_message_names_the_fix_or_is_in_the_guide() {
    let mut unused = messages_in_the_guide();
    assert!(!unused.is_empty());
    let told = unused.clone();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fail")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "stderr") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap();
        if FIXES.iter().any(|fix| first.contains(fix)) {
            continue;
        }
        assert!(told.iter().any(|message| text.contains(message)), "{}: {first}", path.display());
        unused.retain(|message| !text.contains(message));
    }
    assert!(unused.is_empty(), "no case has {unused:?}");
}
