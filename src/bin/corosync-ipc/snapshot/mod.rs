//! The cluster as this node sees it at one moment, collected from quorum, votequorum and cmap.

pub(crate) mod links;
pub(crate) mod report;
pub(crate) mod services;

use std::collections::BTreeMap;
use std::mem;
use std::thread;
use std::time::Instant;

use corosync_ipc::cfg;
use corosync_ipc::cmap::{self, Value};
use corosync_ipc::quorum::{self, Model, QuorumType};
use corosync_ipc::votequorum::{self, Info, InfoFlags, QDEVICE_NODE_ID};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, RingId, TrackFlags, within};

use self::services::{ask, join};
use crate::failure::{Failure, Fault, Faults};

/// How often to look again while the membership changes under the questions.
const ROUNDS: usize = 5;

/// The cluster as this node sees it. Parts that a service did not report are missing, and `faults`
/// says why.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) node_id: Option<NodeId>,
    pub(crate) cluster_name: Option<String>,
    /// `None`: every partition is quorate, unless cmap failed.
    pub(crate) provider: Option<String>,
    /// `None`: quorum failed.
    pub(crate) view: Option<View>,
    /// `None` without votequorum.
    pub(crate) votes: Option<Info>,
    /// The members, in the order corosync gives.
    pub(crate) members: Vec<Node>,
    /// Nodes that are configured, or were members, and are not. None where it is not known who is
    /// a member.
    pub(crate) absent: Vec<Node>,
    /// By service.
    pub(crate) faults: Faults,
}

/// The report of the quorum service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) quorate: bool,
    /// `None` if no service reports it: corosync before 3.1 without a quorum provider.
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
    addresses: BTreeMap<u8, String>,
}

impl From<RingId> for Ring {
    fn from(ring: RingId) -> Self {
        Self { node_id: Some(ring.node_id), seq: ring.seq }
    }
}

impl Snapshot {
    /// Asks the services, all at once and until the deadline, and again until two answers in a row
    /// name the same ring. Fails when none of them answers.
    pub(crate) fn take(endpoint: &Endpoint, deadline: Instant) -> Result<Self, Failure> {
        let mut sources = Sources::default();
        let mut answers = sources.ask_all(endpoint, deadline);
        for _ in 0..ROUNDS {
            if Instant::now() >= deadline {
                break;
            }
            let view =
                within(deadline, || sources.quorum.ask(|quorum| present_state(quorum, deadline)));
            if view.is_none() || view == answers.view {
                // It is unknown whether the state is still the same.
                answers.view = view;
                break;
            }
            answers = sources.ask_all(endpoint, deadline);
        }
        let node_id = within(deadline, || sources.node_id(endpoint, &answers));
        let answered = sources.answered();
        let mut snapshot = answers.combine(node_id);
        snapshot.faults = sources.faults(node_id);
        if snapshot.faults.get(VOTEQUORUM).is_some() {
            snapshot.forget_votes();
        }
        if answered { Ok(snapshot) } else { snapshot.faults.judge(false).map(|()| snapshot) }
    }

    /// This node, if it is known.
    pub(crate) fn local(&self) -> Option<&Node> {
        self.members.iter().chain(&self.absent).find(|node| node.local)
    }

    /// Whether a quorum device is registered at this node.
    pub(crate) fn has_qdevice(&self) -> bool {
        self.votes.as_ref().is_some_and(|votes| votes.flags.contains(InfoFlags::QDEVICE_REGISTERED))
    }

    /// Whether votequorum is configured; `None` if cmap does not answer.
    pub(crate) fn has_votequorum(&self) -> Option<bool> {
        self.faults.get(CMAP).is_none().then(|| services::is_votequorum(self.provider.as_deref()))
    }

    /// Drops what votequorum reported before it failed.
    fn forget_votes(&mut self) {
        self.votes = None;
        self.members.iter_mut().chain(&mut self.absent).for_each(|node| node.votes = None);
    }
}

