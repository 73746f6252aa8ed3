//! The cluster as this node sees it at one moment, collected from quorum, votequorum and cmap.

use std::collections::BTreeMap;

use corosync_ipc::cfg;
use corosync_ipc::cmap::{self, Value};
use corosync_ipc::quorum::{self, Model, QuorumType};
use corosync_ipc::votequorum::{self, Info, InfoFlags, QDEVICE_NODE_ID};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, RingId, TrackFlags};

use crate::failure::{Failure, TIMED_OUT};

/// How often to look again while the membership changes under the questions.
const ROUNDS: usize = 5;

/// The cluster as this node sees it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) node_id: NodeId,
    pub(crate) cluster_name: Option<String>,
    /// `None`: every partition is quorate.
    pub(crate) provider: Option<String>,
    pub(crate) view: View,
    /// `None` without votequorum.
    pub(crate) votes: Option<Info>,
    /// The members, in the order corosync gives.
    pub(crate) members: Vec<Node>,
    /// Nodes that are configured, or were members, and are not.
    pub(crate) absent: Vec<Node>,
}

/// What the quorum service tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) quorate: bool,
    /// `None` where no service tells: a corosync before 3.1 without a quorum provider.
    pub(crate) ring: Option<Ring>,
    members: Vec<NodeId>,
}

/// A ring's id. Old corosyncs keep the node that formed it to themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ring {
    pub(crate) node_id: Option<NodeId>,
    pub(crate) seq: u64,
}

/// A node, member or not.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) node_id: NodeId,
    pub(crate) name: Option<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) local: bool,
    /// `None` without votequorum, and for a node that was never seen.
    pub(crate) votes: Option<Info>,
}

/// What is configured for a node.
#[derive(Debug, Default)]
struct Configured {
    node_id: Option<NodeId>,
    name: Option<String>,
    /// By link.
    addresses: BTreeMap<u32, String>,
}

impl From<RingId> for Ring {
    fn from(ring: RingId) -> Self {
        Self { node_id: Some(ring.node_id), seq: ring.seq }
    }
}

impl Snapshot {
    /// Asks the services until two answers in a row name the same ring.
    pub(crate) fn take(endpoint: &Endpoint) -> Result<Self, Failure> {
        let cmap = cmap::Client::connect_to(endpoint)?;
        let quorum = connect_quorum(endpoint)?;
        let votequorum = connect_votequorum(endpoint)?;
        let node_id = match &votequorum {
            Some(votequorum) => votequorum.local_info()?.node_id,
            None => cfg::Client::connect_to(endpoint)?.local_node_id()?,
        };
        let collect = |view: View| Self::collect(&cmap, votequorum.as_ref(), node_id, view);
        let mut view = View::current(&cmap, &quorum, votequorum.as_ref())?;
        let mut snapshot = collect(view.clone())?;
        for _ in 0..ROUNDS {
            let now = View::current(&cmap, &quorum, votequorum.as_ref())?;
            if now == view {
                break;
            }
            view = now;
            snapshot = collect(view.clone())?;
        }
        Ok(snapshot)
    }

    fn collect(
        cmap: &cmap::Client,
        votequorum: Option<&votequorum::Client>,
        node_id: NodeId,
        view: View,
    ) -> Result<Self, Failure> {
        let configured = configured_nodes(cmap)?;
        let votes = votequorum.map(votequorum::Client::local_info).transpose()?;
        let mut known: Vec<NodeId> = configured.values().filter_map(|node| node.node_id).collect();
        known.extend(votequorum.map(known_to_votequorum).transpose()?.unwrap_or_default());
        known.retain(|node| !view.members.contains(node) && *node != QDEVICE_NODE_ID);
        known.sort_unstable();
        known.dedup();
        let node = |id: &NodeId| {
            let found = configured.values().find(|node| node.node_id == Some(*id));
            let mut addresses: Vec<_> =
                found.map(|node| node.addresses.values().cloned().collect()).unwrap_or_default();
            if addresses.is_empty() {
                addresses = joined_addresses(cmap, *id)?;
            }
            let votes = votequorum.map(|client| info(client, *id)).transpose()?.flatten();
            let name = found.and_then(|node| node.name.clone());
            Ok(Node { node_id: *id, name, addresses, local: *id == node_id, votes })
        };
        Ok(Self {
            members: view.members.iter().map(node).collect::<Result<_, Failure>>()?,
            absent: known.iter().map(node).collect::<Result<_, Failure>>()?,
            cluster_name: text(cmap, "totem.cluster_name")?,
            provider: text(cmap, "quorum.provider")?,
            node_id,
            view,
            votes,
        })
    }

