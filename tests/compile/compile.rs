//! What must compile and what must not: inference of the calls as users write them, and the error for a capture.

/// Every file `tests/compile/*.rs` compiles and runs, but those in `fail/`, whose errors stand beside them.
#[test]
fn calls_infer_and_captures_do_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("pass/*.rs");
    cases.compile_fail("fail/*.rs");
}
