//! Enums with serde's attributes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use super::Value;
use super::check_form;
use super::structs::Named;
use super::structs::doubled;
use super::structs::is_zero;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum External<F> {
    Unit,
    Newtype(F),
    Tuple(F, u8),
    Struct { a: F, b: u8 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Internal<F> {
    Unit,
    Newtype(Named<F>),
    Map(BTreeMap<String, F>),
    Struct { a: F, b: u8 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
pub(super) enum Adjacent<F> {
    Unit,
    Newtype(F),
    Tuple(F, u8),
    Struct { a: F, b: u8 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c", deny_unknown_fields)]
pub(super) enum AdjacentStrict<F> {
    Unit,
    Newtype(F),
    Tuple(F, u8),
    Struct { a: F, b: u8 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Untagged<F> {
    Struct { a: F, b: u8 },
    Other { a: F, c: u8 },
    Pair(F, String, u8),
    Newtype(F),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum UntaggedList<F> {
    One(Named<F>),
    Many(Vec<Named<F>>),
    Chosen(External<F>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "UPPERCASE")]
pub(super) enum Renamed<F> {
    FirstOne(F),
    #[serde(rename = "2")]
    Second {
        some_field: F,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(dead_code, reason = "a skipped variant has no values that travel")]
pub(super) enum Aliased<F> {
    #[serde(alias = "a", alias = "AA")]
    A(F),
    #[serde(skip)]
    Hidden,
    B(F),
    C(F),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(dead_code, reason = "a skipped variant has no values that travel")]
pub(super) enum Hidden<F> {
    A,
    #[serde(skip)]
    Skipped,
    B(F),
    #[serde(skip_deserializing)]
    WriteOnly(F),
    C {
        a: F,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Unreadable<F> {
    A,
    #[serde(skip_deserializing)]
    WriteOnly(F),
    B(F),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum OtherVariant<F> {
    A {
        a: F,
    },
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum PartlyUntagged<F> {
    A {
        a: F,
    },
    B,
    #[serde(untagged)]
    Rest(F),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum VariantWith<F> {
    #[serde(with = "doubled")]
    A(u8),
    B(F),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum SkippedIf<F> {
    A {
        #[serde(skip_serializing_if = "is_zero", default)]
        a: u8,
        b: F,
    },
    B(F),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum InternalFlattened<F> {
    A {
        #[serde(flatten)]
        inner: Named<F>,
        #[serde(skip_serializing_if = "Option::is_none")]
        more: Option<F>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(super) enum InternalOfEnum<F> {
    A(Internal2<F>),
    B { untagged: Untagged<F>, external: External<F> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "inner")]
pub(super) enum Internal2<F> {
    X { x: F },
}

pub(super) fn check_all<F: Value + Default>(f: &F) {
    let f = || f.clone();
    check_form(
        "External",
        vec![External::Unit, External::Newtype(f()), External::Tuple(f(), 1), External::Struct { a: f(), b: 1 }],
    );
    check_form(
        "Internal",
        vec![
            Internal::Unit,
            Internal::Newtype(Named { a: f(), b: 1 }),
            Internal::Map(BTreeMap::from([("k".to_owned(), f())])),
            Internal::Struct { a: f(), b: 1 },
        ],
    );
    check_form(
        "Adjacent",
        vec![Adjacent::Unit, Adjacent::Newtype(f()), Adjacent::Tuple(f(), 1), Adjacent::Struct { a: f(), b: 1 }],
    );
    check_form(
        "AdjacentStrict",
        vec![
            AdjacentStrict::Unit,
            AdjacentStrict::Newtype(f()),
            AdjacentStrict::Tuple(f(), 1),
            AdjacentStrict::Struct { a: f(), b: 1 },
        ],
    );
    check_form(
        "Untagged",
        vec![
            Untagged::Struct { a: f(), b: 1 },
            Untagged::Other { a: f(), c: 1 },
            Untagged::Pair(f(), "x".to_owned(), 1),
            Untagged::Newtype(f()),
        ],
    );
    check_form(
        "UntaggedList",
        vec![
            UntaggedList::One(Named { a: f(), b: 1 }),
            UntaggedList::Many(vec![Named { a: f(), b: 1 }; 2]),
            UntaggedList::Chosen(External::Struct { a: f(), b: 1 }),
            UntaggedList::Chosen(External::Unit),
        ],
    );
    check_form("Renamed", vec![Renamed::FirstOne(f()), Renamed::Second { some_field: f() }]);
    check_form("Aliased", vec![Aliased::A(f()), Aliased::B(f()), Aliased::C(f())]);
    check_form("Hidden", vec![Hidden::A, Hidden::B(f()), Hidden::C { a: f() }]);
    check_form("Unreadable", vec![Unreadable::WriteOnly(f())]);
    check_form("OtherVariant", vec![OtherVariant::A { a: f() }, OtherVariant::Other]);
    check_form("PartlyUntagged", vec![PartlyUntagged::A { a: f() }, PartlyUntagged::B, PartlyUntagged::Rest(f())]);
    check_form("VariantWith", vec![VariantWith::A(2), VariantWith::B(f())]);
    check_form("SkippedIf", vec![SkippedIf::A { a: 0, b: f() }, SkippedIf::A { a: 1, b: f() }, SkippedIf::B(f())]);
    check_form(
        "InternalFlattened",
        vec![
            InternalFlattened::A { inner: Named { a: f(), b: 1 }, more: None },
            InternalFlattened::A { inner: Named { a: f(), b: 1 }, more: Some(f()) },
        ],
    );
    check_form(
        "InternalOfEnum",
        vec![
            InternalOfEnum::A(Internal2::X { x: f() }),
            InternalOfEnum::B { untagged: Untagged::Newtype(f()), external: External::Tuple(f(), 1) },
        ],
    );
    check_form("Internal2", vec![Internal2::X { x: f() }]);
}
