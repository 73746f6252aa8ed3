//! What of the map is read into types, whoever serves it. Keys begin with the name of their body.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use corosync_ipc::cmap::{Client, Map, Options, Value};
use corosync_ipc::embedded::Corosync;
use corosync_ipc::{Endpoint, Error, NodeId};
use serde::Deserialize;
use testbed::{Cluster, eventually, skip};

use crate::bodies::{STATISTICS, one_of_each};

testbed::on_each_host! {
    a_list_of_110_nodes_is_read_in_one_line;
    the_nodelist_is_read;
    every_type_is_read;
    what_cannot_be_read_is_named_by_its_key;
    a_prefix_without_a_dot_is_a_key_too;
    statistics_are_read, testbed::since(STATISTICS);
}

#[derive(Debug, Deserialize, PartialEq)]
struct Node {
    nodeid: NodeId,
    name: Option<String>,
    ring0_addr: String,
}

fn node(id: u32) -> Node {
    Node {
        nodeid: NodeId(id),
        name: (id % 2 == 0).then(|| format!("node-{id}")),
        ring0_addr: format!("10.77.0.{id}"),
    }
}

fn a_list_of_110_nodes_is_read_in_one_line(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    for id in (1..=110).rev() {
        let node = node(id);
        // With holes.
        let key = |field: &str| format!("a_list_of_110_nodes.{}.{field}", 3 * id);
        client.set(&key("nodeid"), id).unwrap();
        client.set(&key("ring0_addr"), node.ring0_addr).unwrap();
        if let Some(name) = node.name {
            client.set(&key("name"), name).unwrap();
        }
    }
    let nodes: Vec<Node> = client.read("a_list_of_110_nodes.").unwrap();
    assert_eq!(nodes, (1..=110).map(node).collect::<Vec<_>>());
    let nodes: BTreeMap<u32, Node> = client.read("a_list_of_110_nodes").unwrap();
    assert_eq!(nodes[&330], node(110));
}

/// The name and address of the first node are those of a node of the testbed.
fn configured(id: u32) -> Node {
    Node { name: Some(format!("n{id}")), ..node(id) }
}

fn a_configured_list_of_110_nodes_is_read(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let nodes: Vec<Node> = client.read("nodelist.node.").unwrap();
    assert_eq!(nodes, (1..=110).map(configured).collect::<Vec<_>>());
    let list = client.nodelist().unwrap();
    assert_eq!((list.nodes.len(), list.local_position), (110, Some(0)));
    assert_eq!(list.by_id(NodeId(110)).unwrap().addresses[&0], "10.77.0.110");
}

#[test]
fn a_configured_list_of_110_nodes_is_read_from_the_embedded_daemon() {
    let mut builder = Corosync::builder();
    for id in 1..=110 {
        let Node { name, ring0_addr, .. } = configured(id);
        builder = builder.node(id, name.unwrap_or_default(), ring0_addr, None);
    }
    let corosync = builder.start().unwrap();
    a_configured_list_of_110_nodes_is_read(corosync.endpoint());
}

#[test]
fn a_configured_list_of_110_nodes_is_read_from_the_real_daemon() {
    if skip() {
        return;
    }
    // A second list begins with the first node again.
    let mut list = String::from("nodelist {\n");
    for id in 1..=110 {
        let Node { ring0_addr, .. } = configured(id);
        write!(list, "node {{\nnodeid: {id}\nname: n{id}\nring0_addr: {ring0_addr}\n}}\n").unwrap();
    }
    list.push_str("}\n");
    let cluster = Cluster::builder().extra_config(&list).start();
    cluster.node(1).run(|| a_configured_list_of_110_nodes_is_read(&Endpoint::new()));
}

fn the_nodelist_is_read(endpoint: &Endpoint) {
    #[derive(Deserialize)]
    struct Nodelist {
        node: Vec<Node>,
        local_node_pos: usize,
    }
    let client = Client::connect_to(endpoint).unwrap();
    let Nodelist { node, local_node_pos } = client.read("nodelist.").unwrap();
    let typed = client.nodelist().unwrap();
    assert_eq!(node.len(), typed.nodes.len());
    let (node, typed) = (&node[local_node_pos], typed.local().unwrap());
    assert_eq!((Some(node.nodeid), &node.name), (typed.node_id, &typed.name));
    assert_eq!(node.ring0_addr, typed.addresses[&0]);
    // The whole map, as it is.
    let map: BTreeMap<String, Tree> = client.read("").unwrap();
    let Tree::Below(list) = &map["nodelist"] else { panic!("{map:?}") };
    assert_eq!(list["local_node_pos"], Tree::Number(local_node_pos as f64));
}

