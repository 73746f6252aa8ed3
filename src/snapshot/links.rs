//! The links of this node and the state of the others, as the cfg service has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::part::CMAP;
use super::sources::{joined, text};
use super::{Fault, Faults};
use crate::cfg::{Client, LOCAL_NODE, LinkStatus, NodeStatus, RingStatus};
use crate::cmap::{self, Nodelist};
use crate::endpoint::Endpoint;
use crate::error::{CsError, Error, Result};
use crate::wire::values::NodeId;

/// A link of this node.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Link {
    /// Its number. `None` from corosync before 2.99, and without cmap.
    pub link: Option<u8>,
    /// This node's address on it.
    pub address: String,
    /// What [`RingStatus::status`] says. `None` where it is not known.
    pub status: Option<String>,
    /// Whether all is well: false if the link is faulty or a node on it is disconnected, `None` if
    /// nothing is known. Nodes whose state is not known are left out.
    pub healthy: Option<bool>,
    /// `totem.transport`: `knet`, `udpu`, `udp`. `None` where cmap failed.
    pub transport: Option<String>,
    /// What carries it: `udp`, or `sctp` with knet. `None` where cmap failed.
    pub protocol: Option<String>,
    /// The largest packet to any connected node, in bytes. `None` before corosync 3.1.1, and where
    /// no node is connected.
    pub mtu: Option<u32>,
    /// How many nodes are connected by it. `None` where the daemon reports only the status.
    pub connected: Option<usize>,
    /// The other nodes on it, and nodes that the daemon does not know. `None` where the daemon
    /// reports only the status.
    pub nodes: Option<Vec<LinkNode>>,
    /// Why the status is not known.
    #[cfg_attr(feature = "serde", serde(flatten, with = "super::json::fault_or_null"))]
    pub error: Option<Fault>,
}

/// What this node sees of another one on a link.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LinkNode {
    /// The node.
    pub node_id: NodeId,
    /// Its name in the nodelist.
    pub name: Option<String>,
    /// As [`LinkStatus::enabled`]. `None` if unknown.
    pub enabled: Option<bool>,
    /// As [`LinkStatus::connected`]. `None` if unknown.
    pub connected: Option<bool>,
    /// As [`LinkStatus::dynconnected`]. This and the rest are `None` also before corosync 3.1.1.
    pub dynconnected: Option<bool>,
    /// As [`LinkStatus::mtu`].
    pub mtu: Option<u32>,
    /// As [`LinkStatus::source`].
    pub source: Option<String>,
    /// As [`LinkStatus::destination`].
    pub destination: Option<String>,
    /// Why nothing is known, unless the daemon does not know the node.
    #[cfg_attr(feature = "serde", serde(flatten, with = "super::json::fault_or_null"))]
    pub error: Option<Fault>,
}

/// A node that is configured or joined, and whether it can be reached.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct NodeLinks {
    /// The node.
    pub node_id: NodeId,
    /// Its name in the nodelist.
    pub name: Option<String>,
    /// Whether it is the local node.
    pub local: bool,
    /// Its state. `None` where the daemon does not know the node, or could not be asked.
    pub status: Option<NodeStatus>,
    /// Why the daemon could not be asked.
    #[cfg_attr(feature = "serde", serde(flatten, with = "super::json::fault_or_null"))]
    pub error: Option<Fault>,
}

/// The state of a node, as the daemon reports it.
#[derive(Clone, Debug)]
enum State {
    Reported(NodeStatus),
    /// The daemon does not know the node.
    Unknown,
    Failed(Fault),
}

/// All nodes with their names.
type Known = BTreeMap<NodeId, Option<String>>;

impl State {
    fn reported(&self) -> Option<&NodeStatus> {
        match self {
            Self::Reported(status) => Some(status),
            _ => None,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Failed(fault) => Some(fault),
            _ => None,
        }
    }
}

/// The nodes and links in cmap.
struct Map {
    known: Known,
    /// This node's configured addresses, by link.
    addresses: BTreeMap<u8, String>,
    /// `totem.transport`.
    transport: Option<String>,
    /// Links that knet carries by something else than udp.
    protocols: BTreeMap<u8, String>,
}

