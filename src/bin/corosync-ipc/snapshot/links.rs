//! The links of this node and the state of the others, as the cfg service has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use corosync_ipc::cfg::{Client, LOCAL_NODE, LinkStatus, NodeStatus, RingStatus};
use corosync_ipc::cmap;
use corosync_ipc::{CsError, Endpoint, Error, NodeId};
use serde_json::{Value as Json, json};

use crate::failure::{Fault, Faults};
use crate::output::{Column, table, words};
use crate::snapshot::{CMAP, all_addresses, known_nodes, local_addresses};

/// A node that is configured or joined.
#[derive(Debug)]
pub(crate) struct Node {
    node_id: NodeId,
    name: Option<String>,
    local: bool,
    state: State,
}

/// The state of a node, as the daemon reports it.
#[derive(Clone, Debug)]
enum State {
    Reported(NodeStatus),
    /// The daemon does not know the node.
    Unknown,
    Failed(Fault),
}

/// A link of this node.
#[derive(Debug)]
pub(crate) struct Link {
    /// `None` from corosync before 2.99, and without cmap.
    number: Option<u8>,
    address: String,
    /// The status, or why it is unknown.
    status: Result<String, Fault>,
    /// The other nodes on it; `None` where the daemon reports only the status.
    ends: Option<Vec<End>>,
}

/// What this node sees of another one on a link.
#[derive(Debug)]
struct End {
    node_id: NodeId,
    name: Option<String>,
    /// `None` if unknown.
    up: Option<Up>,
    /// `None` before corosync 3.1.1, and if unknown.
    status: Option<LinkStatus>,
    /// Why it is unknown, unless the daemon does not know the node.
    fault: Option<Fault>,
}

/// The state of a link.
#[derive(Clone, Copy, Debug)]
struct Up {
    enabled: bool,
    connected: bool,
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
    is_knet: bool,
}

impl Map {
    fn ask(endpoint: &Endpoint, local: NodeId) -> Result<Self, Error> {
        let cmap = cmap::Client::connect_to(endpoint)?;
        Ok(Self {
            known: known_nodes(&cmap, local)?,
            addresses: local_addresses(&cmap, local)?,
            is_knet: !matches!(
                cmap.get_as::<String>("totem.transport")?.as_deref(),
                Some("udp" | "udpu")
            ),
        })
    }
}

