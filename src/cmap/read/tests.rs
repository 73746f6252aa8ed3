use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::cmap::ValueType;
use crate::cpg::GroupName;
use crate::error::Error;
use crate::wire::values::NodeId;

fn tree(prefix: &str, keys: &[(&str, Value)]) -> Tree {
    let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    let (own, keys) = keys.partition::<Vec<_>, _>(|(key, _)| key == prefix);
    Tree::new(prefix, own.into_iter().next().map(|(_, value)| value), keys)
}

/// Reads the keys below `test`, and its own value.
fn read<T: DeserializeOwned>(keys: &[(&str, Value)]) -> Result<T> {
    tree("test", keys).read()
}

/// Reads one value.
fn read_one<T: DeserializeOwned>(value: impl Into<Value>) -> Result<T> {
    read(&[("test", value.into())])
}

fn error<T: DeserializeOwned + Debug>(keys: &[(&str, Value)]) -> String {
    read::<T>(keys).unwrap_err().to_string()
}

fn error_of_one<T: DeserializeOwned + Debug>(value: impl Into<Value>) -> String {
    error::<T>(&[("test", value.into())])
}

#[derive(Debug, Deserialize, PartialEq)]
struct Node {
    nodeid: NodeId,
    name: Option<String>,
    ring0_addr: String,
}

fn node(id: u32, name: Option<&str>) -> Node {
    Node { nodeid: NodeId(id), name: name.map(str::to_owned), ring0_addr: format!("10.0.0.{id}") }
}

fn nodelist() -> Tree {
    tree(
        "nodelist.node.",
        &[
            ("nodelist.node.10.nodeid", Value::U32(11)),
            ("nodelist.node.10.ring0_addr", "10.0.0.11".into()),
            ("nodelist.node.2.nodeid", Value::U32(3)),
            ("nodelist.node.2.ring0_addr", "10.0.0.3".into()),
            ("nodelist.node.2.name", "three".into()),
            ("nodelist.node.2.quorum_votes", Value::U32(1)),
        ],
    )
}

#[test]
fn a_list_is_in_the_order_of_its_numbers_whatever_is_missing() {
    let nodes: Vec<Node> = nodelist().read().unwrap();
    assert_eq!(nodes, [node(3, Some("three")), node(11, None)]);
    let nodes: [Node; 2] = nodelist().read().unwrap();
    assert_eq!(nodes[1].nodeid, NodeId(11));
    assert_eq!(
        nodelist().read::<(Node,)>().unwrap_err().to_string(),
        "nodelist.node cannot be read: it has more elements than are asked for"
    );
    let numbers: Vec<String> =
        read(&[("test.1", "1".into()), ("test.01", "01".into()), ("test.00", "00".into())])
            .unwrap();
    assert_eq!(numbers, ["00", "01", "1"]);
}

#[test]
fn the_numbers_are_the_keys_of_a_map() {
    let nodes: BTreeMap<u32, Node> = nodelist().read().unwrap();
    assert_eq!(nodes.into_keys().collect::<Vec<_>>(), [2, 10]);
    let nodes: BTreeMap<NodeId, BTreeMap<String, Value>> = nodelist().read().unwrap();
    assert_eq!(nodes[&NodeId(10)]["nodeid"], Value::U32(11));
    assert_eq!(nodes[&NodeId(2)].len(), 4);
}

#[test]
fn a_missing_field_is_named_by_its_key() {
    let keys = [("test.7.nodeid", Value::U32(1))];
    let error = read::<Vec<Node>>(&keys).unwrap_err();
    let Error::Unreadable { key, reason } = &error else { panic!("{error:?}") };
    assert_eq!((key.as_str(), reason.as_str()), ("test.7.ring0_addr", "there is no such key"));
    assert_eq!(
        tree("", &[]).read::<Node>().unwrap_err().to_string(),
        "nodeid cannot be read: there is no such key"
    );
}

#[test]
fn where_there_are_no_keys_lists_are_empty_and_options_none() {
    assert_eq!(read::<Vec<Node>>(&[]).unwrap(), []);
    assert!(read::<BTreeMap<String, Node>>(&[]).unwrap().is_empty());
    assert_eq!(read::<Option<Node>>(&[]).unwrap(), None);
    assert_eq!(read::<Option<u32>>(&[]).unwrap(), None);
    assert_eq!(error::<u32>(&[]), "test cannot be read: there is no such key");
    assert_eq!(error::<Level>(&[]), "test cannot be read: there is no such key");
    assert_eq!(read_one::<Option<u32>>(5_u32).unwrap(), Some(5));
    read::<()>(&[]).unwrap();
}

