//! The cluster as this node sees it at one moment: what cmap, quorum, votequorum and cfg say,
//! together, as typed values.
//!
//! The command `corosync-ipc status` prints such a snapshot. With the feature `serde` it serializes
//! to the document that `status --json` prints, which docs/json.md describes.
//!
//! ```no_run
//! use corosync_ipc::Endpoint;
//! use corosync_ipc::snapshot::Snapshot;
//!
//! let snapshot = Snapshot::take(&Endpoint::from_env()?)?;
//! println!("quorate: {:?}", snapshot.quorate);
//! for node in snapshot.members.iter().flatten() {
//!     println!("{} {} {:?}", node.node_id, node.name.as_deref().unwrap_or("-"), node.addresses);
//! }
//! for (part, fault) in &snapshot.errors {
//!     println!("{part} could not be asked: {fault}");
//! }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! No C function does this: a C program asks four libraries, and puts the answers together.

mod fault;
#[cfg(feature = "serde")]
mod json;
mod links;
pub mod part;
mod services;
mod sources;
#[cfg(feature = "tokio")]
mod stream;
mod watcher;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime};

use self::fault::add_new;
pub use self::fault::{Fault, Faults};
pub use self::links::{Link, LinkNode, NodeLinks, addresses, links, node_links};
pub use self::services::{Service, connect_votequorum, services};
use self::services::{ask, join};
use self::sources::{Answers, Sources};
#[cfg(feature = "tokio")]
pub use self::stream::Changes;
pub use self::watcher::{Change, Watcher};
use crate::client::ServiceClient;
use crate::cmap::ConfiguredNode;
use crate::endpoint::Endpoint;
use crate::error::{CsError, Error, Result};
pub use crate::features::Generation;
use crate::libqb::Transport;
use crate::libqb::client::{Call, within};
use crate::quorum::Membership;
pub use crate::quorum::Ring;
use crate::sys::process::start_time;
use crate::votequorum::{self, Info, InfoFlags};
use crate::wire::values::NodeId;

/// How often to look again while the membership changes under the questions.
const ROUNDS: usize = 5;

/// The cluster as this node sees it. A part that could not be asked is `None`, and
/// [`errors`](Self::errors) says why.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// `totem.cluster_name`.
    pub cluster_name: Option<String>,
    /// The local node. `None` where none of votequorum, cfg and cmap tells it.
    pub node_id: Option<NodeId>,
    /// Its name in the nodelist.
    pub node_name: Option<String>,
    /// The ring. `None` also before corosync 3.1 without a quorum provider.
    pub ring_id: Option<Ring>,
    /// Whether this node is quorate.
    pub quorate: Option<bool>,
    /// `quorum.provider`. `None` also where none is configured: then every partition is quorate.
    pub quorum_provider: Option<String>,
    /// The expected votes that this node is configured with. This and the next five are `None`
    /// without votequorum, too.
    pub expected_votes: Option<u32>,
    /// The highest expected votes of any member.
    pub highest_expected: Option<u32>,
    /// Votes of all members, and of the quorum device while it votes.
    pub total_votes: Option<u32>,
    /// Votes needed to be quorate.
    pub quorum: Option<u32>,
    /// The state of votequorum.
    #[cfg_attr(feature = "serde", serde(with = "json::flags"))]
    pub flags: Option<InfoFlags>,
    /// This node's quorum device; `None` also when none is registered.
    pub qdevice: Option<Qdevice>,
    /// The members, in the order corosync gives.
    pub members: Option<Vec<Node>>,
    /// Nodes that are configured or were members, and are not members now.
    pub absent: Option<Vec<Node>>,
    /// The links of this node. `None` also when they were not asked for.
    pub links: Option<Vec<Link>>,
    /// `totem.config_version`. `None` also where corosync.conf has none.
    pub config_version: Option<u64>,
    /// Why the last reload of corosync.conf could not be applied, from corosync after 3.1.8.
    pub reload_error: Option<String>,
    /// The daemon. `None` when nothing is known of it.
    pub daemon: Option<Daemon>,
    /// Which services answer. Empty when they were not asked for.
    #[cfg_attr(feature = "serde", serde(default))]
    pub services: Vec<Service>,
    /// Why parts are missing, by [`part`], and by `node N` for a node whose links are not known. A
    /// service that does not answer has its error in [`services`](Self::services).
    pub errors: Faults,
}

