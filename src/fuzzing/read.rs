//! Lists of keys that are read into types.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};

use super::Script;
use crate::Error;
use crate::cmap::{MAX_KEY, Tree, Value, ValueType};
use crate::wire::cmap::RawValue;
use crate::wire::values::NodeId;

/// Makes keys and values of the input and reads them into types of all kinds. Checks that nothing
/// is lost in a type that takes everything, and that an error prints.
///
/// The first byte chooses the prefix. Each key is a length and bytes, each value a type, a length
/// and bytes.
pub fn read(data: &[u8]) {
    let mut script = Script(data);
    let prefix = ["", "a", "a.", "a.b", "nodelist.node."][usize::from(script.byte()) % 5];
    let below = match prefix {
        "" => String::new(),
        _ if prefix.ends_with('.') => prefix.to_owned(),
        _ => format!("{prefix}."),
    };
    let (mut own, mut keys) = (None, BTreeMap::new());
    while !script.is_empty() {
        let key = script.counted();
        // As a client takes them from the daemon.
        let key = format!("{below}{}", String::from_utf8_lossy(&key[..key.len().min(MAX_KEY)]));
        let value_type = ValueType(script.byte());
        let data = Bytes::copy_from_slice(script.counted());
        let value = Value::from(RawValue { value_type, data });
        if key.len() > below.len() || prefix.ends_with('.') {
            keys.insert(key, value);
        } else if !prefix.is_empty() {
            own = Some(value);
        }
    }
    read_as(prefix, own, keys);
}

/// As [`read`], from keys and values.
pub(crate) fn read_as(prefix: &str, own: Option<Value>, keys: BTreeMap<String, Value>) {
    let tree = Tree::new(prefix, own.clone(), keys.clone().into_iter().collect());
    match tree.read::<Anything>() {
        Ok(Anything(found)) => {
            let found: Vec<_> = found.iter().map(|(path, leaf)| (path.join("."), leaf)).collect();
            let found: BTreeMap<_, _> = found.into_iter().collect();
            let expected = expected(prefix, own.as_ref(), &keys);
            assert_eq!(
                found.keys().collect::<Vec<_>>(),
                expected.keys().collect::<Vec<_>>(),
                "{tree:?}"
            );
            for (path, leaf) in found {
                assert_eq!(*leaf, expected[&path], "{path} of {tree:?}");
            }
        }
        Err(Error::Unreadable { key, reason }) => {
            let is_deep = keys.keys().any(|key| key.matches('.').count() >= 32);
            // A part without a name below a key that has a value.
            let is_twice = keys.keys().any(|key| {
                let ends = key.match_indices('.').map(|(end, _)| end);
                ends.filter(|end| key[end + 1..].split('.').next() == Some("")).any(|end| {
                    let above = &key[..end];
                    keys.contains_key(above) || above == prefix && own.is_some()
                })
            });
            assert!(is_deep || is_twice, "{key}: {reason} of {tree:?}");
        }
        Err(error) => panic!("{error} of {tree:?}"),
    }
    read_one::<Vec<Node>>(&tree);
    read_one::<BTreeMap<u32, Node>>(&tree);
    read_one::<BTreeMap<String, BTreeMap<Kind, Option<Value>>>>(&tree);
    read_one::<BTreeMap<String, Flat>>(&tree);
    read_one::<Vec<(Kind, Bytes, [u8; 2])>>(&tree);
    read_one::<Recursive>(&tree);
    read_one::<BTreeMap<bool, (f32, f64, char)>>(&tree);
    read_one::<BTreeMap<i8, (u8, u64, i128, u128, ())>>(&tree);
    read_one::<Kind>(&tree);
    read_one::<Value>(&tree);
}

fn read_one<T: DeserializeOwned>(tree: &Tree) {
    if let Err(error) = tree.read::<T>() {
        assert!(matches!(error, Error::WrongType { .. } | Error::Unreadable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.chars().all(|character| !character.is_control()), "{text:?}");
    }
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "read and dropped")]
struct Node {
    nodeid: NodeId,
    name: Option<String>,
    #[serde(default)]
    a: bool,
    #[serde(default)]
    b: Vec<u8>,
    #[serde(flatten)]
    others: BTreeMap<String, Untagged>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read and dropped")]
struct Flat {
    a: Option<Box<Flat>>,
    #[serde(rename = "")]
    own: Option<u16>,
}

#[derive(Deserialize)]
#[serde(untagged)]
#[allow(dead_code, reason = "read and dropped")]
enum Untagged {
    Number(i64),
    Text(String),
    List(Vec<u8>),
    Table(BTreeMap<String, Untagged>),
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    #[serde(rename = "a")]
    A,
    #[serde(rename = "b")]
    B(u32),
    #[serde(rename = "c")]
    C { a: Option<u32> },
    #[serde(rename = "0")]
    D(u8, u8),
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "read and dropped")]
struct Recursive(BTreeMap<String, Recursive>);

