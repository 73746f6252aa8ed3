//! The cluster as this node sees it at one moment, collected from quorum, votequorum and cmap.

pub(crate) mod links;
pub(crate) mod report;
pub(crate) mod services;

use std::collections::BTreeMap;
use std::thread::{self, ScopedJoinHandle};

use corosync_ipc::cfg;
use corosync_ipc::cmap::{self, Value};
use corosync_ipc::quorum::{self, Model, QuorumType};
use corosync_ipc::votequorum::{self, Info, InfoFlags, QDEVICE_NODE_ID};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, RingId, TrackFlags};

use crate::failure::{Failure, Fault, Faults};

/// How often to look again while the membership changes under the questions.
const ROUNDS: usize = 5;

/// The cluster as this node sees it. What a service did not tell is missing, and `faults` says why.
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
    /// Nodes that are configured, or were members, and are not. None where it is not known who is a member.
    pub(crate) absent: Vec<Node>,
    /// By service.
    pub(crate) faults: Faults,
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
    addresses: BTreeMap<u8, String>,
}

impl From<RingId> for Ring {
    fn from(ring: RingId) -> Self {
        Self { node_id: Some(ring.node_id), seq: ring.seq }
    }
}

impl Snapshot {
    /// Asks the services until two answers in a row name the same ring. Fails when none of them answers.
    pub(crate) fn take(endpoint: &Endpoint) -> Result<Self, Failure> {
        let mut sources = Sources::connect(endpoint);
        let node_id = sources.node_id(endpoint);
        let mut view = sources.view();
        let mut snapshot = sources.collect(node_id, view.clone());
        for _ in 0..ROUNDS {
            let now = sources.view();
            if now == view {
                break;
            }
            view = now;
            snapshot = sources.collect(node_id, view.clone());
        }
        let answered = sources.answered();
        snapshot.faults = sources.faults();
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

    /// Whether votequorum is configured; `None` where cmap does not tell.
    pub(crate) fn has_votequorum(&self) -> Option<bool> {
        self.faults.get(CMAP).is_none().then(|| services::is_votequorum(self.provider.as_deref()))
    }

    /// Rather nothing than what votequorum told before it failed.
    fn forget_votes(&mut self) {
        self.votes = None;
        self.members.iter_mut().chain(&mut self.absent).for_each(|node| node.votes = None);
    }
}

/// A service that is asked until it fails.
#[derive(Debug)]
struct Source<C> {
    name: &'static str,
    /// `None` once it failed, and where it is not configured.
    client: Option<C>,
    answered: bool,
    fault: Option<Fault>,
}

impl<C> Source<C> {
    fn new(name: &'static str, connected: Result<Option<C>, Error>) -> Self {
        let fault = connected.as_ref().err().map(Fault::from);
        Self { name, client: connected.ok().flatten(), answered: false, fault }
    }

    /// `None` where there is no answer, which the fault explains unless the service is not configured.
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
const CMAP: &str = "cmap";
const VOTEQUORUM: &str = "votequorum";

/// The services that a snapshot is made from.
#[derive(Debug)]
struct Sources {
    cmap: Source<cmap::Client>,
    quorum: Source<quorum::Client>,
    votequorum: Source<votequorum::Client>,
    /// Asked where votequorum does not say who the local node is.
    cfg: Source<cfg::Client>,
}

impl Sources {
    /// Connects at once to all, so that a daemon that is stopped costs one timeout.
    fn connect(endpoint: &Endpoint) -> Self {
        thread::scope(|scope| {
            let cmap = scope.spawn(|| cmap::Client::connect_to(endpoint));
            let quorum = scope.spawn(|| connect_quorum(endpoint));
            let votequorum = scope.spawn(|| connect_votequorum(endpoint));
            Self {
                cmap: Source::new(CMAP, join(cmap).map(Some)),
                quorum: Source::new("quorum", join(quorum).map(Some)),
                votequorum: Source::new(VOTEQUORUM, join(votequorum)),
                cfg: Source::new("cfg", Ok(None)),
            }
        })
    }