/// A service that is asked until it fails.
#[derive(Debug)]
struct Source<C> {
    /// `None` before it was connected to, once it failed, and where it is not configured.
    client: Option<C>,
    connected: bool,
    answered: bool,
    fault: Option<Fault>,
}

impl<C> Default for Source<C> {
    fn default() -> Self {
        Self { client: None, connected: false, answered: false, fault: None }
    }
}

impl<C> Source<C> {
    /// Connects, once. `None`: the service is not configured.
    fn connect(&mut self, connect: impl FnOnce() -> Result<Option<C>, Error>) {
        if mem::replace(&mut self.connected, true) {
            return;
        }
        match connect() {
            Ok(client) => self.client = client,
            Err(error) => self.fault = Some(Fault::from(&error)),
        }
    }

    /// `None` where there is no answer, which the fault explains unless the service is not
    /// configured.
    fn ask<T>(&mut self, question: impl FnOnce(&C) -> Result<T, Error>) -> Option<T> {
        match question(self.client.as_ref()?) {
            Ok(answer) => {
                self.answered = true;
                Some(answer)
            }
            Err(error) => {
                self.fault = Some(Fault::from(&error));
                self.client = None;
                None
            }
        }
    }
}

/// Names of the parts.
pub(crate) const CMAP: &str = "cmap";
const VOTEQUORUM: &str = "votequorum";

/// The services that a snapshot is made from.
#[derive(Debug, Default)]
struct Sources {
    cmap: Source<cmap::Client>,
    quorum: Source<quorum::Client>,
    votequorum: Source<votequorum::Client>,
    /// Asked where votequorum does not say who the local node is.
    cfg: Source<cfg::Client>,
}

/// The answers of the services, independent of each other.
struct Answers {
    map: MapAnswer,
    view: Option<Told>,
    votes: VotesAnswer,
}

/// What the quorum service said.
#[derive(PartialEq)]
struct Told {
    view: View,
    /// Whether there is a quorum provider. Ring and members come from it; without one they stay
    /// empty in the view.
    has_provider: bool,
    /// Model v1 only.
    nodelist: Option<quorum::NodelistNotification>,
}

/// What cmap said.
#[derive(Default)]
struct MapAnswer {
    /// By position.
    configured: BTreeMap<u32, Configured>,
    local_position: Option<u32>,
    joined: BTreeMap<NodeId, Joined>,
    cluster_name: Option<String>,
    provider: Option<String>,
}

/// What votequorum said.
#[derive(Default)]
struct VotesAnswer {
    local: Option<Info>,
    /// The nodes it knows, this one and those that left included.
    nodes: BTreeMap<NodeId, Option<Info>>,
    rings: Vec<RingId>,
}

impl Sources {
    fn ask_all(&mut self, endpoint: &Endpoint, deadline: Instant) -> Answers {
        let Self { cmap, quorum, votequorum, .. } = self;
        thread::scope(|scope| {
            let map = ask(scope, deadline, || MapAnswer::of(cmap, endpoint));
            let view = ask(scope, deadline, || ask_quorum(quorum, endpoint, deadline));
            let votes = ask(scope, deadline, || VotesAnswer::of(votequorum, endpoint));
            Answers { map: join(map), view: join(view), votes: join(votes) }
        })
    }

    fn answered(&self) -> bool {
        self.cmap.answered || self.quorum.answered || self.votequorum.answered || self.cfg.answered
    }

    fn node_id(&mut self, endpoint: &Endpoint, answers: &Answers) -> Option<NodeId> {
        if let Some(info) = &answers.votes.local {
            return Some(info.node_id);
        }
        self.cfg.connect(|| cfg::Client::connect_to(endpoint).map(Some));
        let local = self.cfg.ask(cfg::Client::local_node_id);
        // Not first, since it is what is configured by now.
        local.or_else(|| answers.map.configured.get(&answers.map.local_position?)?.node_id)
    }