/// Whatever there is: each value, and the names that lead to it.
#[derive(Debug)]
struct Anything(Vec<(Vec<String>, Leaf)>);

#[derive(Debug, PartialEq)]
enum Leaf {
    Integer(i128),
    Single(u32),
    Double(u64),
    Text(String),
    Bytes(Vec<u8>),
}

/// What [`Anything`] should have. The value of a key with others below it has an empty name there.
fn expected(
    prefix: &str,
    own: Option<&Value>,
    keys: &BTreeMap<String, Value>,
) -> BTreeMap<String, Leaf> {
    let start = match prefix {
        "" => 0,
        _ if prefix.ends_with('.') => prefix.len(),
        _ => prefix.len() + 1,
    };
    let below = keys.iter().map(|(key, value)| {
        let dotted = format!("{key}.");
        let has_more = keys.keys().any(|other| other.starts_with(&dotted));
        let path = if has_more { &dotted[start..] } else { &key[start..] };
        (path.to_owned(), leaf(value))
    });
    below.chain(own.map(|value| (String::new(), leaf(value)))).collect()
}

fn leaf(value: &Value) -> Leaf {
    match value {
        Value::F32(number) => Leaf::Single(number.to_bits()),
        Value::F64(number) => Leaf::Double(number.to_bits()),
        Value::String(text) => Leaf::Text(text.clone()),
        Value::Binary(data) | Value::Other { data, .. } => Leaf::Bytes(data.to_vec()),
        integer => Leaf::Integer(integer.to_string().parse().expect("an integer")),
    }
}

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Taker)
    }
}

struct Taker;

macro_rules! leaves {
    ($($method:ident($type:ty) => $make:expr;)*) => {
        $(fn $method<E>(self, value: $type) -> Result<Anything, E> {
            let make: fn($type) -> Leaf = $make;
            Ok(Anything(vec![(Vec::new(), make(value))]))
        })*
    };
}

impl<'de> Visitor<'de> for Taker {
    type Value = Anything;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    leaves! {
        visit_i64(i64) => |number| Leaf::Integer(number.into());
        visit_u64(u64) => |number| Leaf::Integer(number.into());
        visit_f32(f32) => |number| Leaf::Single(number.to_bits());
        visit_f64(f64) => |number| Leaf::Double(number.to_bits());
        visit_str(&str) => |text| Leaf::Text(text.to_owned());
        visit_bytes(&[u8]) => |data| Leaf::Bytes(data.to_vec());
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Anything, A::Error> {
        let mut all = Vec::new();
        while let Some((name, Anything(found))) = map.next_entry::<String, Anything>()? {
            all.extend(found.into_iter().map(|(mut path, leaf)| {
                path.insert(0, name.clone());
                (path, leaf)
            }));
        }
        Ok(Anything(all))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<u32>().prop_map(Value::U32),
            any::<i8>().prop_map(Value::I8),
            any::<u64>().prop_map(Value::U64),
            any::<f32>().prop_map(Value::F32),
            any::<f64>().prop_map(Value::F64),
            select(vec!["yes", "a", "b", "7", "", "x\u{1b}"]).prop_map(Value::from),
            vec(any::<u8>(), 0..4).prop_map(|data| Value::from(&data[..])),
            vec(any::<u8>(), 0..4)
                .prop_map(|data| Value::Other { value_type: ValueType(77), data: data.into() }),
        ]
    }

    fn paths() -> impl Strategy<Value = String> {
        let part = select(vec!["a", "b", "0", "1", "00", "10", "9", "", "nodeid", "\u{fffd}"]);
        vec(part, 1..5).prop_map(|parts| parts.join("."))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn nothing_is_lost_in_a_type_that_takes_everything(
            prefix in select(vec!["", "a", "a.", "a.b", "."]),
            own in prop::option::of(values()),
            keys in btree_map(paths(), values(), 0..12),
        ) {
            let dot = if prefix.is_empty() || prefix.ends_with('.') { "" } else { "." };
            let own = own.filter(|_| !dot.is_empty());
            let keys = keys.into_iter();
            let keys = keys.map(|(key, value)| (format!("{prefix}{dot}{key}"), value)).collect();
            read_as(prefix, own, keys);
        }

        #[test]
        fn any_keys_are_a_value_or_an_error(data in vec(any::<u8>(), 0..300)) {
            read(&data);
        }
    }
}