/// Any part of the map.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum Tree {
    Number(f64),
    Text(String),
    Bytes(Bytes),
    Below(BTreeMap<String, Tree>),
}

fn every_type_is_read(endpoint: &Endpoint) {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Types {
        i8: i8,
        u8: u8,
        i16: i16,
        u16: u16,
        i32: i32,
        u32: u32,
        i64: i64,
        u64: u64,
        flt: f32,
        dbl: f64,
        #[serde(rename = "str")]
        text: String,
        bin: Bytes,
        none: Option<u8>,
    }
    let client = Client::connect_to(endpoint).unwrap();
    for (name, value) in one_of_each() {
        client.set(&format!("every_type_is_read.{name}"), value).unwrap();
    }
    let expected = Types {
        i8: i8::MIN,
        u8: u8::MAX,
        i16: i16::MIN,
        u16: u16::MAX,
        i32: i32::MIN,
        u32: u32::MAX,
        i64: i64::MIN,
        u64: u64::MAX,
        flt: -1.5,
        dbl: 2.25,
        text: "a text, with ümläuts".to_owned(),
        bin: Bytes::from_static(&[0, 1, 127, 0]),
        none: None,
    };
    assert_eq!(client.read::<Types>("every_type_is_read.").unwrap(), expected);
    let values: BTreeMap<String, Value> = client.read("every_type_is_read").unwrap();
    let all = one_of_each().into_iter().map(|(name, value)| (name.to_owned(), value));
    assert_eq!(values, all.collect());
}

fn what_cannot_be_read_is_named_by_its_key(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    client.set("cannot_be_read.7.nodeid", "seven").unwrap();
    client.set("cannot_be_read.7.ring0_addr", "127.0.0.7").unwrap();
    let error = client.read::<Vec<Node>>("cannot_be_read.").unwrap_err();
    let text = "the value of cannot_be_read.7.nodeid has the type str, not u32";
    assert_eq!(error.to_string(), text);
    client.delete("cannot_be_read.7.nodeid").unwrap();
    match client.read::<Vec<Node>>("cannot_be_read.").unwrap_err() {
        Error::Unreadable { key, .. } => assert_eq!(key, "cannot_be_read.7.nodeid"),
        other => panic!("{other:?}"),
    }
    // Nothing is wrong with what is not there.
    assert_eq!(client.read::<Vec<Node>>("cannot_be_read.8.").unwrap(), []);
    let wrong = client.read::<Vec<Node>>("cannot be read.").unwrap_err();
    assert_eq!(testbed::invalid::<()>(Err(wrong)), "prefix");
}

fn a_prefix_without_a_dot_is_a_key_too(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    client.set("a_prefix_without.a", 1_u8).unwrap();
    client.set("a_prefix_without.a.dot", 2_u8).unwrap();
    client.set("a_prefix_without.ab", 3_u8).unwrap();
    let read = |prefix| client.read::<BTreeMap<String, u8>>(prefix).unwrap();
    assert_eq!(client.read::<u8>("a_prefix_without.a").unwrap(), 1);
    assert_eq!(read("a_prefix_without.a"), [("".to_owned(), 1), ("dot".to_owned(), 2)].into());
    assert_eq!(read("a_prefix_without.a."), [("dot".to_owned(), 2)].into());
    assert_eq!(
        client.read::<Option<u8>>("a_prefix_without").unwrap_err().to_string(),
        "a_prefix_without cannot be read: it has keys below it and no value, where u8 is asked for"
    );
    assert_eq!(client.read::<Option<u8>>("a_prefix_without.b").unwrap(), None);
    // No key is as short, or as long with a dot.
    assert_eq!(read("ab"), BTreeMap::new());
    assert_eq!(read(&"k".repeat(255)), BTreeMap::new());
}

fn statistics_are_read(endpoint: &Endpoint) {
    #[derive(Debug, Deserialize)]
    struct Connection {
        procname: Option<String>,
        requests: u64,
        flow_control: bool,
    }
    let client = Client::connect_with(endpoint, Options::new().map(Map::Stats)).unwrap();
    // Other connections come and go meanwhile.
    let mine = eventually("the connections are read", || {
        // By process and address.
        let all: BTreeMap<u32, BTreeMap<String, Connection>> =
            client.read("stats.ipcs.service0.").ok()?;
        all.into_iter().find(|(pid, _)| *pid == std::process::id())
    });
    let is_this = |connection: &Connection| {
        connection.requests > 0 && !connection.flow_control && connection.procname.is_some()
    };
    assert!(mine.1.values().any(is_this), "{mine:?}");
}
