//! The services that a snapshot is made from, and their answers.

use std::collections::BTreeMap;
use std::mem;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use super::services::{ask, is_votequorum, join, told_in_time};
use super::{Faults, Peer, part};
use crate::cfg;
use crate::client::ServiceClient;
use crate::cmap::{self, Nodelist, Value};
use crate::endpoint::Endpoint;
use crate::error::{CsError, Error, Result};
use crate::features::{Generation, QUORUM_MODEL_V1};
use crate::libqb::client::{Call, within};
use crate::quorum::{self, Membership};
use crate::snapshot::Fault;
use crate::votequorum::{self, Info, QDEVICE_NODE_ID};
use crate::wire::values::{NodeId, RingId, TrackFlags};

/// A service that is asked until it fails.
#[derive(Debug)]
pub(super) struct Source<C> {
    /// `None` before it was connected to, once it failed, and where it is not configured.
    client: Option<C>,
    connected: bool,
    answered: bool,
    fault: Option<Fault>,
    /// Who answered.
    peer: Option<Peer>,
}

impl<C> Default for Source<C> {
    fn default() -> Self {
        Self { client: None, connected: false, answered: false, fault: None, peer: None }
    }
}

impl<C: ServiceClient> Source<C> {
    /// Connects, once. `None`: the service is not configured.
    fn connect(&mut self, connect: impl FnOnce() -> Result<Option<C>>) {
        if mem::replace(&mut self.connected, true) {
            return;
        }
        match connect() {
            Ok(client) => {
                self.peer = client.as_ref().map(Peer::of);
                self.client = client;
            }
            Err(error) => self.fault = Some(error.into()),
        }
    }

    /// `None` where there is no answer, which the fault explains unless the service is not
    /// configured.
    fn ask<T>(&mut self, question: impl FnOnce(&C) -> Result<T>) -> Option<T> {
        match question(self.client.as_ref()?) {
            Ok(answer) => {
                self.answered = true;
                Some(answer)
            }
            Err(error) => {
                self.fault = Some(error.into());
                self.client = None;
                None
            }
        }
    }
}

/// The services that a snapshot is made from.
#[derive(Debug, Default)]
pub(super) struct Sources {
    cmap: Source<cmap::Client>,
    quorum: Source<quorum::Client>,
    votequorum: Source<votequorum::Client>,
    /// Asked where votequorum does not say who the local node is.
    cfg: Source<cfg::Client>,
}

/// The answers of the services, independent of each other.
pub(super) struct Answers {
    pub(super) map: MapAnswer,
    pub(super) membership: Option<Membership>,
    pub(super) votes: VotesAnswer,
}

/// What cmap said.
#[derive(Default)]
pub(super) struct MapAnswer {
    pub(super) nodelist: Nodelist,
    pub(super) joined: BTreeMap<NodeId, Joined>,
    pub(super) cluster_name: Option<String>,
    pub(super) provider: Option<String>,
    pub(super) config_version: Option<u64>,
    pub(super) reload_error: Option<String>,
    pub(super) generation: Option<Generation>,
}

/// What votequorum said.
#[derive(Default)]
pub(super) struct VotesAnswer {
    pub(super) local: Option<Info>,
    /// The nodes it knows, this one and those that left included.
    pub(super) nodes: BTreeMap<NodeId, Option<Info>>,
    pub(super) rings: Vec<RingId>,
}

impl Sources {
    pub(super) fn ask_all(&mut self, endpoint: &Endpoint, deadline: Instant) -> Answers {
        let Self { cmap, quorum, votequorum, .. } = self;
        let (tell_votequorum, has_votequorum) = mpsc::channel();
        let (tell_model, has_model_v1) = mpsc::channel();
        let (map, votes) = (&mut *cmap, &mut *votequorum);
        let answers = thread::scope(|scope| {
            let map = ask(scope, deadline, move || {
                MapAnswer::of(map, endpoint, tell_votequorum, tell_model)
            });
            let votes = ask(scope, deadline, move || {
                votes.connect(|| match told_in_time(&has_votequorum, deadline) {
                    Some(false) => Ok(None),
                    _ => votequorum::Client::connect_to(endpoint).map(Some),
                });
                VotesAnswer::of(votes)
            });
            let membership =
                within(deadline, || ask_quorum(quorum, endpoint, deadline, &has_model_v1));
            Answers { membership, map: join(map), votes: join(votes) }
        });
        if cmap.fault.is_none() && !is_votequorum(answers.map.provider.as_deref()) {
            // cmap said so when votequorum was asked already.
            votequorum.fault = None;
        }
        answers
    }

    /// What quorum says by now, if it was asked before.
    pub(super) fn membership_again(&mut self, deadline: Instant) -> Option<Membership> {
        self.quorum.ask(|quorum| quorum.present(deadline))
    }

    pub(super) fn answered(&self) -> bool {
        self.cmap.answered || self.quorum.answered || self.votequorum.answered || self.cfg.answered
    }

    /// Who answered.
    pub(super) fn peer(&self) -> Option<Peer> {
        self.cmap.peer.or(self.quorum.peer).or(self.votequorum.peer).or(self.cfg.peer)
    }

    pub(super) fn node_id(&mut self, endpoint: &Endpoint, answers: &Answers) -> Option<NodeId> {
        if let Some(info) = &answers.votes.local {
            return Some(info.node_id);
        }
        self.cfg.connect(|| cfg::Client::connect_to(endpoint).map(Some));
        let local = self.cfg.ask(cfg::Client::local_node_id);
        // Not first, since it is what is configured by now.
        local.or_else(|| answers.map.nodelist.local()?.node_id)
    }