impl Map {
    fn ask(endpoint: &Endpoint, local: NodeId) -> Result<Self> {
        let cmap = cmap::Client::connect_to(endpoint)?;
        let nodelist = cmap.nodelist()?;
        let mut protocols = BTreeMap::new();
        for (key, value) in cmap.list("totem.interface.")? {
            let link = key.strip_prefix("totem.interface.").and_then(|rest| rest.split_once('.'));
            if let (Some((link, "knet_transport")), cmap::Value::String(protocol)) = (link, value) {
                link.parse().ok().and_then(|link| protocols.insert(link, protocol));
            }
        }
        Ok(Self {
            known: known_nodes(&cmap, &nodelist, local)?,
            addresses: configured_addresses(&cmap, &nodelist, local)?,
            transport: text(&cmap, "totem.transport")?,
            protocols,
        })
    }

    fn is_knet(&self) -> bool {
        !matches!(self.transport.as_deref(), Some("udp" | "udpu"))
    }

    /// Transport and protocol of a link. Without a number the daemon is older than 2.99.
    fn carriers(&self, link: Option<u8>) -> (Option<String>, Option<String>) {
        let default = if link.is_some() { "knet" } else { "udp" };
        let transport = self.transport.as_deref().unwrap_or(default);
        let protocol = match transport {
            "udp" | "udpu" => Some("udp"),
            "knet" => {
                link.and_then(|link| self.protocols.get(&link)).map_or(Some("udp"), |it| Some(it))
            }
            _ => None,
        };
        (Some(transport.to_owned()), protocol.map(str::to_owned))
    }
}

/// All nodes, in the order of their ids, and the faults of those without a state.
///
/// Without cmap it is unknown which nodes exist, and whether the request for their states crashes
/// the daemon: then there is only the local node, without a state.
///
/// # Errors
/// [`Error::Unsupported`] with corosync before 3.1.1; as [`Client::local_node_id`].
pub fn node_links(endpoint: &Endpoint) -> Result<(Vec<NodeLinks>, Faults)> {
    let client = Client::connect_to(endpoint)?;
    let local = client.local_node_id()?;
    let node = |(node_id, name, state): (NodeId, Option<String>, State)| NodeLinks {
        node_id,
        name,
        local: node_id == local,
        error: state.fault().cloned(),
        status: state.reported().cloned(),
    };
    let mut known = match Map::ask(endpoint, local) {
        Ok(map) => map.known,
        Err(error) => {
            let fault = Fault::from(error);
            let faults = Faults::from([(CMAP.to_owned(), fault.clone())]);
            return Ok((vec![node((local, None, State::Failed(fault)))], faults));
        }
    };
    let states = states(&client, &known)?;
    let faults = faults(&states);
    let named = states
        .into_iter()
        .map(|(node_id, state)| (node_id, known.remove(&node_id).flatten(), state));
    Ok((named.map(node).collect(), faults))
}

/// The links of this node, and the faults of nodes without a state.
///
/// Uses node status alone where the daemon has it, because ring status crashes some daemons.
/// Without cmap only the addresses are known.
///
/// # Errors
/// As [`Client::local_node_id`] and [`Client::ring_status`].
pub fn links(endpoint: &Endpoint) -> Result<(Vec<Link>, Faults)> {
    let client = Client::connect_to(endpoint)?;
    let local = client.local_node_id()?;
    // Before cmap, which may take the rest of the time.
    let addresses = client.node_addresses(LOCAL_NODE);
    let map = match Map::ask(endpoint, local) {
        Ok(map) => map,
        Err(error) => {
            let fault = Fault::from(error);
            let mut addresses = addresses?;
            // A daemon with udp or udpu may take its one address for two.
            addresses.dedup();
            let link = |address: IpAddr| Link::of_address(address, &fault);
            let links = addresses.into_iter().map(link).collect();
            return Ok((links, Faults::from([(CMAP.to_owned(), fault.clone())])));
        }
    };
    let states = match states(&client, &map.known) {
        Err(Error::Unsupported { .. }) => {
            let rings = client.ring_status()?;
            let links = rings.into_iter().map(|ring| Link::of_ring(ring, &map)).collect();
            return Ok((links, Faults::default()));
        }
        states => states?,
    };
    let used = states
        .values()
        .filter_map(State::reported)
        .flat_map(|status| &status.links)
        .map(|link| link.link);
    // `collect` would sort them first, in 3 KB of code.
    let mut numbers = BTreeSet::new();
    numbers.extend(map.addresses.keys().copied().chain(used));
    let link = |number: u8| {
        let address = local_address(number, &states, local, map.addresses.get(&number));
        let status =
            if map.is_knet() { characters(number, &states, local) } else { "OK".to_owned() };
        let nodes = ends(number, &states, local, &map.known);
        Link::new(Some(number), address, status, Some(nodes), &map)
    };
    Ok((numbers.into_iter().map(link).collect(), faults(&states)))
}