    fn answered(&self) -> bool {
        self.cmap.answered || self.quorum.answered || self.votequorum.answered || self.cfg.answered
    }

    fn faults(self) -> Faults {
        let mut faults = Faults::default();
        let all = [
            (self.cmap.name, self.cmap.fault),
            (self.quorum.name, self.quorum.fault),
            (self.votequorum.name, self.votequorum.fault),
            (self.cfg.name, self.cfg.fault),
        ];
        for (name, fault) in all {
            if let Some(fault) = fault {
                faults.add(name, fault);
            }
        }
        faults
    }

    fn node_id(&mut self, endpoint: &Endpoint) -> Option<NodeId> {
        if let Some(info) = self.votequorum.ask(votequorum::Client::local_info) {
            return Some(info.node_id);
        }
        // Where nobody is reached so far cfg would cost another timeout.
        if self.cmap.client.is_none() && self.quorum.client.is_none() {
            return None;
        }
        self.cfg = Source::new("cfg", cfg::Client::connect_to(endpoint).map(Some));
        self.cfg.ask(cfg::Client::local_node_id)
    }

    fn view(&mut self) -> Option<View> {
        let (mut view, nodelist) = self.quorum.ask(present_state)?;
        if self.quorum.client.as_ref().is_some_and(|quorum| quorum.quorum_type() == QuorumType::FREE) {
            // Ring and members come from the provider; without one they stay empty there.
            (view.ring, view.members) = match nodelist {
                Some(nodelist) => (Some(nodelist.ring_id.into()), nodelist.member_list),
                None => (None, self.cmap.ask(joined_members).unwrap_or_default()),
            };
        }
        // Model v0 tells half of the ring's id; votequorum may know the other.
        if let Some(Ring { node_id: None, seq }) = view.ring {
            for event in self.votequorum.ask(votequorum_events).unwrap_or_default() {
                match event {
                    votequorum::Event::Nodelist { ring_id, .. } if ring_id.seq == seq => {
                        view.ring = Some(ring_id.into());
                    }
                    _ => {}
                }
            }
        }
        Some(view)
    }