    pub(super) fn faults(self, node_id: Option<NodeId>) -> Faults {
        let all = [
            (part::CMAP, self.cmap.fault),
            (part::QUORUM, self.quorum.fault),
            (part::VOTEQUORUM, self.votequorum.fault),
            // Nothing else was asked of it.
            (part::CFG, self.cfg.fault.filter(|_| node_id.is_none())),
        ];
        all.into_iter().filter_map(|(name, fault)| Some((name.to_owned(), fault?))).collect()
    }
}

/// The present state in the newest model the daemon is known to have.
fn ask_quorum(
    source: &mut Source<quorum::Client>,
    endpoint: &Endpoint,
    deadline: Instant,
    has_model_v1: &Receiver<bool>,
) -> Option<Membership> {
    source.connect(|| {
        // Only cmap says whether the daemon has model v1. It may fail or take all the time there is,
        // and every daemon has v0.
        if told_in_time(has_model_v1, deadline) == Some(true) {
            let options = quorum::Options::new().model(quorum::Model::V1);
            let call = Call::connecting(endpoint);
            if let Ok(client) = quorum::Client::connect_known(endpoint, options, call) {
                return Ok(Some(client));
            }
        }
        quorum::Client::connect_to(endpoint).map(Some)
    });
    source.ask(|quorum| quorum.present(deadline))
}

impl MapAnswer {
    /// Tells whether votequorum is configured, and whether quorum has model v1, as soon as that is
    /// known.
    fn of(
        cmap: &mut Source<cmap::Client>,
        endpoint: &Endpoint,
        tell_votequorum: Sender<bool>,
        tell_model: Sender<bool>,
    ) -> Self {
        cmap.connect(|| cmap::Client::connect_to(endpoint).map(Some));
        // Who was connected before does not wait.
        let provider = cmap.ask(|cmap| text(cmap, "quorum.provider"));
        if let Some(provider) = &provider {
            let _ = tell_votequorum.send(is_votequorum(provider.as_deref()));
        }
        drop(tell_votequorum);
        let has_key = |cmap: &cmap::Client, key: &str| Ok(cmap.get(key)?.is_some());
        let has_model_v1 =
            cmap.ask(|cmap| match QUORUM_MODEL_V1.require(|key| has_key(cmap, key)) {
                Err(Error::Unsupported { .. }) => Ok(false),
                required => required.map(|()| true),
            });
        if let Some(has_model_v1) = has_model_v1 {
            let _ = tell_model.send(has_model_v1);
        }
        drop(tell_model);
        Self {
            provider: provider.flatten(),
            nodelist: cmap.ask(cmap::Client::nodelist).unwrap_or_default(),
            cluster_name: cmap.ask(|cmap| text(cmap, "totem.cluster_name")).flatten(),
            joined: cmap.ask(joined).unwrap_or_default(),
            config_version: cmap.ask(|cmap| cmap.get("totem.config_version")).flatten().and_then(
                |version| match version {
                    Value::U64(version) => Some(version),
                    _ => None,
                },
            ),
            reload_error: cmap.ask(|cmap| text(cmap, "config.reload_error_message")).flatten(),
            generation: cmap.ask(|cmap| Generation::of(|key| has_key(cmap, key))),
        }
    }
}

impl VotesAnswer {
    fn of(votequorum: &mut Source<votequorum::Client>) -> Self {
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

/// Votes and state of a node; `None` if it was never a member.
fn info(client: &votequorum::Client, node: NodeId) -> Result<Option<Info>> {
    match client.info(node) {
        Err(Error::Cs { error: CsError::NotExist, .. }) => Ok(None),
        info => Ok(Some(info?)),
    }
}

/// The present state of votequorum.
fn votequorum_events(client: &votequorum::Client) -> Result<Vec<votequorum::Event>> {
    client.track_start(0, TrackFlags::CURRENT)?;
    let mut events = Vec::new();
    while let Some(event) = client.poll_event()? {
        events.push(event);
    }
    Ok(events)
}

/// Where cmap has the nodes that joined, from 2.99 on and before.
const JOINED: [&str; 2] = ["runtime.members", "runtime.totem.pg.mrp.srp.members"];

/// A node that joined, as totem knows it.
#[derive(Default)]
pub(super) struct Joined {
    /// Not where it left.
    pub(super) is_member: bool,
    /// With which it joined, by link.
    pub(super) addresses: BTreeMap<u8, String>,
}

/// The nodes that joined since the daemon started.
pub(super) fn joined(cmap: &cmap::Client) -> Result<BTreeMap<NodeId, Joined>> {
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

/// `r(0) ip(10.0.0.1) r(1) ip(10.0.1.1) `
fn parse_joined(text: &str) -> BTreeMap<u8, String> {
    let link = |link: &str| {
        let (number, rest) = link.split_once(')')?;
        let (address, _) = rest.trim_start().strip_prefix("ip(")?.split_once(')')?;
        Some((number.parse().ok()?, address.to_owned()))
    };
    // `collect` would sort them first, in 3 KB of code.
    let mut addresses = BTreeMap::new();
    addresses.extend(text.split("r(").filter_map(link));
    addresses
}

pub(super) fn text(cmap: &cmap::Client, key: &str) -> Result<Option<String>> {
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
