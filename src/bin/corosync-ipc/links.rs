//! The links of this node and the state of the others, as the cfg service has them.

use corosync_ipc::cfg::{Client, LinkStatus, NodeStatus, RingStatus};
use corosync_ipc::cmap;
use corosync_ipc::{CsError, Endpoint, Error, NodeId};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::output::{printable, table, words};
use crate::snapshot::known_nodes;

/// A node that is configured or joined.
#[derive(Debug)]
pub(crate) struct Node {
    node_id: NodeId,
    name: Option<String>,
    local: bool,
    /// `None` where the daemon does not know the node.
    status: Option<NodeStatus>,
}

/// A link of this node.
#[derive(Debug)]
pub(crate) struct Link {
    ring: RingStatus,
    /// The other nodes on it; `None` where the daemon tells no more than the ring's status.
    ends: Option<Vec<End>>,
}

/// What this node sees of another one on a link.
#[derive(Debug)]
struct End {
    node_id: NodeId,
    name: Option<String>,
    enabled: bool,
    connected: bool,
    /// `None` before corosync 3.1.1.
    status: Option<LinkStatus>,
}

/// All nodes, in the order of their ids. Fails with a corosync before 3.1.1.
pub(crate) fn nodes(endpoint: &Endpoint) -> Result<Vec<Node>, Failure> {
    let client = Client::connect_to(endpoint)?;
    let known = known_nodes(&cmap::Client::connect_to(endpoint)?)?;
    let local = client.local_node_id()?;
    let node = |(node_id, name): (NodeId, Option<String>)| {
        let status = match client.node_status(node_id) {
            // It left meanwhile.
            Err(Error::Cs { error: CsError::FailedOperation | CsError::NotExist, .. }) => None,
            status => Some(status?),
        };
        Ok(Node { node_id, name, local: node_id == local, status })
    };
    known.into_iter().map(node).collect()
}

