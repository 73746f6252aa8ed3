//! The nodes of corosync.conf, as the map has them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{Client, Value};
use crate::error::Result;
use crate::wire::values::NodeId;

/// How many keys a nodelist may have. corosync has at most 384 nodes, and a node some ten keys.
const MOST_KEYS: usize = 1 << 14;

/// The nodes that are configured: the section `nodelist` of corosync.conf; made by
/// [`Client::nodelist`].
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Nodelist {
    /// The nodes, by position. The numbers of the positions may have holes.
    pub nodes: Vec<ConfiguredNode>,
    /// The position of this node: `nodelist.local_node_pos`. `None` when corosync did not find
    /// itself in the list.
    pub local_position: Option<u32>,
    /// The keys that belong to no node, with their values.
    pub others: BTreeMap<String, Value>,
}

/// A node that is configured: a section `node` of the nodelist.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ConfiguredNode {
    /// Its place among the sections of the file, from 0: `POSITION` of `nodelist.node.POSITION.`.
    pub position: u32,
    /// `nodeid`. `None` where totem makes one of the node's address, as it does with udp and udpu.
    pub node_id: Option<NodeId>,
    /// `name`.
    pub name: Option<String>,
    /// `ringX_addr`, addresses or host names, by link number `X`.
    pub addresses: BTreeMap<u8, String>,
    /// `quorum_votes`. `None` means one vote: see [`ConfiguredNode::votes`].
    pub quorum_votes: Option<u32>,
    /// What else the section has, by its name there. A field above that has another type than
    /// corosync gives it is here too.
    pub others: BTreeMap<String, Value>,
}

impl Client {
    /// The nodes that are configured, and which of them is this one. Empty when corosync.conf has
    /// no nodelist.
    ///
    /// The list is that of the file as it was read last, at the start or at a reload. Members of
    /// the cluster need not be in it, nor its nodes members: [`quorum`](crate::quorum) tells
    /// those.
    ///
    /// This takes a request or two for each key. While the file is loaded again it may find some of
    /// the old list and some of the new.
    ///
    /// # Errors
    /// As [`Client::list`]; [`Error::Protocol`](crate::Error::Protocol) for more than 16,384 keys.
    pub fn nodelist(&self) -> Result<Nodelist> {
        let found = self.list_within(PREFIX, MOST_KEYS, self.core.call("cmap nodelist"))?;
        Ok(Nodelist::of(found))
    }
}

const PREFIX: &str = "nodelist.";

impl Nodelist {
    /// This node.
    pub fn local(&self) -> Option<&ConfiguredNode> {
        self.nodes.iter().find(|node| Some(node.position) == self.local_position)
    }

    /// The node with this id.
    pub fn by_id(&self, node_id: NodeId) -> Option<&ConfiguredNode> {
        self.nodes.iter().find(|node| node.node_id == Some(node_id))
    }

    fn of(found: Vec<(String, Value)>) -> Self {
        let mut nodes: BTreeMap<u32, ConfiguredNode> = BTreeMap::new();
        let mut list = Self::default();
        for (key, value) in found {
            let name = key.strip_prefix(PREFIX).unwrap_or(&key);
            let of_node = name.strip_prefix("node.").and_then(|rest| rest.split_once('.'));
            let of_node = of_node.and_then(|(position, field)| Some((number(position)?, field)));
            match (of_node, value) {
                (Some((position, field)), value) => match nodes.entry(position) {
                    Entry::Occupied(node) => node.into_mut(),
                    Entry::Vacant(free) => {
                        free.insert(ConfiguredNode { position, ..ConfiguredNode::default() })
                    }
                }
                .set(field, value),
                (None, Value::U32(position)) if name == "local_node_pos" => {
                    list.local_position = Some(position);
                }
                (None, value) => {
                    list.others.insert(key, value);
                }
            }
        }
        list.nodes = nodes.into_values().collect();
        list
    }
}

impl ConfiguredNode {
    /// The votes that the node has when it is a member. votequorum gives one to a node without
    /// `quorum_votes`.
    pub fn votes(&self) -> u32 {
        self.quorum_votes.unwrap_or(1)
    }

    fn set(&mut self, field: &str, value: Value) {
        match (field, value) {
            ("nodeid", Value::U32(id)) => self.node_id = Some(NodeId(id)),
            ("name", Value::String(name)) => self.name = Some(name),
            ("quorum_votes", Value::U32(votes)) => self.quorum_votes = Some(votes),
            (field, value) => {
                let link = field.strip_prefix("ring").and_then(|rest| rest.strip_suffix("_addr"));
                match (link.and_then(number).and_then(|link| u8::try_from(link).ok()), value) {
                    (Some(link), Value::String(address)) => {
                        self.addresses.insert(link, address);
                    }
                    (_, value) => {
                        self.others.insert(field.to_owned(), value);
                    }
                }
            }
        }
    }
}

/// A number as corosync writes it into a key, so that no two texts are the same number.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(keys: &[(&str, Value)]) -> Nodelist {
        let full = |(key, value): &(&str, Value)| (format!("nodelist.{key}"), value.clone());
        Nodelist::of(keys.iter().map(full).collect())
    }

    #[test]
    fn nodes_come_in_the_order_of_their_positions_whatever_is_missing() {
        let list = list(&[
            ("local_node_pos", Value::U32(10)),
            ("node.10.nodeid", Value::U32(7)),
            ("node.10.ring0_addr", "10.0.0.7".into()),
            ("node.10.ring1_addr", "fd00::7".into()),
            ("node.10.quorum_votes", Value::U32(3)),
            ("node.9.name", "nine".into()),
            ("node.2.nodeid", Value::U32(5)),
        ]);
        let positions: Vec<_> = list.nodes.iter().map(|node| node.position).collect();
        assert_eq!(positions, [2, 9, 10]);
        let local = list.local().unwrap();
        assert_eq!(local.addresses, [(0, "10.0.0.7".into()), (1, "fd00::7".into())].into());
        assert_eq!((local.node_id, local.votes()), (Some(NodeId(7)), 3));
        let nine = &list.nodes[1];
        assert_eq!((nine.node_id, nine.name.as_deref(), nine.votes()), (None, Some("nine"), 1));
        assert_eq!(list.by_id(NodeId(5)).unwrap().position, 2);
        assert_eq!(list.by_id(NodeId(1)), None);
        assert!(list.others.is_empty() && list.nodes.iter().all(|node| node.others.is_empty()));
    }

    #[test]
    fn what_is_not_known_is_kept() {
        let list = list(&[
            ("local_node_pos", "0".into()),
            ("node.0.nodeid", "1".into()),
            ("node.0.name", Value::U8(1)),
            ("node.0.ring256_addr", "10.0.0.1".into()),
            ("node.0.ring00_addr", "10.0.0.1".into()),
            ("node.0.ring0_addr", Value::U32(1)),
            ("node.0.rack.row", "7".into()),
            ("node.00.nodeid", Value::U32(1)),
            ("node.4294967296.nodeid", Value::U32(1)),
            ("node.0", "a".into()),
        ]);
        let [node] = &list.nodes[..] else { panic!("{list:?}") };
        assert_eq!((list.local_position, node.node_id, &node.name), (None, None, &None));
        assert!(node.addresses.is_empty());
        let names: Vec<_> = node.others.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["name", "nodeid", "rack.row", "ring00_addr", "ring0_addr", "ring256_addr"]
        );
        let keys: Vec<_> = list.others.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "nodelist.local_node_pos",
                "nodelist.node.0",
                "nodelist.node.00.nodeid",
                "nodelist.node.4294967296.nodeid"
            ]
        );
    }
}
