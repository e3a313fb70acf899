//! Which item of which call an error belongs to.

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

/// Which item of which call an error belongs to.
///
/// Printed as `item 3 of "resize"`. A call is named by [`Pool::label`](crate::Pool::label).
///
/// # Examples
///
/// ```
/// # use procpool::Pool;
/// # fn main() -> anyhow::Result<()> {
/// # procpool::init();
/// let pool = Pool::new(2)?;
/// let error = pool.label("quotients").map([6u32, 3, 0], |x| 12 / x).unwrap_err();
/// let origin = error.origin().expect("it belongs to one item");
/// assert_eq!((origin.index(), origin.label()), (Some(2), Some("quotients")));
/// assert!(error.to_string().starts_with("item 2 of \"quotients\": panic in worker "));
/// # Ok(())
/// # }
/// ```
// Two words, so that an error stays small: the index and one more is never zero, and the text is behind one pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The index and one more.
    number: Option<NonZero<u64>>,
    label: Label,
}

impl Origin {
    /// The position of the item in the input of its call, from 0 on. `None` if the call has one item only (`apply`), or
    /// if the error concerns the whole call.
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        self.number.and_then(|number| usize::try_from(number.get() - 1).ok())
    }

    /// The [label](crate::Pool::label) of the call, if it has one.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.label.0.as_deref().map(String::as_str)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.index(), self.label()) {
            (Some(index), Some(label)) => write!(f, "item {index} of {label:?}"),
            (Some(index), None) => write!(f, "item {index}"),
            (None, Some(label)) => write!(f, "{label:?}"),
            (None, None) => f.write_str("a call without a label"),
        }
    }
}

/// The label of a call, shared by all errors of the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Label(Option<Arc<String>>);

impl Label {
    pub(crate) fn new(label: Option<&str>) -> Self {
        Self(label.map(|label| Arc::new(label.to_owned())))
    }

    pub(crate) fn text(&self) -> Option<&str> {
        self.0.as_ref().map(|label| label.as_str())
    }

    /// The item with this index of the call.
    pub(crate) fn item(&self, index: u64) -> Origin {
        Origin { number: NonZero::new(index.wrapping_add(1)), label: self.clone() }
    }

    /// The whole call.
    pub(crate) fn call(&self) -> Origin {
        Origin { number: None, label: self.clone() }
    }
}

impl Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_deref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<String>::deserialize(deserializer)?.map(Arc::new)))
    }
}