/// A node's addresses, by link.
///
/// The daemon sends all addresses in the family of the first link. Addresses of the other family
/// are recognized by the bytes that remain of them.
///
/// # Errors
/// As [`Client::node_addresses`], and as [`cmap::Client::list`].
pub fn addresses(endpoint: &Endpoint, node: NodeId) -> Result<Vec<IpAddr>> {
    let client = Client::connect_to(endpoint)?;
    let sent = client.node_addresses(node);
    if sent.as_ref().is_ok_and(|sent| sent.len() == 1) {
        return sent;
    }
    let cmap = cmap::Client::connect_to(endpoint)?;
    let mut known = all_addresses(&cmap, node)?;
    match client.node_status(node) {
        Ok(status) => {
            let us = client.local_node_id()? == node;
            known.extend(
                status
                    .links
                    .into_iter()
                    .map(|link| if us { link.source } else { link.destination }),
            );
        }
        Err(Error::Unsupported { .. } | Error::Cs { .. }) => {}
        Err(error) => return Err(error),
    }
    let known: Vec<IpAddr> = known.iter().filter_map(|address| address.parse().ok()).collect();
    let addresses = match sent {
        // After a reload the node may be missing in the daemon's list.
        Err(Error::Cs { error: CsError::NotExist, .. }) if !known.is_empty() => known,
        sent => with_families(&sent?, &known),
    };
    // A daemon with udp or udpu reports its address twice when its entry in the nodelist has
    // nothing else.
    let mut unique = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    Ok(unique)
}

/// Restores addresses that were sent in the other family: an IPv4 address followed by zeros, or the
/// first bytes of an IPv6 address.
fn with_families(sent: &[IpAddr], known: &[IpAddr]) -> Vec<IpAddr> {
    let came_as = |address: &IpAddr, sent: &IpAddr| match (address, sent) {
        (IpAddr::V4(address), IpAddr::V6(sent)) => sent.octets().starts_with(&address.octets()),
        (IpAddr::V6(address), IpAddr::V4(sent)) => address.octets().starts_with(&sent.octets()),
        _ => false,
    };
    let mut found: Vec<IpAddr> = Vec::new();
    for address in sent {
        let meant = known.iter().find(|other| came_as(other, address) && !found.contains(other));
        found.push(*meant.filter(|_| !known.contains(address)).unwrap_or(address));
    }
    found
}

/// Asks for the state of each node. Fails where the daemon has no node status.
fn states(client: &Client, known: &Known) -> Result<BTreeMap<NodeId, State>> {
    let state = |node_id| match client.node_status(node_id) {
        Ok(status) if status.is_known() => Ok(State::Reported(status)),
        Ok(_) | Err(Error::Cs { error: CsError::FailedOperation | CsError::NotExist, .. }) => {
            Ok(State::Unknown)
        }
        Err(error @ (Error::Unsupported { .. } | Error::InvalidArgument { .. })) => Err(error),
        Err(error) => Ok(State::Failed(error.into())),
    };
    known.keys().map(|node_id| Ok((*node_id, state(*node_id)?))).collect()
}

fn faults(states: &BTreeMap<NodeId, State>) -> Faults {
    let mut faults = Faults::default();
    for (node_id, state) in states {
        if let State::Failed(fault) = state {
            faults.insert(format!("node {node_id}"), fault.clone());
        }
    }
    faults
}