    fn faults(self, node_id: Option<NodeId>) -> Faults {
        let mut faults = Faults::default();
        let all = [
            (CMAP, self.cmap.fault),
            ("quorum", self.quorum.fault),
            (VOTEQUORUM, self.votequorum.fault),
            // Nothing else was asked of it.
            ("cfg", self.cfg.fault.filter(|_| node_id.is_none())),
        ];
        for (name, fault) in all {
            if let Some(fault) = fault {
                faults.add(name, fault);
            }
        }
        faults
    }
}

/// The present state in the newest model the daemon is known to have.
fn ask_quorum(
    source: &mut Source<quorum::Client>,
    endpoint: &Endpoint,
    deadline: Instant,
) -> Option<Told> {
    let present_state = |quorum: &_| present_state(quorum, deadline);
    if source.connected {
        return source.ask(present_state);
    }
    // Every daemon has model v0. Only cmap says whether it has v1, which may fail or take all the
    // time there is.
    source.connect(|| quorum::Client::connect_to(endpoint).map(Some));
    let reported = source.ask(present_state)?;
    let Ok(newer) = quorum::Client::connect_with(endpoint, quorum::Options::new().model(Model::V1))
    else {
        return Some(reported);
    };
    match present_state(&newer) {
        Ok(newest) => {
            source.client = Some(newer);
            Some(newest)
        }
        Err(_) => Some(reported),
    }
}

impl MapAnswer {
    fn of(cmap: &mut Source<cmap::Client>, endpoint: &Endpoint) -> Self {
        cmap.connect(|| cmap::Client::connect_to(endpoint).map(Some));
        Self {
            configured: cmap.ask(configured_nodes).unwrap_or_default(),
            cluster_name: cmap.ask(|cmap| text(cmap, "totem.cluster_name")).flatten(),
            provider: cmap.ask(|cmap| text(cmap, "quorum.provider")).flatten(),
            joined: cmap.ask(joined).unwrap_or_default(),
            local_position: cmap.ask(|cmap| cmap.get_as("nodelist.local_node_pos")).flatten(),
        }
    }
}

impl VotesAnswer {
    fn of(votequorum: &mut Source<votequorum::Client>, endpoint: &Endpoint) -> Self {
        votequorum.connect(|| connect_votequorum(endpoint));
        let mut answer =
            Self { local: votequorum.ask(votequorum::Client::local_info), ..Self::default() };
        for event in votequorum.ask(votequorum_events).unwrap_or_default() {
            match event {
                votequorum::Event::Quorum(votequorum::QuorumNotification { nodes, .. }) => {
                    answer.nodes.extend(nodes.iter().map(|node| (node.node_id, None)));
                }
                votequorum::Event::Nodelist(votequorum::NodelistNotification {
                    ring_id, ..
                }) => answer.rings.push(ring_id),
                _ => {}
            }
        }
        answer.nodes.remove(&QDEVICE_NODE_ID);
        for (node, votes) in &mut answer.nodes {
            *votes = votequorum.ask(|client| info(client, *node)).flatten();
        }
        answer
    }
}

impl Answers {
    fn combine(self, node_id: Option<NodeId>) -> Snapshot {
        let Self { map, view, mut votes } = self;
        let mut snapshot = Snapshot {
            cluster_name: map.cluster_name,
            provider: map.provider,
            node_id,
            votes: votes.local,
            ..Snapshot::default()
        };
        let Some(Told { mut view, has_provider, nodelist }) = view else { return snapshot };
        if !has_provider {
            (view.ring, view.members) = match nodelist {
                Some(nodelist) => (Some(nodelist.ring_id.into()), nodelist.members),
                None => (
                    None,
                    map.joined
                        .iter()
                        .filter(|(_, it)| it.is_member)
                        .map(|(node, _)| *node)
                        .collect(),
                ),
            };
        }
        // Model v0 reports half of the ring's id; votequorum may know the other half.
        if let Some(Ring { node_id: None, seq }) = view.ring {
            if let Some(ring) = votes.rings.iter().find(|ring| ring.seq == seq) {
                view.ring = Some((*ring).into());
            }
        }
        let mut known: Vec<NodeId> =
            map.configured.values().filter_map(|node| node.node_id).collect();
        known.extend(votes.nodes.keys());
        known.retain(|node| !view.members.contains(node));
        known.sort_unstable();
        known.dedup();
        let mut node = |id: &NodeId| {
            let found = map.configured.values().find(|node| node.node_id == Some(*id));
            let configured = found.map(|node| node.addresses.values().cloned().collect());
            let joined =
                || map.joined.get(id).map(|joined| joined.addresses.values().cloned().collect());
            let addresses =
                configured.filter(|addresses: &Vec<_>| !addresses.is_empty()).or_else(joined);
            Node {
                node_id: *id,
                name: found.and_then(|node| node.name.clone()),
                addresses: addresses.unwrap_or_default(),
                local: Some(*id) == node_id,
                votes: votes.nodes.remove(id).flatten(),
            }
        };
        snapshot.members = view.members.iter().map(&mut node).collect();
        snapshot.absent = known.iter().map(node).collect();
        snapshot.view = Some(view);
        snapshot
    }
}