/// All nodes, in the order of their ids, and the faults of those without a state. Fails with
/// corosync before 3.1.1.
///
/// Without cmap it is unknown which nodes exist, and whether the request for their states crashes
/// the daemon.
pub(crate) fn nodes(endpoint: &Endpoint) -> Result<(Vec<Node>, Faults), Error> {
    let client = Client::connect_to(endpoint)?;
    let local = client.local_node_id()?;
    let node = |(node_id, name, state)| Node { node_id, name, local: node_id == local, state };
    let mut known = match Map::ask(endpoint, local) {
        Ok(map) => map.known,
        Err(error) => {
            let fault = Fault::from(&error);
            return Ok((
                vec![node((local, None, State::Failed(fault.clone())))],
                Faults::from([(CMAP, fault)]),
            ));
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
pub(crate) fn links(endpoint: &Endpoint) -> Result<(Vec<Link>, Faults), Error> {
    let client = Client::connect_to(endpoint)?;
    let local = client.local_node_id()?;
    // Before cmap, which may take the rest of the time.
    let addresses = client.node_addresses(LOCAL_NODE);
    let Map { known, addresses: configured, is_knet } = match Map::ask(endpoint, local) {
        Ok(map) => map,
        Err(error) => {
            let fault = Fault::from(&error);
            let mut addresses = addresses?;
            // A daemon with udp or udpu may take its one address for two.
            addresses.dedup();
            let link = |address: IpAddr| Link::of_address(address, &fault);
            return Ok((
                addresses.into_iter().map(link).collect(),
                Faults::from([(CMAP, fault.clone())]),
            ));
        }
    };
    let states = match states(&client, &known) {
        Err(Error::Unsupported { .. }) => {
            let rings = client.ring_status()?;
            return Ok((
                rings.into_iter().map(|ring| Link::of_ring(ring, &known)).collect(),
                Faults::default(),
            ));
        }
        states => states?,
    };
    let used = states
        .values()
        .filter_map(State::reported)
        .flat_map(|status| &status.links)
        .map(|link| link.link);
    let numbers: BTreeSet<u8> = configured.keys().copied().chain(used).collect();
    let link = |number: u8| Link {
        number: Some(number),
        address: local_address(number, &states, local, configured.get(&number)),
        status: Ok(if is_knet { characters(number, &states, local) } else { "OK".to_owned() }),
        ends: Some(ends(number, &states, local, &known)),
    };
    Ok((numbers.into_iter().map(link).collect(), faults(&states)))
}

/// A node's addresses, by link.
///
/// The daemon sends all addresses in the family of the first link. Addresses of the other family
/// are recognized by the bytes that remain of them.
pub(crate) fn addresses(endpoint: &Endpoint, node: NodeId) -> Result<Vec<IpAddr>, Error> {
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
fn states(client: &Client, known: &Known) -> Result<BTreeMap<NodeId, State>, Error> {
    let state = |node_id| match client.node_status(node_id) {
        Ok(status) if status.is_known() => Ok(State::Reported(status)),
        Ok(_) | Err(Error::Cs { error: CsError::FailedOperation | CsError::NotExist, .. }) => {
            Ok(State::Unknown)
        }
        Err(error @ (Error::Unsupported { .. } | Error::InvalidArgument { .. })) => Err(error),
        Err(error) => Ok(State::Failed(Fault::from(&error))),
    };
    known.keys().map(|node_id| Ok((*node_id, state(*node_id)?))).collect()
}

fn faults(states: &BTreeMap<NodeId, State>) -> Faults {
    let mut faults = Faults::default();
    for (node_id, state) in states {
        if let State::Failed(fault) = state {
            faults.add(format!("node {node_id}"), fault.clone());
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
fn ends(number: u8, states: &BTreeMap<NodeId, State>, local: NodeId, known: &Known) -> Vec<End> {
    let end = |(node_id, state): (&NodeId, &State)| {
        let status = match state.reported() {
            Some(status) => Some(status.links.iter().find(|link| link.link == number)?.clone()),
            None => None,
        };
        Some(End {
            node_id: *node_id,
            name: known.get(node_id).cloned().flatten(),
            up: status.as_ref().map(|link| Up { enabled: link.enabled, connected: link.connected }),
            status,
            fault: state.fault().cloned(),
        })
    };
    states.iter().filter(|(node_id, _)| **node_id != local).filter_map(end).collect()
}

impl Link {
    /// Whether the link is faulty, or a node on it is disconnected.
    pub(crate) fn is_down(&self) -> bool {
        match &self.ends {
            Some(ends) => ends.iter().filter_map(|end| end.up).any(|up| !up.connected),
            // The sentence of a corosync before 2.99; see [`RingStatus::status`].
            None => self.status.as_ref().is_ok_and(|status| status.contains("FAULTY")),
        }
    }

    /// From a corosync without node status.
    fn of_ring(ring: RingStatus, known: &Known) -> Self {
        Self {
            ends: ends_of(&ring.status, known),
            number: ring.link,
            address: ring.address,
            status: Ok(ring.status),
        }
    }

    /// Without cmap.
    fn of_address(address: IpAddr, fault: &Fault) -> Self {
        Self { number: None, address: address.to_string(), status: Err(fault.clone()), ends: None }
    }
}

/// Parses the status of a knet link of corosync 2.99 to 3.1.0: a character for each node.
fn ends_of(status: &str, known: &Known) -> Option<Vec<End>> {
    let is_one = |state: char| matches!(state, 'n' | 'd' | '?' | '0'..='7');
    if status.chars().count() != known.len() || !status.contains('n') || !status.chars().all(is_one)
    {
        return None;
    }
    let end = |((node_id, name), state): ((&NodeId, &Option<String>), char)| {
        let up =
            state.to_digit(8).map(|bits| Up { enabled: bits & 1 != 0, connected: bits & 2 != 0 });
        let is_on_it = up.is_some() || state == '?';
        is_on_it.then(|| End {
            node_id: *node_id,
            name: name.clone(),
            up,
            status: None,
            fault: None,
        })
    };
    Some(known.iter().zip(status.chars()).filter_map(end).collect())
}

pub(crate) fn links_json(links: &[Link]) -> Json {
    let end = |end: &End| {
        let status = end.status.as_ref();
        let mut end_json = json!({
            "node_id": end.node_id.0,
            "name": end.name,
            "enabled": end.up.map(|up| up.enabled),
            "connected": end.up.map(|up| up.connected),
            "dynconnected": status.map(|status| status.dynconnected),
            "mtu": status.map(|status| status.mtu),
            "source": status.map(|status| &status.source),
            "destination": status.map(|status| &status.destination),
        });
        add_error(&mut end_json, end.fault.as_ref());
        end_json
    };
    let link = |link: &Link| {
        let mut link_json = json!({
            "link": link.number,
            "address": link.address,
            "status": link.status.as_ref().ok(),
            "nodes": link.ends.as_ref().map(|ends| ends.iter().map(end).collect::<Json>()),
        });
        add_error(&mut link_json, link.status.as_ref().err());
        link_json
    };
    links.iter().map(link).collect()
}

/// Adds the members of a fault; without a fault they are null.
fn add_error(object: &mut Json, fault: Option<&Fault>) {
    let fault = fault.map(Fault::json).unwrap_or_default();
    for member in ["error", "cs_error"] {
        object[member] = fault.get(member).cloned().unwrap_or_default();
    }
}

pub(crate) fn links_text(links: &[Link]) -> String {
    let row = |link: &Link| {
        let number = link.number.map_or("-".to_owned(), |number| number.to_string());
        vec![number, link.address.clone(), link_state(link)]
    };
    let columns = [Column::Number("LINK"), Column::Text("ADDRESS"), Column::Text("STATUS")];
    table(&columns, &links.iter().map(row).collect::<Vec<_>>())
}

fn link_state(link: &Link) -> String {
    let Some(ends) = &link.ends else {
        return link.status.clone().unwrap_or_else(|fault| fault.text());
    };
    if ends.is_empty() {
        return "no other node".to_owned();
    }
    let word = |end: &End| match (end.up, &end.fault) {
        (Some(Up { connected: true, .. }), _) => "connected",
        (Some(_), _) => "disconnected",
        (None, None) => "unknown",
        (None, Some(_)) => "failed",
    };
    let mut said = Vec::new();
    for state in ["connected", "disconnected", "unknown", "failed"] {
        let nodes: Vec<NodeId> =
            ends.iter().filter(|end| word(end) == state).map(|end| end.node_id).collect();
        if !nodes.is_empty() {
            said.push(format!("{state} {}", words(nodes)));
        }
    }
    said.join(", ")
}

pub(crate) fn nodes_json(nodes: &[Node]) -> Json {
    let link = |link: &LinkStatus| {
        json!({
            "link": link.link,
            "enabled": link.enabled,
            "connected": link.connected,
            "dynconnected": link.dynconnected,
            "mtu": link.mtu,
            "source": link.source,
            "destination": link.destination,
        })
    };
    let node = |node: &Node| {
        let status = node.state.reported();
        let onwire = status.filter(|status| status.onwire_max != 0);
        let mut node_json = json!({
            "node_id": node.node_id.0,
            "name": node.name,
            "local": node.local,
            "reachable": status.map(|status| status.reachable),
            "remote": status.map(|status| status.remote),
            "external": status.map(|status| status.external),
            "onwire": onwire.map(|status| json!({
                "min": status.onwire_min,
                "max": status.onwire_max,
                "version": status.onwire_version,
            })),
            "links": status.map(|status| status.links.iter().map(link).collect::<Json>()),
        });
        add_error(&mut node_json, node.state.fault());
        node_json
    };
    nodes.iter().map(node).collect()
}

pub(crate) fn nodes_text(nodes: &[Node]) -> String {
    let row = |node: &Node| {
        let state = match &node.state {
            State::Failed(fault) => fault.text(),
            _ if node.local => "local".to_owned(),
            State::Unknown => "unknown".to_owned(),
            State::Reported(status) if status.reachable => {
                let extra = [(status.remote, " remote"), (status.external, " external")];
                extra
                    .into_iter()
                    .filter(|(is, _)| *is)
                    .fold("reachable".to_owned(), |state, (_, word)| state + word)
            }
            State::Reported(_) => "unreachable".to_owned(),
        };
        let links = node
            .state
            .reported()
            .filter(|_| !node.local)
            .map(|status| status.links.iter().map(link_text));
        let name = node.name.as_deref().unwrap_or("-").to_owned();
        vec![node.node_id.to_string(), name, state, words(links.into_iter().flatten())]
    };
    let columns =
        [Column::Number("ID"), Column::Text("NAME"), Column::Text("STATE"), Column::Text("LINKS")];
    table(&columns, &nodes.iter().map(row).collect::<Vec<_>>())
}

fn link_text(link: &LinkStatus) -> String {
    let state = match (link.enabled, link.connected) {
        (false, _) => "disabled",
        (_, true) => "connected",
        (_, false) => "disconnected",
    };
    format!("{}:{state}", link.link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_tells_of_a_node_on_a_link() {
        let known: Known = [1, 2, 7].map(|id| (NodeId(id), None)).into();
        let ends = |status| -> Vec<_> {
            let ends = ends_of(status, &known).unwrap();
            ends.iter()
                .map(|end| (end.node_id.0, end.up.map(|up| (up.enabled, up.connected))))
                .collect()
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
        let fault = Fault::from(&Error::Disconnected {
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
            link_state(&Link {
                number: Some(number),
                address: String::new(),
                status: Ok(String::new()),
                ends: Some(ends(number, &states, local, &known)),
            })
        };
        assert_eq!(on(0), "connected 2, unknown 4, failed 5");
        assert_eq!(on(3), "disconnected 2, unknown 4, failed 5");
        assert_eq!(on(7), "unknown 4, failed 5");
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
