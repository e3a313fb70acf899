//! The names and shapes that a value has defined so far, by id.

use super::tag::IDS_MAX;

/// Entries in the order of their definition. The first one needs no memory of its own.
#[derive(Debug)]
pub(super) struct Table<T> {
    first: Option<T>,
    more: Vec<T>,
}

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        Self { first: None, more: Vec::new() }
    }

    /// Gives `entry` the next id, if there is one left. The writer counts in the same way.
    #[inline]
    pub(super) fn define(&mut self, entry: T) {
        if self.first.is_none() {
            self.first = Some(entry);
        } else if self.more.len() + 1 < IDS_MAX {
            self.more.push(entry);
        }
    }

    #[inline]
    pub(super) fn get(&mut self, id: u16) -> Option<&mut T> {
        match id {
            0 => self.first.as_mut(),
            _ => self.more.get_mut(usize::from(id) - 1),
        }
    }
}

/// The name of a variant or field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'de> {
    pub(super) text: &'de str,
    /// The index of the variant.
    pub(super) index: u32,
}

/// The names of all fields of a struct.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'de> {
    pub(super) count: usize,
    /// Encoded.
    pub(super) names: &'de [u8],
    /// The list of a type that was found to be the same as these, if there is one.
    same_as: Option<&'static [&'static str]>,
}

impl<'de> Shape<'de> {
    pub(super) fn new(count: usize, names: &'de [u8]) -> Self {
        Self { count, names, same_as: None }
    }

    /// Whether these are the names, in this order.
    #[inline]
    pub(super) fn is(&mut self, fields: &'static [&'static str]) -> bool {
        if self.same_as.is_some_and(|same| std::ptr::eq(same, fields)) {
            return true;
        }
        let is_same = self.count == fields.len() && self.has_names(fields);
        if is_same {
            self.same_as = Some(fields);
        }
        is_same
    }

    fn has_names(&self, fields: &[&str]) -> bool {
        let mut names = self.names;
        for field in fields {
            let Some(rest) = names.split_first().and_then(|(len, rest)| {
                (usize::from(*len) == field.len()).then(|| rest.strip_prefix(field.as_bytes())).flatten()
            }) else {
                return false;
            };
            names = rest;
        }
        names.is_empty()
    }
}