/// The present state of the quorum service, and the list of nodes where it comes by
/// itself.
fn present_state(quorum: &quorum::Client, deadline: Instant) -> Result<Told, Error> {
    quorum.track_start(TrackFlags::CURRENT)?;
    let has_provider = quorum.quorum_type() != QuorumType::FREE;
    loop {
        let (quorate, ring, members, nodelist) = match quorum.next_event(deadline)? {
            Some(quorum::Event::Quorum(event)) => {
                (event.quorate, event.ring_id.into(), event.members, event.nodelist)
            }
            Some(quorum::Event::Notification(event)) => {
                (event.quorate, Ring { node_id: None, seq: event.ring_seq }, event.members, None)
            }
            Some(_) => continue,
            None => {
                let operation = "waiting for the state of quorum".into();
                return Err(Error::TimedOut {
                    operation,
                    after: quorum.request_timeout(),
                    stage: None,
                });
            }
        };
        return Ok(Told {
            view: View { quorate, ring: Some(ring), members },
            has_provider,
            nodelist,
        });
    }
}

/// Connects with the newest model the daemon is known to have.
pub(crate) fn connect_quorum(endpoint: &Endpoint) -> Result<quorum::Client, Error> {
    // Whatever cmap fails with, that the daemon is asked with care must not keep anybody from it.
    quorum::Client::connect_with(endpoint, quorum::Options::new().model(Model::V1))
        .or_else(|_| quorum::Client::connect_to(endpoint))
}

/// `None` where it is not the configured provider.
pub(crate) fn connect_votequorum(endpoint: &Endpoint) -> Result<Option<votequorum::Client>, Error> {
    match votequorum::Client::connect_to(endpoint) {
        Err(error @ Error::NoSocket { .. }) => {
            match services::has_votequorum(endpoint) {
                Ok(false) => Ok(None),
                // It should exist, or it is unknown whether it should.
                _ => Err(error),
            }
        }
        client => client.map(Some),
    }
}

/// Votes and state of a node; `None` if it was never a member.
fn info(client: &votequorum::Client, node: NodeId) -> Result<Option<Info>, Error> {
    match client.info(node) {
        Err(Error::Cs { error: CsError::NotExist, .. }) => Ok(None),
        info => Ok(Some(info?)),
    }
}

/// The present state of votequorum.
fn votequorum_events(client: &votequorum::Client) -> Result<Vec<votequorum::Event>, Error> {
    client.track_start(0, TrackFlags::CURRENT)?;
    let mut events = Vec::new();
    while let Some(event) = client.poll_event()? {
        events.push(event);
    }
    Ok(events)
}

/// The local node, those that are configured, and where the id of one is not (or none is), those
/// that joined, with their names.
pub(crate) fn known_nodes(
    cmap: &cmap::Client,
    local: NodeId,
) -> Result<BTreeMap<NodeId, Option<String>>, Error> {
    let mut known = BTreeMap::from([(local, None)]);
    let configured = configured_nodes(cmap)?;
    if configured.is_empty() || configured.values().any(|node| node.node_id.is_none()) {
        known.extend(
            joined(cmap)?.into_iter().filter(|(_, it)| it.is_member).map(|(node, _)| (node, None)),
        );
    }
    known.extend(configured.into_values().filter_map(|node| Some((node.node_id?, node.name))));
    Ok(known)
}

