//! Where a worker leaves `main`.

/// Makes this program one that can be its own worker: the first line of `main`.
///
/// In the parent it does nothing. In a worker or a fork server, which begin as a second run of this program, it never
/// returns. Without it [`Pool::new`](crate::Pool::new) says [`PoolError::NotInitialized`](crate::PoolError::NotInitialized)
/// before it starts any process.
///
/// Everything before it runs in every worker as well, so let nothing be before it.
///
/// CPython's `freeze_support` and its `if __name__ == "__main__"` are for the same purpose.
///
/// # Examples
///
/// ```
/// procpool::init();
/// // The program.
/// ```
#[doc(alias = "freeze_support")]
pub fn init() {
    start_methods::init();
}

/// Calls [`init`](crate::init) before the test harness begins, for test binaries that have no `main` of their own.
///
/// Say it once in the file of an integration test, or once in a library whose unit tests use pools. It is for tests
/// only: code before `main` runs without some of the standard library's protections.
///
/// Under libtest every test runs beside the harness's main thread, so [`StartMethod::Fork`](crate::StartMethod::Fork)
/// is refused there; a test target with `harness = false` has no such limit.
///
/// # Examples
///
/// ```
/// procpool::test_init!();
///
/// // In a test:
/// # fn main() {
/// let pool = procpool::Pool::new(2).unwrap();
/// assert_eq!(pool.map(0..3u32, |x| x * x).unwrap(), [0, 1, 4]);
/// # }
/// ```
#[macro_export]
macro_rules! test_init {
    () => {
        $crate::__start_methods::test_init!();
    };
}