    /// This node, if it is known.
    pub(crate) fn local(&self) -> Option<&Node> {
        self.members.iter().chain(&self.absent).find(|node| node.local)
    }

    /// Whether a quorum device is registered at this node.
    pub(crate) fn has_qdevice(&self) -> bool {
        self.votes.as_ref().is_some_and(|votes| votes.flags.contains(InfoFlags::QDEVICE_REGISTERED))
    }
}

impl View {
    fn current(
        cmap: &cmap::Client,
        quorum: &quorum::Client,
        votequorum: Option<&votequorum::Client>,
    ) -> Result<Self, Failure> {
        quorum.track_start(TrackFlags::CURRENT)?;
        let mut nodelist = None;
        let mut view = loop {
            match quorum.next_event(quorum.request_timeout())? {
                Some(quorum::Event::Quorum(event)) => {
                    let ring = Some(event.ring_id.into());
                    break Self { quorate: event.quorate, ring, members: event.members };
                }
                Some(quorum::Event::Notification(event)) => {
                    let ring = Some(Ring { node_id: None, seq: event.ring_seq });
                    break Self { quorate: event.quorate, ring, members: event.members };
                }
                Some(quorum::Event::Nodelist(event)) => nodelist = Some(event),
                Some(_) => {}
                None => {
                    let text = "quorum trackstart: the daemon did not tell the present state (CS_ERR_TIMEOUT)";
                    return Err(Failure::Failed { status: TIMED_OUT, text: text.to_owned() });
                }
            }
        };
        if quorum.quorum_type() == QuorumType::FREE {
            // Ring and members come from the provider; without one they stay empty there.
            (view.ring, view.members) = match nodelist {
                Some(nodelist) => (Some(nodelist.ring_id.into()), nodelist.member_list),
                None => (None, joined_members(cmap)?),
            };
        }
        // Model v0 tells half of the ring's id; votequorum may know the other.
        if let (Some(votequorum), Some(Ring { node_id: None, seq })) = (votequorum, view.ring) {
            for event in votequorum_events(votequorum)? {
                match event {
                    votequorum::Event::Nodelist { ring_id, .. } if ring_id.seq == seq => {
                        view.ring = Some(ring_id.into());
                    }
                    _ => {}
                }
            }
        }
        Ok(view)
    }
}

/// Connects with the newest model the daemon has.
pub(crate) fn connect_quorum(endpoint: &Endpoint) -> Result<quorum::Client, Failure> {
    match quorum::Client::connect_model(endpoint, Model::V1) {
        Err(Error::Unsupported { .. }) => Ok(quorum::Client::connect_model(endpoint, Model::V0)?),
        client => Ok(client?),
    }
}

/// `None` where it is not the configured provider.
pub(crate) fn connect_votequorum(endpoint: &Endpoint) -> Result<Option<votequorum::Client>, Failure> {
    match votequorum::Client::connect_to(endpoint) {
        Err(Error::NoSocket { .. }) => Ok(None),
        client => Ok(Some(client?)),
    }
}

/// Votes and state of a node; `None` if it was never a member.
fn info(client: &votequorum::Client, node: NodeId) -> Result<Option<Info>, Failure> {
    match client.info(node) {
        Err(Error::Cs { error: CsError::NotExist, .. }) => Ok(None),
        info => Ok(Some(info?)),
    }
}