/// What is configured for this node, by link.
pub(crate) fn local_addresses(
    cmap: &cmap::Client,
    local: NodeId,
) -> Result<BTreeMap<u8, String>, Error> {
    let mut configured = configured_nodes(cmap)?;
    let position = cmap.get_as::<u32>("nodelist.local_node_pos")?;
    let node = position.and_then(|position| configured.remove(&position));
    let node = node.or_else(|| configured.into_values().find(|node| node.node_id == Some(local)));
    // A daemon keeps its state from the start, even if the list has changed.
    node.map_or_else(|| joined_addresses(cmap, local), |node| Ok(node.addresses))
}

/// All addresses of a node that the map has, the configured ones first.
pub(crate) fn all_addresses(cmap: &cmap::Client, node: NodeId) -> Result<Vec<String>, Error> {
    let configured = configured_nodes(cmap)?.into_values().filter(|one| one.node_id == Some(node));
    let configured: Vec<String> = configured.flat_map(|one| one.addresses.into_values()).collect();
    Ok(configured.into_iter().chain(joined_addresses(cmap, node)?.into_values()).collect())
}

/// The nodes of `nodelist.node.POSITION.*`, by position.
fn configured_nodes(cmap: &cmap::Client) -> Result<BTreeMap<u32, Configured>, Error> {
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

/// A node that joined, as totem knows it.
#[derive(Default)]
struct Joined {
    /// Not where it left.
    is_member: bool,
    /// With which it joined, by link.
    addresses: BTreeMap<u8, String>,
}

/// The nodes that joined since the daemon started.
fn joined(cmap: &cmap::Client) -> Result<BTreeMap<NodeId, Joined>, Error> {
    let mut joined: BTreeMap<NodeId, Joined> = BTreeMap::new();
    for members in JOINED {
        for (key, value) in cmap.list(&format!("{members}."))? {
            let rest = key.strip_prefix(members).and_then(|rest| rest.strip_prefix('.'));
            let Some((Ok(node), field)) =
                rest.and_then(|rest| rest.split_once('.')).map(|(id, field)| (id.parse(), field))
            else {
                continue;
            };
            let node = joined.entry(NodeId(node)).or_default();
            match (field, value) {
                ("status", Value::String(status)) => node.is_member = status == "joined",
                ("ip", Value::String(ip)) => node.addresses = parse_joined(&ip),
                _ => {}
            }
        }
        if !joined.is_empty() {
            break;
        }
    }
    Ok(joined)
}

/// The addresses with which a node joined, by link, for one that is not in the list of nodes.
fn joined_addresses(cmap: &cmap::Client, node: NodeId) -> Result<BTreeMap<u8, String>, Error> {
    Ok(joined(cmap)?.remove(&node).unwrap_or_default().addresses)
}

/// `r(0) ip(10.0.0.1) r(1) ip(10.0.1.1) `
fn parse_joined(text: &str) -> BTreeMap<u8, String> {
    let link = |link: &str| {
        let (number, rest) = link.split_once(')')?;
        let (address, _) = rest.trim_start().strip_prefix("ip(")?.split_once(')')?;
        Some((number.parse().ok()?, address.to_owned()))
    };
    text.split("r(").filter_map(link).collect()
}

fn text(cmap: &cmap::Client, key: &str) -> Result<Option<String>, Error> {
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
        let links = [(0, "10.0.0.1".to_owned()), (3, "fd00::1".to_owned())];
        assert_eq!(parse_joined("r(0) ip(10.0.0.1) r(3) ip(fd00::1) "), links.into());
        for text in ["", "r(0) ip(", "r(256) ip(10.0.0.1)", "ip(10.0.0.1)"] {
            assert!(parse_joined(text).is_empty(), "{text}");
        }
    }
}
