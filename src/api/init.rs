//! Initialization: the point at which a worker leaves `main`, or leaves the program before `main`.

/// Lets this program be executed as its own worker. Must be the first line of `main`.
///
/// In the parent it does nothing. In a worker or a fork server, which begin as a second run of this program, it never
/// returns. Without it, [`Pool::new`](crate::Pool::new) returns
/// [`PoolError::NotInitialized`](crate::PoolError::NotInitialized) before it starts any process.
///
/// Code before it runs in every worker as well, so there should be none. Threads above all: no fork server works beside
/// them (see [`PoolBuilder::start_method`](crate::PoolBuilder::start_method)). So `#[tokio::main]`, which starts a
/// runtime before the first line of `main`, is replaced by a plain `main` that builds the runtime after `init`:
///
/// ```ignore
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let runtime = tokio::runtime::Runtime::new()?;
///     runtime.block_on(run()) // `async fn run() -> anyhow::Result<()>` has what was in `main`.
/// }
/// ```
///
/// Or keep the attribute, and write [`init_before_main!`](crate::init_before_main) beside `main`.
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

/// Calls [`init`](crate::init) before `main`, for a program whose `main` cannot begin with it: an attribute like
/// `#[tokio::main]` has put a runtime with threads around it.
///
/// Write it once, outside of all functions. Workers then run none of `main`, and the runtime exists in this process
/// only. A worker's tasks run in a constructor of this program: a stack overflow in one is a plain SIGSEGV without the
/// standard library's message, and constructors of libraries that are linked *statically* (C++ objects, the crate
/// `ctor`) may not have run, and then never do in a worker. Those of shared libraries have run. If that matters, call
/// [`init`](crate::init) in a plain `main`. Not needed in CPython.
///
/// # Examples
///
/// ```
/// procpool::init_before_main!();
///
/// // With #[tokio::main], for instance.
/// fn main() -> anyhow::Result<()> {
///     let pool = procpool::Pool::new(2)?;
///     assert_eq!(pool.map(0..3u32, |x| x * x)?, [0, 1, 4]);
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! init_before_main {
    () => {
        $crate::__start_methods::init_before_main!();
    };
}

/// Calls [`init`](crate::init) before the test harness begins, for test binaries that have no `main` of their own.
///
/// Write it once in the file of an integration test, or once in a library whose unit tests use pools. It is
/// [`init_before_main!`](crate::init_before_main) by a fitting name. Not needed in CPython.
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
