//! Failpoints: places in the pool at which tests inject faults. Other builds compile them to nothing.
//!
//! Also called: fault injection. What a failpoint does, and in which builds, is described in `start_methods::failpoint`.

/// `failpoint!("point")`: the process may be harmed here. `failpoint!("point" if condition)`: only if the condition holds.
macro_rules! failpoint {
    ($point:literal) => {
        failpoint!($point if true)
    };
    ($point:literal if $condition:expr) => {
        #[cfg(all(feature = "failpoints", debug_assertions))]
        if $condition {
            start_methods::failpoint::harm($point);
        }
    };
}
pub(crate) use failpoint;

/// As `failpoint!`, for code that is given the name of the point.
#[inline]
pub(crate) fn pass(point: &str) {
    #[cfg(all(feature = "failpoints", debug_assertions))]
    start_methods::failpoint::harm(point);
    #[cfg(not(all(feature = "failpoints", debug_assertions)))]
    let _: &str = point;
}

/// `fault!("point")`: a system call may fail here, and with it the function, which returns an `io::Result`.
macro_rules! fault {
    ($point:literal) => {
        #[cfg(all(feature = "failpoints", debug_assertions))]
        start_methods::failpoint::reach($point)?;
    };
}
pub(crate) use fault;

/// `shortened!("point", limit)`: `limit`, or the shorter one that a test has set for this point.
macro_rules! shortened {
    ($point:literal, $limit:expr) => {{
        #[cfg(all(feature = "failpoints", debug_assertions))]
        let limit = start_methods::failpoint::shortened($point, $limit);
        #[cfg(not(all(feature = "failpoints", debug_assertions)))]
        let limit = $limit;
        limit
    }};
}
pub(crate) use shortened;
