//! What a thread that writes values knows of structs and names: their shapes, for as long as it lives, and which of them
//! the present value has mentioned already.
//!
//! Names are `&'static str`, so an address and a length identify a text. The same text may have several addresses; it
//! then has several ids, which is harmless.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;

use super::tag::IDS_MAX;
use super::tag::NEW_NAME;

/// How many structs and names are remembered. A program has fewer, unless it makes them up.
const KNOWN_MAX: usize = 4096;

/// How many structs are found without the map.
const RECENT: usize = 64;

/// Hashes a few addresses and lengths.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        // The golden ratio: the high bits, by which the table chooses, depend on all bits of the address.
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    #[inline]
    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}

type ByAddress<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// A text by its place, and a number that belongs to it.
type Place = (usize, usize, u32);

fn place(text: &'static str, number: u32) -> Place {
    (text.as_ptr().addr(), text.len(), number)
}

/// Whether two names are the same. That they have the same address is the rule.
#[inline]
pub(super) fn is_same(left: &'static str, right: &'static str) -> bool {
    (std::ptr::eq(left.as_ptr(), right.as_ptr()) && left.len() == right.len()) || left == right
}

/// The id of a shape or name within one value.
#[derive(Clone, Copy, Debug, Default)]
struct Mention {
    /// The value; see [`Dictionary::value`].
    value: u64,
    id: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// The names are being collected, during the value with this number.
    Learning(u64),
    /// All values so far had these names.
    Known,
    /// The names differ from value to value, or cannot be a shape.
    Varies,
}

/// A struct: a name and a number of fields.
#[derive(Debug)]
struct Struct {
    place: Place,
    knowledge: Knowledge,
    names: Vec<&'static str>,
    /// The shape, once the names are known.
    shape: Vec<u8>,
    mention: Mention,
}

/// How a struct begins in the present value.
#[derive(Clone, Copy, Debug)]
pub(super) enum StructStart {
    /// By position. The shape gets the next id.
    New { index: u32 },
    /// By position. The value has mentioned the shape already.
    Known { index: u32, id: u16 },
    /// With names.
    Named,
    /// With names, which are to be reported to [`Dictionary::learn`].
    Unknown { index: u32 },
}

/// How a name is written in the present value.
#[derive(Clone, Copy, Debug)]
pub(super) enum NameStart {
    New,
    Known(u16),
}

#[derive(Debug)]
pub(super) struct Dictionary {
    /// Counts the values.
    value: u64,
    structs: Vec<Struct>,
    struct_of: ByAddress<Place, u32>,
    /// Indices into `structs`, by a part of the place: a look here is quicker than into the map.
    recent: [u32; RECENT],
    names: ByAddress<Place, Mention>,
    shapes_mentioned: usize,
    names_mentioned: usize,
}

impl Default for Dictionary {
    fn default() -> Self {
        Self {
            value: 0,
            structs: Vec::new(),
            struct_of: HashMap::default(),
            recent: [0; RECENT],
            names: HashMap::default(),
            shapes_mentioned: 0,
            names_mentioned: 0,
        }
    }
}

thread_local! {
    /// Not there while a value is being written.
    static DICTIONARY: Cell<Option<Box<Dictionary>>> = const { Cell::new(None) };
}

/// The dictionary of this thread, for one value. It should be [returned](give_back). A value that is written while
/// another is, by the code of the other, gets a fresh one.
pub(super) fn take() -> Box<Dictionary> {
    let mut dictionary = DICTIONARY.try_with(Cell::take).ok().flatten().unwrap_or_default();
    dictionary.begin();
    dictionary
}

pub(super) fn give_back(dictionary: Box<Dictionary>) {
    // A thread that ends has none any more.
    let _: Result<(), _> = DICTIONARY.try_with(|place| place.set(Some(dictionary)));
}

impl Dictionary {
    fn begin(&mut self) {
        if self.structs.len() > KNOWN_MAX || self.names.len() > KNOWN_MAX {
            *self = Dictionary { value: self.value, ..Dictionary::default() };
        }
        self.value += 1;
        self.shapes_mentioned = 0;
        self.names_mentioned = 0;
    }