/// A quorum device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Qdevice {
    /// Its name.
    pub name: String,
    /// The votes that count: 0 while it does not vote.
    pub votes: u32,
    /// The votes that it has when it votes.
    pub configured_votes: u32,
}

/// A node, member or not.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Node {
    /// Its id.
    pub node_id: NodeId,
    /// Its name in the nodelist.
    pub name: Option<String>,
    /// Its addresses, by link: as configured, or, for a node without configured ones, those with
    /// which it joined.
    #[cfg_attr(feature = "serde", serde(flatten, with = "json::addresses"))]
    pub addresses: BTreeMap<u8, String>,
    /// Whether it is the local node.
    pub local: bool,
    /// Whether it is a member.
    pub member: bool,
    /// Whether it is in the nodelist. `None` where cmap failed.
    pub configured: Option<bool>,
    /// votequorum's state. `None` for a node that was never seen, too.
    #[cfg_attr(feature = "serde", serde(with = "json::state"))]
    pub state: Option<votequorum::NodeState>,
    /// Its votes. `None` for a node that was never seen, too.
    pub votes: Option<u32>,
    /// The state of the quorum device at this node. `None` also when none is registered there.
    pub qdevice: Option<NodeQdevice>,
    /// Why something of this node is missing: as [`Snapshot::errors`].
    pub errors: Faults,
}

/// The state of the quorum device at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct NodeQdevice {
    /// It polls in time.
    pub alive: bool,
    /// It votes for the node's partition.
    pub cast_vote: bool,
    /// A partition with its vote is quorate.
    pub master_wins: bool,
}

/// What is known of the daemon.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Daemon {
    /// Its version, as far as the keys of its map tell. `None` where cmap failed.
    pub generation: Option<Generation>,
    /// Its process. `None` in a pid namespace that is not visible here.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: u32,
    /// How messages travel between it and its clients.
    pub transport: Transport,
    /// When it was started. `None` where its process is not visible.
    #[cfg_attr(feature = "serde", serde(rename = "start_time_seconds", with = "json::seconds"))]
    pub started: Option<SystemTime>,
}

/// The process behind a service.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// `None`: in a pid namespace that is not visible here.
    pid: Option<u32>,
    uid: u32,
    transport: Transport,
}

impl Peer {
    fn of(client: &impl ServiceClient) -> Self {
        let peer = client.peer_credentials();
        let pid = u32::try_from(peer.pid).ok().filter(|pid| *pid != 0);
        Self { pid, uid: peer.uid, transport: client.transport() }
    }

    fn daemon(self, generation: Option<Generation>) -> Daemon {
        let Self { pid, uid, transport } = self;
        let started = pid.and_then(|pid| start_time(i32::try_from(pid).ok()?));
        Daemon { generation, pid, uid, transport, started }
    }
}

/// The parts of a snapshot that take further requests. All of them unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    links: bool,
    services: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { links: true, services: true }
    }
}

impl Options {
    /// Everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to ask for the links. Default: true.
    pub fn links(mut self, links: bool) -> Self {
        self.links = links;
        self
    }

    /// Whether to connect to all services and see which answer. Default: true.
    pub fn services(mut self, services: bool) -> Self {
        self.services = services;
        self
    }
}

impl Snapshot {
    /// Asks all services at once, and again until two answers in a row name the same ring. It
    /// blocks until all answered or the [timeout](Endpoint::timeout) is over, whatever comes
    /// first, and uses a few short connections.
    ///
    /// # Errors
    /// When no service answers: [`Error::TimedOut`] where one timed out, or the error of one. Anything less is in
    /// [`errors`](Self::errors) and [`services`](Self::services).
    pub fn take(endpoint: &Endpoint) -> Result<Self> {
        Self::take_with(endpoint, Options::new())
    }