/// This node's address on a link: the configured one, or, if that is a name, the daemon's.
fn local_address(
    number: u8,
    states: &BTreeMap<NodeId, State>,
    local: NodeId,
    configured: Option<&String>,
) -> String {
    if let Some(ip) = configured.and_then(|address| address.parse::<IpAddr>().ok()) {
        return ip.to_string();
    }
    let source = |(node_id, state): (&NodeId, &State)| {
        let link = state.reported()?.links.iter().find(|link| link.link == number)?;
        // The source of another node's link is this node's address with knet only, which has a
        // destination, too.
        let is_ours = *node_id == local || !link.destination.is_empty();
        (is_ours && !link.source.is_empty()).then(|| link.source.clone())
    };
    states.iter().find_map(source).or_else(|| configured.cloned()).unwrap_or_default()
}

/// The ring status of a link with knet: see [`RingStatus::status`].
fn characters(number: u8, states: &BTreeMap<NodeId, State>, local: NodeId) -> String {
    let character = |(node_id, state): (&NodeId, &State)| match state {
        _ if *node_id == local => 'n',
        State::Reported(status) => match status.links.iter().find(|link| link.link == number) {
            Some(link) => {
                let bits = [(link.enabled, 1), (link.connected, 2), (link.dynconnected, 4)];
                let bits = bits.into_iter().filter(|(is, _)| *is).map(|(_, bit)| bit).sum::<u32>();
                char::from_digit(bits, 8).unwrap_or('?')
            }
            None => 'd',
        },
        State::Unknown | State::Failed(_) => '?',
    };
    states.iter().map(character).collect()
}

/// The other nodes on a link, and those that may be on it.
fn ends(
    number: u8,
    states: &BTreeMap<NodeId, State>,
    local: NodeId,
    known: &Known,
) -> Vec<LinkNode> {
    let end = |(node_id, state): (&NodeId, &State)| {
        let link = match state.reported() {
            Some(status) => Some(status.links.iter().find(|link| link.link == number)?),
            None => None,
        };
        let name = known.get(node_id).cloned().flatten();
        Some(LinkNode::new(*node_id, name, link, state.fault().cloned()))
    };
    states.iter().filter(|(node_id, _)| **node_id != local).filter_map(end).collect()
}

impl LinkNode {
    fn new(
        node_id: NodeId,
        name: Option<String>,
        link: Option<&LinkStatus>,
        error: Option<Fault>,
    ) -> Self {
        Self {
            node_id,
            name,
            enabled: link.map(|link| link.enabled),
            connected: link.map(|link| link.connected),
            dynconnected: link.map(|link| link.dynconnected),
            mtu: link.map(|link| link.mtu),
            source: link.map(|link| link.source.clone()),
            destination: link.map(|link| link.destination.clone()),
            error,
        }
    }
}

impl Link {
    fn new(
        link: Option<u8>,
        address: String,
        status: String,
        nodes: Option<Vec<LinkNode>>,
        map: &Map,
    ) -> Self {
        let (transport, protocol) = map.carriers(link);
        let connected = || nodes.iter().flatten().filter(|node| node.connected == Some(true));
        Self {
            link,
            address,
            healthy: is_healthy(&status, nodes.as_deref()),
            status: Some(status),
            transport,
            protocol,
            mtu: connected().filter_map(|node| node.mtu).min(),
            connected: nodes.as_ref().map(|_| connected().count()),
            nodes,
            error: None,
        }
    }

    /// From a corosync without node status.
    fn of_ring(ring: RingStatus, map: &Map) -> Self {
        let nodes = ends_of(&ring.status, &map.known);
        Self::new(ring.link, ring.address, ring.status, nodes, map)
    }

    /// Without cmap.
    fn of_address(address: IpAddr, fault: &Fault) -> Self {
        Self {
            link: None,
            address: address.to_string(),
            status: None,
            healthy: None,
            transport: None,
            protocol: None,
            mtu: None,
            connected: None,
            nodes: None,
            error: Some(fault.clone()),
        }
    }
}

fn is_healthy(status: &str, nodes: Option<&[LinkNode]>) -> Option<bool> {
    let Some(nodes) = nodes else {
        // The sentence of a corosync before 2.99; see [`RingStatus::status`].
        return Some(!status.contains("FAULTY"));
    };
    if nodes.iter().any(|node| node.connected == Some(false)) {
        return Some(false);
    }
    // Alone on the link, or one of the others is connected.
    (nodes.is_empty() || nodes.iter().any(|node| node.connected.is_some())).then_some(true)
}