    /// Mentions a struct of this name with this many fields.
    #[inline(always)]
    pub(super) fn begin_struct(&mut self, name: &'static str, field_count: usize) -> StructStart {
        let index = self.index_of(place(name, u32::try_from(field_count).unwrap_or(u32::MAX)));
        let known = &mut self.structs[index as usize];
        if known.knowledge != Knowledge::Known {
            return self.begin_unknown(index);
        }
        if known.mention.value == self.value {
            return StructStart::Known { index, id: known.mention.id };
        }
        match mention(self.value, &mut self.shapes_mentioned) {
            Some(mention) => {
                known.mention = mention;
                StructStart::New { index }
            }
            None => StructStart::Named,
        }
    }

    /// The encoded shape of a struct that begins by position.
    #[inline]
    pub(super) fn shape(&self, index: u32) -> &[u8] {
        &self.structs[index as usize].shape
    }

    /// The name that a field of a struct had so far; `None` if it had fewer fields.
    #[inline(always)]
    pub(super) fn field(&self, index: u32, field: u32) -> Option<&'static str> {
        self.structs[index as usize].names.get(field as usize).copied()
    }

    #[inline(always)]
    fn index_of(&mut self, place: Place) -> u32 {
        let slot = (place.0 >> 3 ^ place.0 >> 9 ^ place.2 as usize) % RECENT;
        let recent = self.recent[slot];
        match self.structs.get(recent as usize) {
            Some(known) if known.place == place => recent,
            _ => self.index_in_map(place, slot),
        }
    }

    #[inline(never)]
    fn index_in_map(&mut self, place: Place, slot: usize) -> u32 {
        let index = *self.struct_of.entry(place).or_insert_with(|| {
            let index = u32::try_from(self.structs.len()).expect("structs take more memory than that");
            self.structs.push(Struct {
                place,
                knowledge: Knowledge::Learning(0),
                names: Vec::new(),
                shape: Vec::new(),
                mention: Mention::default(),
            });
            index
        });
        self.recent[slot] = index;
        index
    }

    #[cold]
    fn begin_unknown(&mut self, index: u32) -> StructStart {
        let known = &mut self.structs[index as usize];
        match known.knowledge {
            // What was learned during another value has failed with it.
            Knowledge::Learning(value) if value != self.value => {
                known.knowledge = Knowledge::Learning(self.value);
                known.names.clear();
                StructStart::Unknown { index }
            }
            _ => StructStart::Named,
        }
    }

    /// The next name of a struct.
    pub(super) fn learn(&mut self, index: u32, name: &'static str) {
        self.structs[index as usize].names.push(name);
    }

    /// All names of a struct were learned.
    pub(super) fn learned(&mut self, index: u32) {
        let learned = &mut self.structs[index as usize];
        learned.knowledge = match encode_shape(&learned.names) {
            Some(shape) if learned.names.len() == learned.place.2 as usize => {
                learned.shape = shape;
                Knowledge::Known
            }
            _ => Knowledge::Varies,
        };
    }

    /// The names of a struct were not the same this time.
    pub(super) fn varies(&mut self, index: u32) {
        self.structs[index as usize].knowledge = Knowledge::Varies;
    }

    /// Mentions a name, of a variant with this index or of a field.
    #[inline]
    pub(super) fn begin_name(&mut self, name: &'static str, index: u32) -> NameStart {
        let known = self.names.entry(place(name, index)).or_default();
        if known.value == self.value {
            return NameStart::Known(known.id);
        }
        if let Some(mention) = mention(self.value, &mut self.names_mentioned) {
            *known = mention;
        }
        NameStart::New
    }
}

/// The next id in this value; `None` if there are no more.
#[inline]
fn mention(value: u64, mentioned: &mut usize) -> Option<Mention> {
    let id = u16::try_from(*mentioned).ok().filter(|_| *mentioned < IDS_MAX)?;
    *mentioned += 1;
    debug_assert!(id != NEW_NAME);
    Some(Mention { value, id })
}

/// `None` if there are too many names, or too long ones.
fn encode_shape(names: &[&'static str]) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for name in names {
        encoded.push(u8::try_from(name.len()).ok()?);
        encoded.extend(name.as_bytes());
    }
    let count = u8::try_from(names.len()).ok()?;
    let size = u16::try_from(encoded.len()).ok()?.to_ne_bytes();
    encoded.splice(0..0, [count, size[0], size[1]]);
    Some(encoded)
}