    /// As [`Snapshot::take`], with these parts.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub fn take_with(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let deadline = Call::request(endpoint, "snapshot").deadline;
        let (snapshot, services, links) = thread::scope(|scope| {
            let services = options
                .services
                .then(|| ask(scope, deadline, move || services::probe(endpoint, deadline)));
            let links = options.links.then(|| ask(scope, deadline, || links::links(endpoint)));
            (Self::base(endpoint, deadline), services.map(join), links.map(join))
        });
        let mut snapshot = snapshot?;
        match links {
            Some(Ok((links, faults))) => {
                snapshot.links = Some(links);
                add_new(&mut snapshot.errors, faults);
            }
            Some(Err(error)) => _ = snapshot.errors.insert(part::LINKS.to_owned(), error.into()),
            None => {}
        }
        snapshot.services = services.map(|(services, _)| services).unwrap_or_default();
        Ok(snapshot)
    }

    /// What quorum, votequorum and cmap say.
    fn base(endpoint: &Endpoint, deadline: Instant) -> Result<Self> {
        let mut sources = Sources::default();
        let mut answers = sources.ask_all(endpoint, deadline);
        for _ in 0..ROUNDS {
            if Instant::now() >= deadline {
                break;
            }
            let membership = within(deadline, || sources.membership_again(deadline));
            if membership.is_none() || membership == answers.membership {
                // It is unknown whether the state is still the same.
                answers.membership = membership;
                break;
            }
            answers = sources.ask_all(endpoint, deadline);
        }
        let node_id = within(deadline, || sources.node_id(endpoint, &answers));
        let (answered, peer) = (sources.answered(), sources.peer());
        let errors = sources.faults(node_id);
        if !answered {
            return Err(decisive(errors));
        }
        if errors.contains_key(part::VOTEQUORUM) {
            // What it said before it failed is not the whole.
            answers.votes.local = None;
            answers.votes.nodes.values_mut().for_each(|votes| *votes = None);
        }
        let daemon = peer.map(|peer| peer.daemon(answers.map.generation.take()));
        Ok(Self { daemon, ..answers.combine(node_id, errors) })
    }

    /// This node, if it is known.
    pub fn local(&self) -> Option<&Node> {
        self.nodes().find(|node| node.local)
    }

    /// All nodes: the members, then those that are absent.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.members.iter().flatten().chain(self.absent.iter().flatten())
    }

    /// Whether votequorum is configured; `None` if cmap does not answer.
    pub fn has_votequorum(&self) -> Option<bool> {
        let is_known = !self.errors.contains_key(part::CMAP);
        is_known.then(|| services::is_votequorum(self.quorum_provider.as_deref()))
    }
}

/// The error of a snapshot without any answer: one that says more than that nobody listens, if
/// there is one.
fn decisive(mut faults: Faults) -> Error {
    let is = |part: &str, faults: &Faults, wanted: fn(&Error) -> bool| {
        faults.get(part).and_then(|fault| fault.source.as_deref()).is_some_and(wanted)
    };
    let parts = part::ALL;
    let timed_out = |error: &Error| {
        matches!(error, Error::TimedOut { .. } | Error::Cs { error: CsError::TryAgain, .. })
    };
    let find =
        |wanted: fn(&Error) -> bool| parts.into_iter().find(|part| is(part, &faults, wanted));
    let part = find(timed_out)
        .or_else(|| find(|error| !error.is_unreachable()))
        .or_else(|| find(|_| true));
    let error = part.and_then(|part| Arc::into_inner(faults.remove(part)?.source?));
    error.unwrap_or(Error::NotConnected { service: "corosync".into() })
}