/// The links of this node.
pub(crate) fn links(endpoint: &Endpoint) -> Result<Vec<Link>, Failure> {
    let client = Client::connect_to(endpoint)?;
    let known = known_nodes(&cmap::Client::connect_to(endpoint)?)?;
    let local = client.local_node_id()?;
    let rings = client.ring_status()?;
    let mut states = Vec::new();
    for node_id in known.keys().filter(|node| **node != local) {
        match client.node_status(*node_id) {
            Ok(status) => states.push(status),
            Err(Error::Cs { error: CsError::FailedOperation | CsError::NotExist, .. }) => {}
            Err(Error::Unsupported { .. }) => {
                let link = |ring: RingStatus| {
                    let ends = ends_of(&ring.status, known.iter().map(|(id, name)| (*id, name.clone())).collect());
                    Link { ends, ring }
                };
                return Ok(rings.into_iter().map(link).collect());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let link = |ring: RingStatus| {
        let of_node = |state: &NodeStatus| {
            let status = state.links.iter().find(|link| Some(link.link) == ring.link)?.clone();
            let name = known.get(&state.node_id).cloned().flatten();
            let (enabled, connected) = (status.enabled, status.connected);
            Some(End { node_id: state.node_id, name, enabled, connected, status: Some(status) })
        };
        Link { ends: Some(states.iter().filter_map(of_node).collect()), ring }
    };
    Ok(rings.into_iter().map(link).collect())
}

/// Takes apart what corosync 2.99 to 3.1.0 tells of a link with knet: a character for each node.
fn ends_of(status: &str, known: Vec<(NodeId, Option<String>)>) -> Option<Vec<End>> {
    let is_one = |state: char| matches!(state, 'n' | 'd' | '?' | '0'..='7');
    if status.chars().count() != known.len() || !status.contains('n') || !status.chars().all(is_one) {
        return None;
    }
    let end = |((node_id, name), state): ((NodeId, Option<String>), char)| {
        let bits = state.to_digit(8)?;
        Some(End { node_id, name, enabled: bits & 1 != 0, connected: bits & 2 != 0, status: None })
    };
    Some(known.into_iter().zip(status.chars()).filter_map(end).collect())
}

pub(crate) fn links_json(links: &[Link]) -> Json {
    let end = |end: &End| {
        let status = end.status.as_ref();
        json!({
            "node_id": end.node_id.0,
            "name": end.name,
            "enabled": end.enabled,
            "connected": end.connected,
            "dynconnected": status.map(|status| status.dynconnected),
            "mtu": status.map(|status| status.mtu),
            "source": status.map(|status| &status.source),
            "destination": status.map(|status| &status.destination),
        })
    };
    let link = |link: &Link| {
        json!({
            "link": link.ring.link,
            "address": link.ring.address,
            "status": link.ring.status,
            "nodes": link.ends.as_ref().map(|ends| ends.iter().map(end).collect::<Json>()),
        })
    };
    links.iter().map(link).collect()
}

pub(crate) fn links_text(links: &[Link]) -> String {
    let head = ["LINK", "ADDRESS", "STATUS"].map(str::to_owned).to_vec();
    let row = |link: &Link| {
        let number = link.ring.link.map_or("-".to_owned(), |number| number.to_string());
        vec![number, printable(&link.ring.address), link_state(link)]
    };
    table(&[true, false, false], &[head].into_iter().chain(links.iter().map(row)).collect::<Vec<_>>())
}

fn link_state(link: &Link) -> String {
    let ends = match &link.ends {
        Some(_) if link.ring.status == "n" => return "no other node".to_owned(),
        Some(ends) if !ends.is_empty() => ends,
        _ => return printable(&link.ring.status),
    };
    let those = |connected: bool| ends.iter().filter(move |end| end.connected == connected).map(|end| end.node_id);
    let mut said = Vec::new();
    for (connected, word) in [(true, "connected"), (false, "disconnected")] {
        if those(connected).next().is_some() {
            said.push(format!("{word} {}", words(those(connected))));
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
        let status = node.status.as_ref();
        let onwire = status.filter(|status| status.onwire_max != 0);
        json!({
            "node_id": node.node_id.0,
            "name": node.name,
            "local": node.local,
            "reachable": status.is_some_and(|status| status.reachable),
            "remote": status.is_some_and(|status| status.remote),
            "external": status.is_some_and(|status| status.external),
            "onwire": onwire.map(|status| json!({
                "min": status.onwire_min,
                "max": status.onwire_max,
                "version": status.onwire_version,
            })),
            "links": status.map(|status| status.links.iter().map(link).collect::<Json>()).unwrap_or_else(|| json!([])),
        })
    };
    nodes.iter().map(node).collect()
}

pub(crate) fn nodes_text(nodes: &[Node]) -> String {
    let head = ["ID", "NAME", "STATE", "LINKS"].map(str::to_owned).to_vec();
    let row = |node: &Node| {
        let status = node.status.as_ref();
        let state = match status {
            _ if node.local => "local".to_owned(),
            Some(status) if status.reachable => {
                let extra = [(status.remote, " remote"), (status.external, " external")];
                extra.into_iter().filter(|(is, _)| *is).fold("reachable".to_owned(), |state, (_, word)| state + word)
            }
            _ => "unreachable".to_owned(),
        };
        let links = status.filter(|_| !node.local).map(|status| status.links.iter().map(link_text));
        let name = printable(node.name.as_deref().unwrap_or("-"));
        vec![node.node_id.to_string(), name, state, words(links.into_iter().flatten())]
    };
    table(&[true, false, false, false], &[head].into_iter().chain(nodes.iter().map(row)).collect::<Vec<_>>())
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
        let known = || vec![(NodeId(1), None), (NodeId(2), None), (NodeId(7), None)];
        let ends: Vec<_> =
            ends_of("3n1", known()).unwrap().iter().map(|end| (end.node_id.0, end.enabled, end.connected)).collect();
        assert_eq!(ends, [(1, true, true), (7, true, false)]);
        assert_eq!(ends_of("nd?", known()).unwrap().len(), 0);
        // A sentence, and what is said of other transports.
        for status in ["OK", "FAULTY", "333", "n3", "n333", "n3x", ""] {
            assert!(ends_of(status, known()).is_none(), "{status}");
        }
    }
}