/// The present state, as votequorum tells it.
fn votequorum_events(client: &votequorum::Client) -> Result<Vec<votequorum::Event>, Failure> {
    client.track_start(0, TrackFlags::CURRENT)?;
    let mut events = Vec::new();
    while let Some(event) = client.poll_event()? {
        events.push(event);
    }
    Ok(events)
}

fn known_to_votequorum(client: &votequorum::Client) -> Result<Vec<NodeId>, Failure> {
    let mut known = Vec::new();
    for event in votequorum_events(client)? {
        if let votequorum::Event::Quorum { nodes, .. } = event {
            known.extend(nodes.iter().map(|node| node.node_id));
        }
    }
    Ok(known)
}

/// The nodes that are configured, or where none are, those that joined, in the order of their ids, with their names.
pub(crate) fn known_nodes(cmap: &cmap::Client) -> Result<BTreeMap<NodeId, Option<String>>, Failure> {
    let configured = configured_nodes(cmap)?;
    let known: BTreeMap<_, _> = configured.into_values().filter_map(|node| Some((node.node_id?, node.name))).collect();
    if known.is_empty() { Ok(joined_members(cmap)?.into_iter().map(|node| (node, None)).collect()) } else { Ok(known) }
}

/// The nodes of `nodelist.node.POSITION.*`, by position.
fn configured_nodes(cmap: &cmap::Client) -> Result<BTreeMap<u32, Configured>, Failure> {
    let mut nodes: BTreeMap<u32, Configured> = BTreeMap::new();
    for (key, value) in cmap.list("nodelist.node.")? {
        let mut parts = key.split('.').skip(2);
        let position = parts.next().and_then(|position| position.parse().ok());
        let (Some(position), Some(field), None) = (position, parts.next(), parts.next()) else {
            continue;
        };
        let node = nodes.entry(position).or_default();
        let link = field.strip_prefix("ring").and_then(|field| field.strip_suffix("_addr"));
        match (field, value) {
            ("nodeid", Value::U32(id)) => node.node_id = Some(NodeId(id)),
            ("name", Value::String(name)) => node.name = Some(name),
            (_, Value::String(address)) => {
                if let Some(link) = link.and_then(|link| link.parse().ok()) {
                    node.addresses.insert(link, address);
                }
            }
            _ => {}
        }
    }
    Ok(nodes)
}

/// Where cmap has the nodes that joined, from 2.99 on and before.
const JOINED: [&str; 2] = ["runtime.members", "runtime.totem.pg.mrp.srp.members"];

/// The members as totem knows them.
fn joined_members(cmap: &cmap::Client) -> Result<Vec<NodeId>, Failure> {
    for members in JOINED {
        let entries = cmap.list(&format!("{members}."))?;
        let joined = entries.iter().filter(|(_, value)| *value == Value::from("joined"));
        let id = |key: &str| key.strip_prefix(members)?.strip_prefix('.')?.strip_suffix(".status")?.parse().ok();
        let mut found: Vec<NodeId> = joined.filter_map(|(key, _)| id(key)).map(NodeId).collect();
        if !found.is_empty() {
            found.sort_unstable();
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// The addresses with which a node joined, for one that is not in the list of nodes.
fn joined_addresses(cmap: &cmap::Client, node: NodeId) -> Result<Vec<String>, Failure> {
    for members in JOINED {
        if let Some(ip) = text(cmap, &format!("{members}.{node}.ip"))? {
            return Ok(parse_joined(&ip));
        }
    }
    Ok(Vec::new())
}

/// `r(0) ip(10.0.0.1) r(1) ip(10.0.1.1) `
fn parse_joined(text: &str) -> Vec<String> {
    text.split("ip(").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

fn text(cmap: &cmap::Client, key: &str) -> Result<Option<String>, Failure> {
    Ok(match cmap.get(key)? {
        Some(Value::String(text)) => Some(text),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_joined_node_are_found() {
        assert_eq!(parse_joined("r(0) ip(10.0.0.1) r(1) ip(fd00::1) "), ["10.0.0.1", "fd00::1"]);
        assert!(parse_joined("").is_empty() && parse_joined("r(0) ip(").is_empty());
    }
}