#[test]
fn integers_become_whatever_holds_them() {
    assert_eq!(read_one::<u8>(255_u64).unwrap(), 255);
    assert_eq!(read_one::<i8>(-128_i64).unwrap(), -128);
    assert_eq!(read_one::<u64>(7_i8).unwrap(), 7);
    assert_eq!(read_one::<i128>(u64::MAX).unwrap(), u64::MAX.into());
    assert_eq!(read_one::<u16>("5405").unwrap(), 5405);
    assert_eq!(read_one::<i16>("-1").unwrap(), -1);
    assert_eq!(error_of_one::<u8>(256_u32), "test cannot be read: u32 256 does not fit in u8");
    assert_eq!(error_of_one::<u64>(-1_i8), "test cannot be read: i8 -1 does not fit in u64");
    assert_eq!(error_of_one::<u8>("256"), "test cannot be read: str 256 does not fit in u8");
    for (wrong, found) in [
        (Value::from("5 s"), "str"),
        (Value::F64(5.0), "dbl"),
        (Value::F32(5.0), "flt"),
        (Value::from(&[5][..]), "bin"),
        (
            Value::Other { value_type: ValueType::UINT32, data: Bytes::new() },
            "u32, but is malformed",
        ),
        (Value::Other { value_type: ValueType(77), data: Bytes::new() }, "unknown (77)"),
    ] {
        let expected = format!("the value of test has the type {found}, not u32");
        assert_eq!(error_of_one::<u32>(wrong), expected);
    }
}

#[test]
fn floats_lose_nothing() {
    assert_eq!(read_one::<f64>(1.5_f32).unwrap(), 1.5);
    assert_eq!(read_one::<f32>(1.5_f64).unwrap(), 1.5);
    assert_eq!(read_one::<f64>(u32::MAX).unwrap(), f64::from(u32::MAX));
    assert_eq!(read_one::<f64>("0.25").unwrap(), 0.25);
    assert!(read_one::<f32>(f64::NAN).unwrap().is_nan());
    assert_eq!(error_of_one::<f32>(0.1_f64), "test cannot be read: dbl 0.1 does not fit in f32");
    for error in [error_of_one::<f64>(u64::MAX), error_of_one::<f32>(16_777_217_u32)] {
        assert!(error.contains("does not fit in f"), "{error}");
    }
    assert!(error_of_one::<f64>("much").contains("has the type str, not f64"));
}

#[test]
fn flags_are_what_corosync_has_for_them() {
    for (value, flag) in [
        (Value::from("yes"), true),
        ("on".into(), true),
        ("1".into(), true),
        (Value::U8(1), true),
        (Value::I32(0), false),
        ("no".into(), false),
        ("off".into(), false),
        ("0".into(), false),
    ] {
        assert_eq!(read_one::<bool>(value.clone()).unwrap(), flag, "{value:?}");
    }
    assert_eq!(
        error_of_one::<bool>("true"),
        "test cannot be read: \"true\" is none of yes, no, on, off, 0 and 1"
    );
    assert_eq!(error_of_one::<bool>(2_u8), "test cannot be read: u8 2 does not fit in bool");
    assert!(error_of_one::<bool>(1.0_f64).contains("has the type dbl, not bool"));
}

