//! Initialization: the point at which a worker leaves `main`.

/// Lets this program be executed as its own worker. Must be the first line of `main`.
///
/// In the parent it does nothing. In a worker or a fork server, which begin as a second run of this program, it never
/// returns. Without it, [`Pool::new`](crate::Pool::new) returns
/// [`PoolError::NotInitialized`](crate::PoolError::NotInitialized) before it starts any process.
///
/// Code before it runs in every worker as well, so there should be none.
///
/// CPython's `freeze_support` and its `if __name__ == "__main__"` serve the same purpose.
///
/// # Examples
///
/// ```
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = procpool::Pool::new(2)?;
///     assert_eq!(pool.apply((6u32, 7u32), |a, b| a * b)?, 42);
///     Ok(())
/// }
/// ```
#[doc(alias = "freeze_support")]
pub fn init() {
    start_methods::init();
}

/// Calls [`init`](crate::init) before the test harness begins, for test binaries that have no `main` of their own.
///
/// Write it once in the file of an integration test, or once in a library whose unit tests use pools. It is for tests
/// only: code before `main` runs without some of the standard library's protections. Not needed in CPython.
///
/// Under libtest every test runs beside the main thread of the harness, so
/// [`StartMethod::Fork`](crate::StartMethod::Fork) is refused there. A test target with `harness = false` does not have
/// this limit.
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
