//! Structs with serde's attributes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;
use serde::Serializer;

use super::Value;
use super::check_form;
use super::enums::Adjacent;
use super::enums::External;
use super::enums::Internal;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Named<F> {
    pub(super) a: F,
    pub(super) b: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tuple<F>(F, u8);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Newtype<F>(F);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Transparent<F> {
    only: F,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "other", rename_all = "SCREAMING-KEBAB-CASE")]
pub(super) struct Renamed<F> {
    first_field: F,
    #[serde(rename = "2")]
    second: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Aliased<F> {
    #[serde(alias = "a", alias = "z")]
    first: F,
    #[serde(alias = "first_too")]
    second: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct HalfRenamed<F> {
    #[serde(rename(serialize = "b", deserialize = "a"), alias = "b")]
    a: F,
    #[serde(rename(serialize = "a", deserialize = "c"), default)]
    c: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Strict<F> {
    a: F,
    b: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FieldDefault<F> {
    #[serde(default)]
    a: F,
    #[serde(default = "nine")]
    b: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StructDefault<F: Default> {
    a: F,
    b: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Skipped<F> {
    #[serde(skip)]
    a: u8,
    b: F,
    #[serde(skip, default = "nine")]
    c: u8,
    d: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct WriteOnly<F> {
    #[serde(skip_deserializing)]
    a: u8,
    b: F,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ReadOnly<F> {
    #[serde(skip_serializing, default)]
    a: u8,
    b: F,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ReadOnlyBare<F> {
    #[serde(skip_serializing)]
    a: u8,
    b: F,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SkippedIf<F> {
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<F>,
    b: u8,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    c: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SkippedIfZero<F> {
    #[serde(skip_serializing_if = "is_zero")]
    a: u8,
    b: F,
    #[serde(skip_serializing_if = "is_zero", default)]
    c: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SkippedInTuple<F>(F, #[serde(skip_serializing_if = "is_zero", default)] u8);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Flattened<F> {
    x: u8,
    #[serde(flatten)]
    inner: Named<F>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FlattenedOption<F> {
    #[serde(flatten)]
    inner: Option<Named<F>>,
    x: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FlattenedMap<F> {
    x: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, F>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FlattenedEnum<F> {
    #[serde(flatten)]
    inner: External<F>,
    x: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FlattenedTagged<F> {
    #[serde(flatten)]
    inner: Internal<F>,
    #[serde(flatten)]
    more: Adjacent<F>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) struct Tagged<F> {
    a: F,
    b: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Named<F>", into = "Named<F>")]
pub(super) struct Converted<F: Clone> {
    a: F,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Tuple<F>", into = "Tuple<F>")]
pub(super) struct TriedFrom<F: Clone> {
    a: F,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct With<F> {
    #[serde(with = "doubled")]
    a: u8,
    b: F,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Unwrapped<F> {
    #[serde(serialize_with = "bare", skip_serializing_if = "Option::is_none", default)]
    a: Option<u8>,
    b: F,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Nested<F> {
    a: Vec<Named<F>>,
    b: Option<Box<Nested<F>>>,
    c: BTreeMap<String, Tuple<F>>,
}

pub(super) fn check_all<F: Value + Default>(f: &F) {
    let f = || f.clone();
    check_form("Named", vec![Named { a: f(), b: 1 }]);
    check_form("Tuple", vec![Tuple(f(), 1)]);
    check_form("Newtype", vec![Newtype(f())]);
    check_form("Transparent", vec![Transparent { only: f() }]);
    check_form("Renamed", vec![Renamed { first_field: f(), second: 2 }]);
    check_form("Aliased", vec![Aliased { first: f(), second: 2 }]);
    check_form("HalfRenamed", vec![HalfRenamed { a: f(), c: 0 }]);
    check_form("Strict", vec![Strict { a: f(), b: None }]);
    check_form("FieldDefault", vec![FieldDefault { a: f(), b: 1 }]);
    check_form("StructDefault", vec![StructDefault { a: f(), b: 1 }]);
    check_form("Skipped", vec![Skipped { a: 0, b: f(), c: 9, d: 1 }]);
    check_form("WriteOnly", vec![WriteOnly { a: 0, b: f() }, WriteOnly { a: 5, b: f() }]);
    check_form("ReadOnly", vec![ReadOnly { a: 0, b: f() }, ReadOnly { a: 5, b: f() }]);
    check_form("ReadOnlyBare", vec![ReadOnlyBare { a: 0, b: f() }]);
    check_form(
        "SkippedIf",
        vec![
            SkippedIf { a: None, b: 1, c: None },
            SkippedIf { a: Some(f()), b: 1, c: None },
            SkippedIf { a: None, b: 1, c: Some(3) },
        ],
    );
    check_form(
        "SkippedIfZero",
        vec![
            SkippedIfZero { a: 0, b: f(), c: 0 },
            SkippedIfZero { a: 1, b: f(), c: 0 },
            SkippedIfZero { a: 0, b: f(), c: 1 },
        ],
    );
    check_form("SkippedInTuple", vec![SkippedInTuple(f(), 1), SkippedInTuple(f(), 0)]);
    check_form("Flattened", vec![Flattened { x: 1, inner: Named { a: f(), b: 2 } }]);
    check_form(
        "FlattenedOption",
        vec![FlattenedOption { inner: None, x: 1 }, FlattenedOption { inner: Some(Named { a: f(), b: 1 }), x: 1 }],
    );
    check_form("FlattenedMap", vec![FlattenedMap { x: 1, rest: BTreeMap::from([("k".to_owned(), f())]) }]);
    check_form(
        "FlattenedEnum",
        vec![
            FlattenedEnum { inner: External::Newtype(f()), x: 1 },
            FlattenedEnum { inner: External::Struct { a: f(), b: 1 }, x: 1 },
        ],
    );
    check_form(
        "FlattenedTagged",
        vec![FlattenedTagged { inner: Internal::Struct { a: f(), b: 1 }, more: Adjacent::Newtype(f()) }],
    );
    check_form("Tagged", vec![Tagged { a: f(), b: 1 }]);
    check_form("Converted", vec![Converted { a: f() }]);
    check_form("TriedFrom", vec![TriedFrom { a: f() }]);
    check_form("With", vec![With { a: 2, b: f() }]);
    check_form("Unwrapped", vec![Unwrapped { a: Some(2), b: f() }, Unwrapped { a: None, b: f() }]);
    check_form(
        "Nested",
        vec![Nested {
            a: vec![Named { a: f(), b: 1 }; 2],
            b: Some(Box::new(Nested { a: vec![], b: None, c: BTreeMap::new() })),
            c: BTreeMap::from([("k".to_owned(), Tuple(f(), 1))]),
        }],
    );
}

fn nine() -> u8 {
    9
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) fn is_zero(number: &u8) -> bool {
    *number == 0
}

/// Writes what is in an option, and not the option.
fn bare<S: Serializer>(option: &Option<u8>, serializer: S) -> Result<S::Ok, S::Error> {
    option.unwrap_or_default().serialize(serializer)
}

/// Numbers are written doubled.
pub(super) mod doubled {
    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(crate) fn serialize<S: Serializer>(number: &u8, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(2 * number)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
        u8::deserialize(deserializer).map(|number| number / 2)
    }
}

impl<F> From<Named<F>> for Converted<F>
where
    F: Clone,
{
    fn from(named: Named<F>) -> Self {
        Converted { a: named.a }
    }
}

impl<F: Clone> From<Converted<F>> for Named<F> {
    fn from(converted: Converted<F>) -> Self {
        Named { a: converted.a, b: 0 }
    }
}

impl<F: Clone> TryFrom<Tuple<F>> for TriedFrom<F> {
    type Error = String;

    fn try_from(Tuple(a, zero): Tuple<F>) -> Result<Self, String> {
        if zero == 0 { Ok(TriedFrom { a }) } else { Err("not zero".to_owned()) }
    }
}

impl<F: Clone> From<TriedFrom<F>> for Tuple<F> {
    fn from(from: TriedFrom<F>) -> Self {
        Tuple(from.a, 0)
    }
}