/// Parses the status of a knet link of corosync 2.99 to 3.1.0: a character for each node.
fn ends_of(status: &str, known: &Known) -> Option<Vec<LinkNode>> {
    let is_one = |state: char| matches!(state, 'n' | 'd' | '?' | '0'..='7');
    if status.chars().count() != known.len() || !status.contains('n') || !status.chars().all(is_one)
    {
        return None;
    }
    let end = |((node_id, name), state): ((&NodeId, &Option<String>), char)| {
        let bits = state.to_digit(8);
        let node = LinkNode::new(*node_id, name.clone(), None, None);
        (bits.is_some() || state == '?').then(|| LinkNode {
            enabled: bits.map(|bits| bits & 1 != 0),
            connected: bits.map(|bits| bits & 2 != 0),
            ..node
        })
    };
    Some(known.iter().zip(status.chars()).filter_map(end).collect())
}

/// The local node, those that are configured, and where the id of one is not (or none is), those
/// that joined, with their names.
fn known_nodes(cmap: &cmap::Client, nodelist: &Nodelist, local: NodeId) -> Result<Known> {
    let mut known = BTreeMap::from([(local, None)]);
    let configured = &nodelist.nodes;
    if configured.is_empty() || configured.iter().any(|node| node.node_id.is_none()) {
        known.extend(
            joined(cmap)?.into_iter().filter(|(_, it)| it.is_member).map(|(node, _)| (node, None)),
        );
    }
    known.extend(configured.iter().filter_map(|node| Some((node.node_id?, node.name.clone()))));
    Ok(known)
}

/// What is configured for this node, by link.
fn configured_addresses(
    cmap: &cmap::Client,
    nodelist: &Nodelist,
    local: NodeId,
) -> Result<BTreeMap<u8, String>> {
    // A daemon keeps its state from the start, even if the list has changed.
    match nodelist.local().or_else(|| nodelist.by_id(local)) {
        Some(node) => Ok(node.addresses.clone()),
        None => joined_addresses(cmap, local),
    }
}

/// The addresses with which a node joined, by link, for one that is not in the list of nodes.
fn joined_addresses(cmap: &cmap::Client, node: NodeId) -> Result<BTreeMap<u8, String>> {
    Ok(joined(cmap)?.remove(&node).unwrap_or_default().addresses)
}

