//! Bytes that are no value, and bytes that claim more than they hold.

use std::collections::VecDeque;
use std::fmt::Debug;

use serde::Deserialize;
use serde::de;
use serde::de::DeserializeOwned;
use serde::de::Error as _;
use serde::de::SeqAccess;
use serde::de::Visitor;

use super::tag;
use super::tag::Kind;
use super::tests::Choice;
use super::tests::Fields;
use crate::values::codec::decode;

#[track_caller]
fn assert_refused<T: DeserializeOwned + Debug + 'static>(bytes: &[u8]) {
    let message = decode::<T>(bytes).unwrap_err();
    assert!(!message.starts_with("panic"), "{message}");
}

#[test]
fn bytes_that_are_no_value_are_errors() {
    assert_refused::<String>(&[tag::STR, 1, 0, 0, 0, 0xff]);
    assert_refused::<String>(&[tag::STR, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert_refused::<Vec<u64>>(&[tag::BLOCK, Kind::U64 as u8, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0x20]);
    assert_refused::<Vec<u64>>(&[tag::BLOCK, 99, 0, 0, 0, 0]);
    assert_refused::<Vec<bool>>(&[tag::BLOCK, Kind::Bool as u8, 1, 0, 0, 0, 2]);
    assert_refused::<VecDeque<bool>>(&[tag::BLOCK, Kind::Bool as u8, 1, 0, 0, 0, 2]);
    assert_refused::<Option<char>>(&[tag::CHAR, 0, 0xd8, 0, 0]);
    assert_refused::<Choice<u8>>(&[tag::UNIT_VARIANT, 3, 0]);
    assert_refused::<Fields<u8>>(&[tag::STRUCT, 0, 0]);
    assert_refused::<Option<u8>>(&[200]);
    assert_refused::<()>(&[tag::END]);
    assert_refused::<(u8,)>(&[tag::TUPLE, tag::RUN, 1, 0, 0]);
}

/// Elements have bytes of their own, so few bytes are not many elements.
#[test]
fn few_bytes_are_few_elements() {
    let many = [tag::SEQ, 254, 255, 255, 255];
    assert_refused::<Vec<()>>(&many);
    assert_eq!(decode::<Vec<()>>(&[&many[..], &[tag::UNIT; 3], &[tag::END]].concat()).map(|units| units.len()), Ok(3));
    let nested = [many.repeat(5000), vec![tag::UNIT], vec![tag::END; 5000]].concat();
    struct Deep;
    impl<'de> Deserialize<'de> for Deep {
        fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Deep, D::Error> {
            struct Hints(usize);
            impl<'de> Visitor<'de> for &mut Hints {
                type Value = ();

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("sequences")
                }

                fn visit_unit<E>(self) -> Result<(), E> {
                    Ok(())
                }

                fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
                    self.0 += access.size_hint().unwrap_or(0);
                    access.next_element_seed(self).map(drop)
                }
            }
            impl<'de> de::DeserializeSeed<'de> for &mut Hints {
                type Value = ();

                fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                    deserializer.deserialize_any(self)
                }
            }
            let mut hints = Hints(0);
            de::DeserializeSeed::deserialize(&mut hints, deserializer)?;
            Err(D::Error::custom(hints.0))
        }
    }
    let message = crate::sys::stack::tests::on_a_stack_of(64 << 20, {
        let nested = nested.clone();
        move || decode::<Deep>(&nested).err().unwrap()
    });
    let promised: usize = message.split(';').next().unwrap().parse().unwrap();
    assert!(promised > 0 && promised <= nested.len(), "{promised} elements of {} bytes", nested.len());
}