#[test]
fn text_and_bytes_stay_apart() {
    assert_eq!(read_one::<String>("text").unwrap(), "text");
    assert_eq!(read_one::<char>("ü").unwrap(), 'ü');
    assert_eq!(read_one::<Bytes>(&[1, 0][..]).unwrap(), [1, 0][..]);
    assert_eq!(read_one::<Vec<u8>>(&[1, 0][..]).unwrap(), [1, 0]);
    assert_eq!(read_one::<[u8; 2]>(&[1, 0][..]).unwrap(), [1, 0]);
    assert_eq!(read_one::<GroupName>(r"crmd\x00").unwrap().as_bytes(), b"crmd\0");
    assert!(error_of_one::<GroupName>(r"crmd\").contains("test cannot be read: "));
    assert!(error_of_one::<String>(5_u8).contains("has the type u8, not text"));
    assert!(error_of_one::<Bytes>("text").contains("has the type str, not bytes"));
    assert!(error_of_one::<[u8; 1]>(&[1, 0][..]).contains("more elements than are asked for"));
    assert!(error_of_one::<[u8; 3]>(&[1, 0][..]).contains("invalid length 2"));
    assert!(error_of_one::<char>("two").contains("test cannot be read: "));
    let broken = Value::Other { value_type: ValueType::STRING, data: Bytes::from_static(b"\xff") };
    assert!(
        error_of_one::<String>(broken).contains("has the type str, but is malformed, not text")
    );
}

#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
enum Level {
    Info,
    Debug,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Device {
    None,
    Net { host: String, port: Option<u16> },
    Heuristics(Level),
    Votes(u8, u8),
}

#[test]
fn enums_are_named_by_text_or_by_the_key_below() {
    assert_eq!(read_one::<Level>("debug").unwrap(), Level::Debug);
    assert_eq!(read_one::<Device>("none").unwrap(), Device::None);
    let net = Device::Net { host: "q".to_owned(), port: None };
    assert_eq!(read::<Device>(&[("test.net.host", "q".into())]).unwrap(), net);
    let heuristics = Device::Heuristics(Level::Info);
    assert_eq!(read::<Device>(&[("test.heuristics", "info".into())]).unwrap(), heuristics);
    let votes = [("test.votes.0", Value::U8(1)), ("test.votes.1", Value::U8(2))];
    assert_eq!(read::<Device>(&votes).unwrap(), Device::Votes(1, 2));
    let levels: BTreeMap<Level, u8> = read(&[("test.debug", Value::U8(1))]).unwrap();
    assert_eq!(levels, [(Level::Debug, 1)].into());

    let unknown = "test cannot be read: unknown variant `loud`, expected `info` or `debug`";
    assert_eq!(error_of_one::<Level>("loud"), unknown);
    assert!(error_of_one::<Level>(1_u8).contains("has the type u8, not Level"));
    assert!(error_of_one::<Device>("net").contains("test cannot be read: "));
    assert!(error::<Device>(&votes[..1]).contains("test.votes cannot be read: invalid length 1"));
    let two = [("test.net.host", "q".into()), ("test.votes.0", Value::U8(1))];
    assert!(error::<Device>(&two).contains("test cannot be read: it has several keys below it"));
    let content = [("test.none.of", Value::U8(1))];
    assert!(error::<Device>(&content).contains("test.none cannot be read: it has keys below it"));
}

#[derive(Debug, Deserialize, PartialEq)]
struct Both {
    #[serde(rename = "")]
    own: Option<u8>,
    below: Option<u8>,
}

#[test]
fn of_a_value_and_keys_below_it_each_type_gets_its_own() {
    let keys = [("test", Value::U8(1)), ("test.below", Value::U8(2))];
    assert_eq!(read::<u8>(&keys).unwrap(), 1);
    assert_eq!(read::<Both>(&keys).unwrap(), Both { own: Some(1), below: Some(2) });
    assert_eq!(read::<Both>(&keys[1..]).unwrap(), Both { own: None, below: Some(2) });
    let map: BTreeMap<String, u8> = read(&keys).unwrap();
    assert_eq!(map, [(String::new(), 1), ("below".to_owned(), 2)].into());
    // The same in the middle.
    let keys =
        [("test.a.b", Value::U8(1)), ("test.a.b.c", Value::U8(2)), ("test.a.d", Value::U8(3))];
    let values: BTreeMap<String, BTreeMap<String, u8>> = read(&keys).unwrap();
    assert_eq!(values["a"], [("b".to_owned(), 1), ("d".to_owned(), 3)].into());

    assert!(error_of_one::<Both>(1_u8).contains("the value of test has the type u8, not Both"));
    assert_eq!(
        error::<u8>(&[("test.below", Value::U8(2))]),
        "test cannot be read: it has keys below it and no value, where u8 is asked for"
    );
    let list = [("test", Value::U8(1)), ("test.0", Value::U8(2))];
    assert_eq!(
        error::<Vec<u8>>(&list),
        "test cannot be read: it has a value and keys below it, and a list has no place for both"
    );
    assert_eq!(
        error::<BTreeMap<u8, u8>>(&list),
        "test cannot be read: \"\" in the key cannot be read as u8"
    );
    let twice = [("test", Value::U8(1)), ("test.", Value::U8(2))];
    assert!(error::<Both>(&twice).contains("test cannot be read: its value and that of test."));
}

#[test]
fn keys_that_do_not_fit_are_named() {
    let keys = [("test.0", Value::U8(1)), ("test.x", Value::U8(2))];
    assert_eq!(
        error::<Vec<u8>>(&keys),
        "test.x cannot be read: a list is asked for, whose keys have numbers here"
    );
    assert_eq!(
        error::<BTreeMap<u8, u8>>(&keys),
        "test.x cannot be read: \"x\" in the key cannot be read as u8"
    );
    assert_eq!(
        error::<BTreeMap<String, u8>>(&[("test.x.\u{1b}", Value::U8(2))]),
        "test.x cannot be read: it has keys below it and no value, where u8 is asked for"
    );
    assert_eq!(
        error::<BTreeMap<String, BTreeMap<String, u8>>>(&[("test.x.\u{1b}", Value::F64(0.5))]),
        "the value of test.x.\\x1b has the type dbl, not u8"
    );
}

#[test]
fn a_prefix_is_a_part_of_keys() {
    let keys = [("a.b", Value::U8(1)), ("a.c", Value::U8(2)), (".a", Value::U8(3))];
    let map: BTreeMap<String, BTreeMap<String, u8>> = tree("", &keys).read().unwrap();
    assert_eq!(map["a"], [("b".to_owned(), 1), ("c".to_owned(), 2)].into());
    assert_eq!(map[""], [("a".to_owned(), 3)].into());
    let map: BTreeMap<String, u8> = tree(".", &keys[2..]).read().unwrap();
    assert_eq!(map, [("a".to_owned(), 3)].into());
}

#[test]
fn values_can_be_had_as_they_are() {
    let values = [
        ("test.0", Value::I8(-1)),
        ("test.1", Value::U64(1)),
        ("test.2", Value::F32(0.5)),
        ("test.3", Value::from("text")),
        ("test.4", Value::from(&[1, 0][..])),
        ("test.5", Value::Other { value_type: ValueType(77), data: Bytes::from_static(b"x") }),
        ("test.6", Value::F64(0.5)),
    ];
    let read: Vec<Value> = read(&values).unwrap();
    assert_eq!(read, values.clone().map(|(_, value)| value));
    assert_eq!(error::<Value>(&[]), "test cannot be read: there is no such key");
    // As any enum, where it is not said which.
    let json: serde_json::Value = tree("test", &values[..4]).read().unwrap();
    assert_eq!(json, serde_json::json!({ "0": -1, "1": 1, "2": 0.5, "3": "text" }));
}

#[test]
fn flattened_fields_take_what_is_left() {
    #[derive(Debug, Deserialize)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        others: BTreeMap<String, u32>,
    }
    let flat: Flat = read(&[("test.a", Value::U8(1)), ("test.b", Value::U32(2))]).unwrap();
    assert_eq!((flat.a, flat.others), (1, [("b".to_owned(), 2)].into()));
}

#[derive(Debug, Deserialize)]
struct Deep(#[allow(dead_code, reason = "read and dropped")] BTreeMap<String, Deep>);

#[test]
fn depth_and_number_are_bounded() {
    let deep = |parts: usize| {
        let key = format!("test{}", ".a".repeat(parts));
        error::<Deep>(&[(&key, Value::U8(1))])
    };
    // The innermost one is a value, as it should not be.
    assert!(deep(32).contains("has the type u8, not map"), "{}", deep(32));
    assert!(deep(33).ends_with("a key has more than 32 parts below what is read"), "{}", deep(33));
    // Whoever does not go there does not mind.
    let ignored: Both = read(&[(&format!("test{}", ".a".repeat(100)), Value::U8(1))]).unwrap();
    assert_eq!(ignored, Both { own: None, below: None });

    let keys = (0..MOST_KEYS).map(|number| (format!("test.{number}"), Value::U8(1)));
    let mut keys: Vec<_> = keys.collect();
    let read = |keys: &[(String, Value)]| Tree::new("test", None, keys.to_vec()).read::<Vec<u8>>();
    assert_eq!(read(&keys).unwrap().len(), MOST_KEYS);
    keys.push(("test.last".to_owned(), Value::U8(1)));
    let error = read(&keys).unwrap_err().to_string();
    assert_eq!(error, "test cannot be read: there is more than 262144 values, lists and tables");
}

proptest! {
    #[test]
    fn lists_come_back_from_whatever_order_of_keys(
        nodes in prop::collection::btree_map(any::<u16>(), (any::<u32>(), "[a-z]{0,3}"), 0..20),
        order in any::<u64>(),
    ) {
        let mut keys = Vec::new();
        for (position, (id, name)) in &nodes {
            keys.push((format!("n.{position}.nodeid"), Value::U32(*id)));
            keys.push((format!("n.{position}.name"), Value::from(name.as_str())));
            keys.push((format!("n.{position}.ring0_addr"), Value::from("a")));
        }
        keys.sort_by_key(|(key, _)| {
            key.bytes().fold(order, |hash, byte| hash.rotate_left(7) ^ u64::from(byte))
        });
        let read: Vec<Node> = Tree::new("n.", None, keys).read().unwrap();
        let expected: Vec<_> = nodes
            .into_values()
            .map(|(id, name)| Node { nodeid: NodeId(id), name: Some(name), ring0_addr: "a".to_owned() })
            .collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn keys_below_a_part_are_neighbours(mut keys in prop::collection::vec("[ab01.]{0,6}", 0..30)) {
        keys.sort_by(|a, b| by_parts(a, b));
        let parents = keys.iter().map(|key| key.rsplit_once('.').map(|(above, _)| above));
        for parent in parents.clone().flatten() {
            let below = |key: &&String| key.starts_with(&format!("{parent}."));
            let group = keys.iter().skip_while(|key| !below(key)).take_while(below).count();
            prop_assert_eq!(group, keys.iter().filter(below).count(), "{} of {:?}", parent, &keys);
        }
    }
}