/// All addresses of a node that the map has, the configured ones first.
fn all_addresses(cmap: &cmap::Client, node: NodeId) -> Result<Vec<String>> {
    let nodelist = cmap.nodelist()?;
    let configured = nodelist.nodes.iter().filter(|one| one.node_id == Some(node));
    let configured: Vec<String> =
        configured.flat_map(|one| one.addresses.values().cloned()).collect();
    Ok(configured.into_iter().chain(joined_addresses(cmap, node)?.into_values()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_tells_of_a_node_on_a_link() {
        let known: Known = [1, 2, 7].map(|id| (NodeId(id), None)).into();
        let ends = |status| -> Vec<_> {
            let ends = ends_of(status, &known).unwrap();
            ends.iter().map(|end| (end.node_id.0, end.enabled.zip(end.connected))).collect()
        };
        assert_eq!(ends("3n1"), [(1, Some((true, true))), (7, Some((true, false)))]);
        assert_eq!(ends("nd?"), [(7, None)]);
        // A sentence, and what is said of other transports.
        for status in ["OK", "FAULTY", "333", "n3", "n333", "n3x", ""] {
            assert!(ends_of(status, &known).is_none(), "{status}");
        }
    }

    fn link(number: u8, connected: bool, source: &str, destination: &str) -> LinkStatus {
        let (source, destination) = (source.to_owned(), destination.to_owned());
        LinkStatus {
            link: number,
            enabled: true,
            connected,
            dynconnected: false,
            mtu: 1,
            source,
            destination,
        }
    }

    fn reported(id: u32, links: Vec<LinkStatus>) -> (NodeId, State) {
        let node_id = NodeId(id);
        let (onwire_min, onwire_max, onwire_version) = (1, 1, 1);
        let (reachable, remote, external) = (true, false, false);
        (
            node_id,
            State::Reported(NodeStatus {
                node_id,
                reachable,
                remote,
                external,
                onwire_min,
                onwire_max,
                onwire_version,
                links,
            }),
        )
    }

    #[test]
    fn node_status_says_what_ring_status_does() {
        let fault = Fault::from(Error::Disconnected {
            service: "cfg".into(),
            truncated: None,
            stage: None,
        });
        let states: BTreeMap<NodeId, State> = [
            reported(1, vec![link(0, true, "10.0.0.1", "10.0.0.1")]),
            reported(
                2,
                vec![link(0, true, "10.0.0.1", "10.0.0.2"), link(3, false, "10.0.3.1", "10.0.3.2")],
            ),
            (NodeId(4), State::Unknown),
            (NodeId(5), State::Failed(fault)),
        ]
        .into();
        let local = NodeId(1);
        assert_eq!(
            (characters(0, &states, local), characters(3, &states, local)),
            ("n3??".into(), "n1??".into())
        );
        assert_eq!(characters(7, &states, local), "nd??");
        let known: Known = states.keys().map(|id| (*id, None)).collect();
        let on = |number| {
            let ends = ends(number, &states, local, &known);
            let states: Vec<_> = ends.iter().map(|end| (end.node_id.0, end.connected)).collect();
            (states, is_healthy("n", Some(&ends)), ends.last().unwrap().error.is_some())
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(on(0), (vec![(2, yes), (4, None), (5, None)], yes, true));
        assert_eq!(on(3), (vec![(2, no), (4, None), (5, None)], no, true));
        assert_eq!(on(7), (vec![(4, None), (5, None)], None, true));
        assert_eq!(is_healthy("n", Some(&[])), yes);
        assert_eq!(is_healthy("Marking ringid 0 interface 10.0.0.1 FAULTY", None), no);
        assert_eq!(is_healthy("ring 0 active with no faults", None), yes);
    }

    #[test]
    fn an_address_that_came_as_one_of_the_other_family_is_found() {
        let parse = |texts: &[&str]| {
            texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>()
        };
        for (sent, known, reported) in [
            (
                &["10.0.0.1", "253.0.0.0"][..],
                &["10.0.0.1", "fd00::2"][..],
                &["10.0.0.1", "fd00::2"][..],
            ),
            (&["fd00::2", "a00:1::"], &["fd00::2", "10.0.0.1"], &["fd00::2", "10.0.0.1"]),
            (
                &["10.0.0.1", "253.0.0.0", "253.0.0.0"],
                &["fd00::2", "fd00::3"],
                &["10.0.0.1", "fd00::2", "fd00::3"],
            ),
            // Both are right, or nothing is known.
            (&["fd00::2", "a00:1::"], &["a00:1::", "10.0.0.1", "fd00::2"], &["fd00::2", "a00:1::"]),
            (&["fd00::2", "a00:1::"], &[], &["fd00::2", "a00:1::"]),
        ] {
            assert_eq!(with_families(&parse(sent), &parse(known)), parse(reported), "{sent:?}");
        }
    }

    #[test]
    fn an_address_is_a_number_where_one_is_known() {
        let name = "n1.example".to_owned();
        let address = |states: &[(NodeId, State)], number, configured: Option<&String>| {
            local_address(number, &states.iter().cloned().collect(), NodeId(1), configured)
        };
        let knet = [
            reported(1, vec![link(0, true, "10.0.0.1", "10.0.0.1")]),
            reported(2, vec![link(3, true, "10.0.3.1", "b")]),
        ];
        assert_eq!(address(&knet, 0, Some(&name)), "10.0.0.1");
        assert_eq!(address(&knet, 3, Some(&name)), "10.0.3.1");
        assert_eq!(address(&knet, 3, Some(&"fd00::0:3".to_owned())), "fd00::3");
        // With udpu the source is the other node's address.
        let udpu = [reported(1, vec![]), reported(2, vec![link(0, true, "10.0.0.2", "")])];
        assert_eq!(address(&udpu, 0, Some(&name)), name);
        assert_eq!(address(&udpu, 0, None), "");
    }
}