    fn collect(&mut self, node_id: Option<NodeId>, view: Option<View>) -> Snapshot {
        let configured = self.cmap.ask(configured_nodes).unwrap_or_default();
        let votes = self.votequorum.ask(votequorum::Client::local_info);
        let mut snapshot = Snapshot {
            cluster_name: self.cmap.ask(|cmap| text(cmap, "totem.cluster_name")).flatten(),
            provider: self.cmap.ask(|cmap| text(cmap, "quorum.provider")).flatten(),
            node_id,
            votes,
            ..Snapshot::default()
        };
        let Some(view) = view else { return snapshot };
        let mut known: Vec<NodeId> = configured.values().filter_map(|node| node.node_id).collect();
        known.extend(self.votequorum.ask(known_to_votequorum).unwrap_or_default());
        known.retain(|node| !view.members.contains(node) && *node != QDEVICE_NODE_ID);
        known.sort_unstable();
        known.dedup();
        let mut node = |id: &NodeId| {
            let found = configured.values().find(|node| node.node_id == Some(*id));
            let mut addresses: Vec<_> =
                found.map(|node| node.addresses.values().cloned().collect()).unwrap_or_default();
            if addresses.is_empty() {
                let joined = self.cmap.ask(|cmap| joined_addresses(cmap, *id)).unwrap_or_default();
                addresses = joined.into_values().collect();
            }
            let votes = self.votequorum.ask(|client| info(client, *id)).flatten();
            let name = found.and_then(|node| node.name.clone());
            Node { node_id: *id, name, addresses, local: Some(*id) == node_id, votes }
        };
        snapshot.members = view.members.iter().map(&mut node).collect();
        snapshot.absent = known.iter().map(node).collect();
        snapshot.view = Some(view);
        snapshot
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The present state, as the quorum service tells it, and the list of nodes where it comes by itself.
fn present_state(quorum: &quorum::Client) -> Result<(View, Option<quorum::NodelistNotification>), Error> {
    quorum.track_start(TrackFlags::CURRENT)?;
    let timeout = quorum.request_timeout();
    loop {
        match quorum.next_event(timeout)? {
            Some(quorum::Event::Quorum(event)) => {
                let ring = Some(event.ring_id.into());
                return Ok((View { quorate: event.quorate, ring, members: event.members }, event.nodelist));
            }
            Some(quorum::Event::Notification(event)) => {
                let ring = Some(Ring { node_id: None, seq: event.ring_seq });
                return Ok((View { quorate: event.quorate, ring, members: event.members }, None));
            }
            Some(_) => {}
            None => {
                return Err(Error::TimedOut { operation: "waiting for the state of quorum".into(), after: timeout });
            }
        }
    }
}

/// Connects with the newest model the daemon has.
pub(crate) fn connect_quorum(endpoint: &Endpoint) -> Result<quorum::Client, Error> {
    match quorum::Client::connect_model(endpoint, Model::V1) {
        Err(Error::Unsupported { .. }) => quorum::Client::connect_model(endpoint, Model::V0),
        client => client,
    }
}

/// `None` where it is not the configured provider.
pub(crate) fn connect_votequorum(endpoint: &Endpoint) -> Result<Option<votequorum::Client>, Error> {
    match votequorum::Client::connect_to(endpoint) {
        Err(error @ Error::NoSocket { .. }) => {
            match services::has_votequorum(endpoint) {
                Ok(false) => Ok(None),
                // It should be there, or nobody tells whether it should.
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

/// The present state, as votequorum tells it.
fn votequorum_events(client: &votequorum::Client) -> Result<Vec<votequorum::Event>, Error> {
    client.track_start(0, TrackFlags::CURRENT)?;
    let mut events = Vec::new();
    while let Some(event) = client.poll_event()? {
        events.push(event);
    }
    Ok(events)
}

fn known_to_votequorum(client: &votequorum::Client) -> Result<Vec<NodeId>, Error> {
    let mut known = Vec::new();
    for event in votequorum_events(client)? {
        if let votequorum::Event::Quorum { nodes, .. } = event {
            known.extend(nodes.iter().map(|node| node.node_id));
        }
    }
    Ok(known)
}

/// The local node, those that are configured, and where the id of one is not (or none is), those that joined, with their names.
pub(crate) fn known_nodes(cmap: &cmap::Client, local: NodeId) -> Result<BTreeMap<NodeId, Option<String>>, Error> {
    let mut known = BTreeMap::from([(local, None)]);
    let configured = configured_nodes(cmap)?;
    if configured.is_empty() || configured.values().any(|node| node.node_id.is_none()) {
        known.extend(joined_members(cmap)?.into_iter().map(|node| (node, None)));
    }
    known.extend(configured.into_values().filter_map(|node| Some((node.node_id?, node.name))));
    Ok(known)
}

/// What is configured for this node, by link.
pub(crate) fn local_addresses(cmap: &cmap::Client, local: NodeId) -> Result<BTreeMap<u8, String>, Error> {
    let mut configured = configured_nodes(cmap)?;
    let position = cmap.get_as::<u32>("nodelist.local_node_pos")?;
    let node = position.and_then(|position| configured.remove(&position));
    let node = node.or_else(|| configured.into_values().find(|node| node.node_id == Some(local)));
    // A daemon goes on as it started, whatever became of the list.
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

/// The members as totem knows them.
fn joined_members(cmap: &cmap::Client) -> Result<Vec<NodeId>, Error> {
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

/// The addresses with which a node joined, by link, for one that is not in the list of nodes.
fn joined_addresses(cmap: &cmap::Client, node: NodeId) -> Result<BTreeMap<u8, String>, Error> {
    for members in JOINED {
        if let Some(ip) = text(cmap, &format!("{members}.{node}.ip"))? {
            return Ok(parse_joined(&ip));
        }
    }
    Ok(BTreeMap::new())
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
