//! The points of the pool at which tests let faults happen; in all other builds they are no code at all.
//!
//! What a point does, and when there are any, is told in `start_methods/src/failpoint.rs`.

/// `failpoint!("point")`: here a process may come to harm; `failpoint!("point" if condition)`: if that is so.
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

/// `fault!("point")`: here a system call may fail, and with it the function, which gives an `io::Result`.
macro_rules! fault {
    ($point:literal) => {
        #[cfg(all(feature = "failpoints", debug_assertions))]
        start_methods::failpoint::reach($point)?;
    };
}
pub(crate) use fault;

/// `shortened!("point", limit)`: how long a wait may last.
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