impl Answers {
    fn combine(self, node_id: Option<NodeId>, errors: Faults) -> Snapshot {
        let Self { map, membership, mut votes } = self;
        let local = votes.local;
        let of_votes = |field: fn(&Info) -> u32| local.as_ref().map(field);
        let mut snapshot = Snapshot {
            node_id,
            expected_votes: of_votes(|info| info.expected_votes),
            highest_expected: of_votes(|info| info.highest_expected),
            total_votes: of_votes(|info| info.total_votes),
            quorum: of_votes(|info| info.quorum),
            flags: local.as_ref().map(|info| info.flags),
            qdevice: local.as_ref().and_then(Qdevice::of),
            cluster_name: map.cluster_name,
            quorum_provider: map.provider,
            config_version: map.config_version,
            reload_error: map.reload_error,
            ..Snapshot::default()
        };
        let name = |id: NodeId| map.nodelist.by_id(id).and_then(|node| node.name.clone());
        snapshot.node_name = node_id.and_then(name);
        let Some(Membership { quorate, mut ring_id, members, .. }) = membership else {
            snapshot.errors = errors;
            return snapshot;
        };
        let joined = map.joined.iter().filter(|(_, it)| it.is_member).map(|(node, _)| *node);
        let members = members.unwrap_or_else(|| joined.collect());
        // Model v0 reports half of the ring's id; votequorum may know the other half.
        if let Some(Ring { node_id: None, seq }) = ring_id {
            if let Some(ring) = votes.rings.iter().find(|ring| ring.seq == seq) {
                ring_id = Some((*ring).into());
            }
        }
        let is_member: BTreeSet<NodeId> = members.iter().copied().collect();
        let configured = map.nodelist.nodes.iter().filter_map(|node| node.node_id);
        let absent: BTreeSet<NodeId> = configured.chain(votes.nodes.keys().copied()).collect();
        let is_configured: BTreeMap<NodeId, &ConfiguredNode> = map
            .nodelist
            .nodes
            .iter()
            .rev()
            .filter_map(|node| Some((node.node_id?, node)))
            .collect();
        let mut node = |id: &NodeId| {
            let configured = is_configured.get(id);
            let addresses = configured.map(|node| &node.addresses).filter(|it| !it.is_empty());
            let addresses = addresses.or_else(|| Some(&map.joined.get(id)?.addresses));
            let votes = votes.nodes.remove(id).flatten();
            Node {
                node_id: *id,
                name: configured.and_then(|node| node.name.clone()),
                addresses: addresses.cloned().unwrap_or_default(),
                local: Some(*id) == node_id,
                member: is_member.contains(id),
                configured: (!errors.contains_key(part::CMAP)).then_some(configured.is_some()),
                state: votes.as_ref().and_then(|info| info.state),
                votes: votes.as_ref().map(|info| info.votes),
                qdevice: votes.as_ref().and_then(NodeQdevice::of),
                errors: errors.clone(),
            }
        };
        snapshot.ring_id = ring_id;
        snapshot.quorate = Some(quorate);
        snapshot.members = Some(members.iter().map(&mut node).collect());
        snapshot.absent = Some(absent.difference(&is_member).map(node).collect());
        snapshot.errors = errors;
        snapshot
    }
}

impl Qdevice {
    /// `None` if none is registered.
    fn of(info: &Info) -> Option<Self> {
        let votes = |flag| if info.flags.contains(flag) { info.qdevice_votes } else { 0 };
        info.flags.contains(InfoFlags::QDEVICE_REGISTERED).then(|| Self {
            name: info.qdevice_name.clone(),
            votes: votes(InfoFlags::QDEVICE_CAST_VOTE),
            configured_votes: info.qdevice_votes,
        })
    }
}

impl NodeQdevice {
    /// `None` if none is registered.
    fn of(info: &Info) -> Option<Self> {
        let is = |flag| info.flags.contains(flag);
        is(InfoFlags::QDEVICE_REGISTERED).then(|| Self {
            alive: is(InfoFlags::QDEVICE_ALIVE),
            cast_vote: is(InfoFlags::QDEVICE_CAST_VOTE),
            master_wins: is(InfoFlags::QDEVICE_MASTER_WINS),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_snapshot_without_any_answer_fails_with_what_says_most() {
        let gone = |service: &'static str| Error::Disconnected {
            service: service.into(),
            truncated: None,
            stage: None,
        };
        let late = || Error::TimedOut { operation: "x".into(), after: Duration::ZERO, stage: None };
        let refused = || Error::Cs { call: "x".into(), error: CsError::Access };
        let decided = |errors: Vec<(&str, Error)>| {
            let faults = errors.into_iter().map(|(part, error)| (part.to_owned(), error.into()));
            decisive(faults.collect())
        };
        assert!(matches!(
            decided(vec![("quorum", gone("quorum")), (part::CMAP, gone("cmap"))]),
            Error::Disconnected { service, .. } if service == "cmap"
        ));
        let all = vec![(part::CMAP, gone("cmap")), ("quorum", refused()), ("cfg", late())];
        assert!(matches!(decided(all), Error::TimedOut { .. }));
        let all = vec![(part::CMAP, gone("cmap")), ("quorum", refused())];
        assert!(matches!(decided(all), Error::Cs { .. }));
        assert!(matches!(decided(vec![]), Error::NotConnected { .. }));
    }
}
