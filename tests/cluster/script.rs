//! What is done to a cluster and what its clients are told of it, be it a real one or one in this
//! process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use corosync_ipc::cpg::{Address, GroupName, Guarantee, Options};
use corosync_ipc::embedded;
use corosync_ipc::{
    CsError, Endpoint, Error, NodeId, RingId, TrackFlags, cmap, cpg, quorum, votequorum,
};
use testbed::{Paused, eventually};

/// Something that is done to a cluster of the nodes 1 to 3 or by one of its clients.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A process of this name and pid connects to all services of a node.
    Connect(&'static str, u32, u32),
    Join(&'static str, &'static str),
    Leave(&'static str, &'static str),
    Send(&'static str, &'static str),
    SetExpected(&'static str, u32),
    SetVotes(&'static str, u32, u32),
    /// The process ends.
    Die(&'static str),
    Partition(&'static [&'static [u32]]),
    Heal,
    Kill(u32),
    Stop(u32),
    Start(u32),
    Pause(u32),
    Resume(u32),
}

/// What a client was told, by name and service.
pub(crate) type Told = BTreeMap<(&'static str, &'static str), Vec<String>>;

/// A cluster that can be driven.
pub(crate) trait Driver {
    /// Runs something where a node's daemon is to be found.
    fn at<T: Send>(&self, node: u32, body: impl FnOnce(&Endpoint) -> T + Send) -> T;

    /// Does a step that no client takes. It may return while it is still being done.
    fn drive(&mut self, step: Step);

    /// Waits until all that follows from what was done has happened, once this says that clients
    /// were told what they are to be told.
    fn settle(&mut self, have_been_told: impl FnMut() -> bool);
}

impl Driver for embedded::Cluster {
    fn at<T: Send>(&self, node: u32, body: impl FnOnce(&Endpoint) -> T + Send) -> T {
        body(self.node(node).unwrap().endpoint())
    }

    fn drive(&mut self, step: Step) {
        match step {
            Step::Partition(parts) => self.partition(parts),
            Step::Heal => self.heal(),
            Step::Kill(node) => self.kill(node),
            Step::Stop(node) => self.stop(node),
            Step::Start(node) => self.start_node(node),
            Step::Pause(node) => self.pause(node),
            Step::Resume(node) => self.resume(node),
            other => panic!("{other:?} is a client's"),
        }
        .unwrap();
    }

    fn settle(&mut self, mut have_been_told: impl FnMut() -> bool) {
        self.advance(Duration::ZERO).unwrap();
        have_been_told();
    }
}

/// Real daemons, and what was done to them.
pub(crate) struct Real {
    paused: BTreeMap<u32, Paused>,
    down: BTreeSet<u32>,
    parts: Vec<Vec<u32>>,
    cluster: testbed::Cluster,
}

impl Real {
    /// Starts nodes with these features of votequorum.
    pub(crate) fn start(features: &[&str]) -> Self {
        let builder = testbed::Cluster::builder().nodes(3).loses_nodes();
        let builder = features
            .iter()
            .fold(builder, |it, feature| it.setting("quorum", &format!("{feature}: 1")));
        let cluster = builder.start();
        Self { paused: BTreeMap::new(), down: BTreeSet::new(), parts: vec![vec![1, 2, 3]], cluster }
    }
}

impl Driver for Real {
    fn at<T: Send>(&self, node: u32, body: impl FnOnce(&Endpoint) -> T + Send) -> T {
        self.cluster.node(node).run(|| body(&Endpoint::new()))
    }

    fn drive(&mut self, step: Step) {
        match step {
            Step::Partition(parts) => {
                self.cluster.partition(parts);
                self.parts = parts.iter().map(|part| part.to_vec()).collect();
            }
            Step::Heal => {
                self.cluster.heal();
                self.parts = vec![vec![1, 2, 3]];
            }
            Step::Kill(node) => self.cluster.node(node).kill(),
            Step::Stop(node) => self.cluster.node(node).stop(),
            Step::Start(node) => self.cluster.node(node).start(),
            Step::Pause(node) => drop(self.paused.insert(node, self.cluster.node(node).pause())),
            Step::Resume(node) => drop(self.paused.remove(&node)),
            other => panic!("{other:?} is a client's"),
        }
        match step {
            Step::Kill(node) | Step::Stop(node) => drop(self.down.insert(node)),
            Step::Start(node) => drop(self.down.remove(&node)),
            _ => {}
        }
    }

    fn settle(&mut self, mut have_been_told: impl FnMut() -> bool) {
        eventually("all clients are told", &mut have_been_told);
        for part in &self.parts {
            let here = |node: &&u32| !self.down.contains(node) && !self.paused.contains_key(node);
            let here: Vec<u32> = part.iter().filter(here).copied().collect();
            if !here.is_empty() {
                self.cluster.wait_members(&here, here.len());
            }
        }
    }
}

/// A process and what it was told.
struct Client {
    cpg: Arc<cpg::Client>,
    votes: Arc<votequorum::Client>,
    streams: Vec<Stream>,
}

/// What comes from one connection.
struct Stream {
    service: &'static str,
    poll: Box<dyn FnMut() -> Result<Option<Event>, Error> + Send>,
    events: Vec<Event>,
    has_ended: bool,
}

/// What the text of an event about expected votes ends with.
const EXPECTED: &str = "votes are expected";

/// An event, and the ring it names.
#[derive(PartialEq)]
struct Event(Option<RingId>, String);

impl Client {
    fn connect(endpoint: &Endpoint, pid: u32) -> Self {
        let endpoint = endpoint.clone().timeout(testbed::WATCHDOG);
        let cpg = Arc::new(cpg::Client::connect_with(&endpoint, Options::new().pid(pid)).unwrap());
        let v0 = quorum::Client::connect_to(&endpoint).unwrap();
        let v1 = quorum::Client::connect_with(
            &endpoint,
            quorum::Options::new().model(quorum::Model::V1),
        )
        .unwrap();
        let votes = Arc::new(votequorum::Client::connect_to(&endpoint).unwrap());
        v0.track_start(TrackFlags::CHANGES).unwrap();
        v1.track_start(TrackFlags::CHANGES).unwrap();
        votes.track_start(u64::from(pid), TrackFlags::CHANGES).unwrap();
        let (events, votes_events) = (Arc::clone(&cpg), Arc::clone(&votes));
        let streams = vec![
            Stream::new("cpg", move || Ok(events.poll_event()?.map(of_cpg))),
            Stream::new("quorum v0", move || Ok(v0.poll_event()?.map(of_quorum))),
            Stream::new("quorum v1", move || Ok(v1.poll_event()?.map(of_quorum))),
            Stream::new("votequorum", move || Ok(votes_events.poll_event()?.map(of_votequorum))),
        ];
        Self { cpg, votes, streams }
    }
}

impl Stream {
    fn new(
        service: &'static str,
        poll: impl FnMut() -> Result<Option<Event>, Error> + Send + 'static,
    ) -> Self {
        Self { service, poll: Box::new(poll), events: Vec::new(), has_ended: false }
    }

    /// Takes all events that wait, and the end.
    fn look(&mut self) {
        while !self.has_ended {
            match (self.poll)() {
                // Expected votes may be told twice: it depends on whose message is the first.
                Ok(Some(event))
                    if event.1.ends_with(EXPECTED) && self.events.last() == Some(&event) => {}
                Ok(Some(event)) => self.events.push(event),
                Ok(None) => return,
                Err(Error::Disconnected { .. } | Error::Finalized) => {
                    self.has_ended = true;
                    self.events.push(Event(None, "the end".to_owned()));
                }
                Err(error) => panic!("{}: {error}", self.service),
            }
        }
    }

    /// What was told. Rings have numbers that only grow, by how much is chance: here they are
    /// counted.
    fn told(&self, rings: &BTreeSet<u64>) -> Vec<String> {
        let ring = |id: RingId| {
            format!(
                "ring {} of {}: ",
                rings.iter().take_while(|seq| **seq < id.seq).count(),
                id.node_id
            )
        };
        self.events.iter().map(|Event(id, text)| id.map_or_else(String::new, ring) + text).collect()
    }
}

/// Members come in the order of the nodes, but those who join or leave in the order in which nodes
/// happened to tell of them.
fn sorted(addresses: &[Address]) -> Vec<String> {
    let mut sorted: Vec<_> =
        addresses.iter().map(|it| format!("{}/{} {}", it.node_id, it.pid, it.reason)).collect();
    sorted.sort();
    sorted
}

fn of_cpg(event: cpg::Event) -> Event {
    match event {
        cpg::Event::Confchg(cpg::Confchg { group, members, left, joined }) => Event(
            None,
            format!(
                "{group}: {:?} left {:?} joined {:?}",
                sorted(&members),
                sorted(&left),
                sorted(&joined)
            ),
        ),
        cpg::Event::Deliver(cpg::Deliver { group, node_id, pid, payload }) => {
            Event(None, format!("{group}: {node_id}/{pid} says {payload:?}"))
        }
        cpg::Event::TotemConfchg(cpg::TotemConfchg { ring_id, members }) => {
            Event(Some(ring_id), format!("{members:?}"))
        }
        other => panic!("{other:?}"),
    }
}

fn of_quorum(event: quorum::Event) -> Event {
    match event {
        quorum::Event::Notification(told) => {
            let ring_id = RingId { node_id: NodeId(0), seq: told.ring_seq };
            Event(Some(ring_id), format!("quorate {} {:?}", told.quorate, told.members))
        }
        quorum::Event::Quorum(told) => {
            let nodelist = told.nodelist.map(|nodelist| nodelist.members);
            Event(
                Some(told.ring_id),
                format!("quorate {} {:?} {nodelist:?}", told.quorate, told.members),
            )
        }
        quorum::Event::Nodelist(told) => Event(
            Some(told.ring_id),
            format!("{:?} left {:?} joined {:?}", told.members, told.left, told.joined),
        ),
        other => panic!("{other:?}"),
    }
}

fn of_votequorum(event: votequorum::Event) -> Event {
    match event {
        votequorum::Event::Quorum(votequorum::QuorumNotification { context, quorate, nodes }) => {
            let nodes: Vec<_> =
                nodes.iter().map(|node| format!("{} {}", node.node_id, node.state)).collect();
            Event(None, format!("{context}: quorate {quorate} {nodes:?}"))
        }
        votequorum::Event::Nodelist(votequorum::NodelistNotification {
            context,
            ring_id,
            members,
        }) => Event(Some(ring_id), format!("{context}: {members:?}")),
        votequorum::Event::ExpectedVotes(votequorum::ExpectedVotesNotification {
            context,
            expected_votes,
        }) => Event(None, format!("{context}: {expected_votes} {EXPECTED}")),
        other => panic!("{other:?}"),
    }
}

/// What came of a script.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) told: Told,
    /// How much was told until the end of each step.
    counts: Vec<usize>,
    /// How many rings each client saw.
    rings: BTreeMap<&'static str, usize>,
    /// What the maps of the nodes that run say of members and votes, before and after.
    pub(crate) keys: [Vec<String>; 2],
}

fn keys(driver: &impl Driver) -> Vec<String> {
    let prefixes = ["runtime.members.", "runtime.votequorum."];
    let of_node = |node| {
        driver.at(node, |endpoint| {
            let Ok(map) = cmap::Client::connect_to(endpoint) else { return Vec::new() };
            let keys = prefixes.iter().flat_map(|prefix| map.list(prefix).unwrap());
            keys.map(|(key, value)| format!("{node}: {key} = {value}")).collect()
        })
    };
    (1..=3).flat_map(of_node).collect()
}

impl Outcome {
    pub(crate) fn has_more_rings(&self, other: &Self) -> bool {
        self.rings.iter().any(|(client, count)| other.rings[client] < *count)
    }

    /// Takes down what clients were told.
    fn note(&mut self, clients: &BTreeMap<&'static str, Client>) {
        for (name, client) in clients {
            let events = client.streams.iter().flat_map(|stream| &stream.events);
            let rings: BTreeSet<u64> =
                events.filter_map(|Event(ring, _)| ring.map(|ring| ring.seq)).collect();
            self.rings.insert(name, rings.len());
            for stream in &client.streams {
                self.told.insert((name, stream.service), stream.told(&rings));
            }
        }
        let count = clients
            .values()
            .flat_map(|client| &client.streams)
            .map(|stream| stream.events.len())
            .sum();
        self.counts.push(count);
    }
}

/// Takes the steps one after the other, each when the one before is done. Where there was a run
/// before, that is when clients were told as much as then; and if they are told of more rings, that
/// was all.
pub(crate) fn run(driver: &mut impl Driver, steps: &[Step], before: Option<&Outcome>) -> Outcome {
    let mut clients: BTreeMap<&'static str, Client> = BTreeMap::new();
    let mut outcome = Outcome { keys: [keys(driver), Vec::new()], ..Outcome::default() };
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Connect(name, node, pid) => {
                clients.insert(name, driver.at(node, |endpoint| Client::connect(endpoint, pid)));
            }
            Step::Join(name, group) => {
                persistently(|| clients[name].cpg.join(&GroupName::new(group).unwrap()))
            }
            Step::Leave(name, group) => {
                persistently(|| clients[name].cpg.leave(&GroupName::new(group).unwrap()))
            }
            Step::Send(name, text) => {
                persistently(|| clients[name].cpg.multicast(Guarantee::AGREED, text.as_bytes()))
            }
            Step::SetExpected(name, votes) => clients[name].votes.set_expected(votes).unwrap(),
            Step::SetVotes(name, node, votes) => {
                clients[name].votes.set_votes(NodeId(node), votes).unwrap()
            }
            Step::Die(name) => clients[name].cpg.finalize(),
            step => driver.drive(step),
        }
        let mut look = || {
            let streams = clients.values_mut().flat_map(|client| &mut client.streams);
            let count = |stream: &mut Stream| {
                stream.look();
                stream.events.len()
            };
            streams.map(count).sum::<usize>()
        };
        driver.settle(|| before.is_none_or(|before| look() >= before.counts[number]));
        look();
        outcome.note(&clients);
        if before.is_some_and(|before| outcome.has_more_rings(before)) {
            return outcome;
        }
    }
    outcome.keys[1] = keys(driver);
    outcome
}

/// While the nodes agree on something, daemons put requests off.
fn persistently(mut request: impl FnMut() -> Result<(), Error>) {
    eventually("the daemon does not ask to try again", || match request() {
        Err(Error::Cs { error: CsError::TryAgain, .. }) => false,
        result => {
            result.unwrap();
            true
        }
    });
}
