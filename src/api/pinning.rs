//! Which processors workers run on.

use crate::error::PoolError;
use crate::sys::affinity;

/// Which processors the workers of a pool are bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Pinning {
    /// None: they may run on all that this process may use.
    #[default]
    None,
    /// Each to one, in turn.
    EachToOne,
    /// Each to one of these sets, in turn.
    Sets(Vec<Vec<usize>>),
}

impl Pinning {
    /// The sets, in the order of the lanes.
    ///
    /// # Errors
    ///
    /// A worker cannot be bound to one of them.
    pub(super) fn sets(self) -> Result<Vec<Vec<usize>>, PoolError> {
        let sets: Vec<Vec<usize>> = match self {
            Self::None => return Ok(Vec::new()),
            Self::EachToOne => {
                let allowed = affinity::allowed().map_err(PoolError::system("asking for the processors"))?;
                return Ok(allowed.into_iter().map(|processor| vec![processor]).collect());
            }
            Self::Sets(sets) => sets,
        };
        if sets.is_empty() {
            return Err(PoolError::Affinity { processors: Vec::new(), errno: libc::EINVAL });
        }
        for processors in &sets {
            affinity::try_bind(processors).map_err(|error| PoolError::Affinity {
                processors: processors.clone(),
                errno: error.raw_os_error().unwrap_or(libc::EINVAL),
            })?;
        }
        Ok(sets)
    }
}
