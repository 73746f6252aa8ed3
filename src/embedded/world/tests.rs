//! Random scripts without descriptors and real time. They check the events of all clients against
//! the guarantees of extended virtual synchrony.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::cpg::{GroupName, Guarantee};
use crate::embedded::node::ServiceId;
use crate::error::CsError;
use crate::wire::cpg::{AnyEvent, Finalize, Join, Leave, Mcast, MembershipGet, MembershipReply};
use crate::wire::quorum::{GetQuorate, GetQuorateReply};
use crate::wire::values::RingId;
use crate::wire::{Message, cpg};

const NODES: u32 = 5;

#[derive(Clone, Copy, Debug)]
enum Action {
    Connect(u32),
    Mcast(usize),
    Leave(usize),
    Disconnect(usize),
    /// The number of each node's part.
    Partition([u8; NODES as usize]),
    End(u32, Ending),
    Start(u32),
    Pause(u32),
    Resume(u32),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let node = || 0..NODES;
    let ending = prop_oneof![Just(Ending::Killed), Just(Ending::Stopped)];
    let action = prop_oneof![
        4 => node().prop_map(Action::Connect),
        6 => any::<usize>().prop_map(Action::Mcast),
        1 => any::<usize>().prop_map(Action::Leave),
        1 => any::<usize>().prop_map(Action::Disconnect),
        2 => prop::array::uniform(0..3u8).prop_map(Action::Partition),
        1 => Just(Action::Partition([0; NODES as usize])),
        1 => (node(), ending).prop_map(|(node, ending)| Action::End(node, ending)),
        2 => node().prop_map(Action::Start),
        1 => node().prop_map(Action::Pause),
        1 => node().prop_map(Action::Resume),
    ];
    prop::collection::vec(action, 1..60)
}

/// A cpg client and the events it got.
struct Client {
    id: ClientNumber,
    node: usize,
    pid: u32,
    is_connected: bool,
    events: Vec<AnyEvent>,
}

struct Run {
    world: World,
    now: Instant,
    clients: Vec<Client>,
    next_id: u64,
    parts: [u8; NODES as usize],
    /// All outputs in order.
    all: Vec<ClientOutput>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let config = Config::with_nodes(NODES);
        let mut world =
            World::new((1..=NODES).map(|id| (NodeId(id), config.clone())).collect(), seed);
        let now = Instant::now();
        world.start(now, &[0, 1, 2, 3, 4]).unwrap();
        Self {
            world,
            now,
            clients: Vec::new(),
            next_id: 1,
            parts: [0; NODES as usize],
            all: Vec::new(),
        }
    }

    fn is_running(&self, node: usize) -> bool {
        self.world.daemon(node).is_some() && !self.world.is_paused(node)
    }

    fn take(&mut self, outputs: Vec<ClientOutput>) {
        for output in &outputs {
            match output {
                ClientOutput::Event { client, message } => {
                    let event = AnyEvent::decode(&Bytes::copy_from_slice(message)).unwrap();
                    let receivers = self.clients.iter_mut().filter(|it| it.id == *client);
                    receivers.for_each(|it| it.events.push(event.clone()));
                }
                ClientOutput::Exit(node) => {
                    self.clients
                        .iter_mut()
                        .filter(|it| it.node == *node)
                        .for_each(|it| it.is_connected = false);
                }
                ClientOutput::Reply { .. } => {}
            }
        }
        self.all.extend(outputs);
    }

    fn request(&mut self, at: usize, message: &impl Message) {
        let Client { id, node, .. } = self.clients[at];
        let (now, message) = (self.now, Bytes::from(message.encode().unwrap()));
        let outputs =
            self.world.step(now, node, |it| it.request(now, ServiceId::Cpg, id, &message));
        self.take(outputs);
    }

    /// Chooses a client that is connected to a running node.
    fn choose(&self, number: usize) -> Option<usize> {
        let clients = self.clients.iter().enumerate();
        let connected: Vec<usize> = clients
            .filter(|(_, it)| it.is_connected && self.is_running(it.node))
            .map(|(at, _)| at)
            .collect();
        (!connected.is_empty()).then(|| connected[number % connected.len()])
    }

    fn act(&mut self, action: Action) {
        let (now, group) = (self.now, GroupName::new("group").unwrap());
        match action {
            Action::Connect(node) if self.is_running(node as usize) => {
                let (id, node) = (ClientNumber(self.next_id), node as usize);
                self.next_id += 1;
                let pid = 100 + id.0 as u32;
                self.world.step(now, node, |it| {
                    it.connect(now, ServiceId::Cpg, id, pid as i32, String::new())
                });
                self.clients.push(Client { id, node, pid, is_connected: true, events: Vec::new() });
                self.request(self.clients.len() - 1, &Join { group_name: group, pid, flags: 0 });
            }
            Action::Mcast(number) => {
                if let Some(at) = self.choose(number) {
                    let message = Bytes::from(format!("message {}", self.all.len()));
                    self.request(at, &Mcast { guarantee: Guarantee::AGREED, message });
                }
            }
            Action::Leave(number) => {
                if let Some(at) = self.choose(number) {
                    self.request(at, &Leave { group_name: group, pid: self.clients[at].pid });
                }
            }
            Action::Disconnect(number) => {
                if let Some(at) = self.choose(number) {
                    self.clients[at].is_connected = false;
                    let Client { id, node, .. } = self.clients[at];
                    let outputs =
                        self.world.step(now, node, |it| it.disconnect(now, ServiceId::Cpg, id));
                    self.take(outputs);
                }
            }
            Action::Partition(parts) => {
                self.parts = parts;
                let part = |number| {
                    (0..NODES)
                        .filter(|it| parts[*it as usize] == number)
                        .map(|it| NodeId(it + 1))
                        .collect()
                };
                let outputs = self.world.partition(now, &[part(0), part(1), part(2)]);
                self.take(outputs);
            }
            Action::End(node, ending) if self.is_running(node as usize) => {
                let outputs = self.world.end(now, node as usize, ending);
                self.take(outputs);
            }
            Action::Start(node) if self.world.daemon(node as usize).is_none() => {
                let outputs = self.world.start(now, &[node as usize]).unwrap();
                self.take(outputs);
            }
            Action::Pause(node) if self.is_running(node as usize) => {
                let outputs = self.world.pause(now, node as usize, true);
                self.take(outputs);
            }
            Action::Resume(node) if self.world.is_paused(node as usize) => {
                let outputs = self.world.pause(now, node as usize, false);
                self.take(outputs);
            }
            _ => {}
        }
    }

    /// Asks a node whether it is quorate.
    fn is_quorate(&mut self, node: usize) -> bool {
        let (now, client) = (self.now, ClientNumber(u64::MAX));
        let request = Bytes::from(GetQuorate {}.encode().unwrap());
        let outputs =
            self.world.step(now, node, |it| it.request(now, ServiceId::Quorum, client, &request));
        let [ClientOutput::Reply { message, .. }] = outputs.as_slice() else {
            panic!("{outputs:?}")
        };
        GetQuorateReply::decode(&Bytes::copy_from_slice(message)).unwrap().quorate != 0
    }

    /// Checks that exactly the running nodes in a part with a majority are quorate.
    fn check_quorum(&mut self) {
        for node in (0..NODES as usize).filter(|node| self.is_running(*node)).collect::<Vec<_>>() {
            let together = (0..NODES as usize)
                .filter(|it| self.is_running(*it) && self.parts[*it] == self.parts[node]);
            let has_majority = together.count() > NODES as usize / 2;
            assert_eq!(self.is_quorate(node), has_majority, "node {}", node + 1);
        }
    }

    /// Checks that clients which are in the same two rings, one after the other, get the same
    /// events in between.
    fn check_synchrony(&self) {
        let mut stretches: BTreeMap<(RingId, RingId), &[AnyEvent]> = BTreeMap::new();
        for client in &self.clients {
            let is_ring = |event: &AnyEvent| match event {
                AnyEvent::TotemConfchgCallback(cpg::TotemConfchgCallback { ring_id, .. }) => {
                    Some(*ring_id)
                }
                _ => None,
            };
            let rings = client
                .events
                .iter()
                .enumerate()
                .filter_map(|(at, event)| Some((at, is_ring(event)?)));
            let rings: Vec<(usize, RingId)> = rings.collect();
            for pair in rings.windows(2) {
                let [(from, first), (to, second)] = *pair else { continue };
                assert!(first.seq < second.seq, "{first} before {second}");
                let events = &client.events[from + 1..to];
                let same = *stretches.entry((first, second)).or_insert(events);
                assert_eq!(same, events, "between {first} and {second}");
            }
        }
    }
}

/// A group cannot have more members than a message has room for.
#[test]
fn a_group_has_as_many_members_as_its_messages_name() {
    const ROOM: usize = 384;
    let mut run = Run::new(0);
    run.act(Action::Partition([0, 1, 1, 1, 1]));
    let (now, group_name) = (run.now, GroupName::new("group").unwrap());
    // The lengths of the longest member list and joined list. All events must decode.
    let longest = |outputs: &[ClientOutput]| {
        let events = outputs.iter().filter_map(|output| match output {
            ClientOutput::Event { message, .. } => {
                Some(AnyEvent::decode(&Bytes::copy_from_slice(message)).unwrap())
            }
            _ => None,
        });
        events.fold((0, 0), |longest, event| match event {
            AnyEvent::ConfchgCallback(event) => {
                (longest.0.max(event.member_list.len()), longest.1.max(event.joined_list.len()))
            }
            _ => longest,
        })
    };
    let mut join = |world: &mut World, node: usize, number: usize| {
        let (id, pid) = (ClientNumber(run.next_id), (1000 * node + number) as u32);
        run.next_id += 1;
        world.step(now, node, |it| it.connect(now, ServiceId::Cpg, id, pid as i32, String::new()));
        let request = Bytes::from(Join { group_name, pid, flags: 0 }.encode().unwrap());
        let outputs = world.step(now, node, |it| it.request(now, ServiceId::Cpg, id, &request));
        let status = outputs.iter().find_map(|output| match output {
            ClientOutput::Reply { message, .. } => {
                Some(i32::from_ne_bytes(message[16..20].try_into().unwrap()))
            }
            _ => None,
        });
        if number > 1 {
            // Only the first client of each node gets events. A finalized client stays a member
            // until it disconnects.
            let request = Bytes::from(Finalize {}.encode().unwrap());
            world.step(now, node, |it| it.request(now, ServiceId::Cpg, id, &request));
        }
        (status, longest(&outputs).0)
    };
    for number in 1..=ROOM {
        assert_eq!(join(&mut run.world, 0, number), (Some(1), number));
    }
    assert_eq!(join(&mut run.world, 0, ROOM + 1), (Some(CsError::NoResources.raw()), 0));
    // Two groups of that size meet.
    for number in 1..=ROOM {
        assert_eq!(join(&mut run.world, 1, number), (Some(1), number));
    }
    let outputs = run.world.partition(now, &[(1..=NODES).map(NodeId).collect()]);
    assert_eq!(longest(&outputs), (ROOM, ROOM));
    let request = Bytes::from(MembershipGet { group_name }.encode().unwrap());
    let outputs =
        run.world.step(now, 0, |it| it.request(now, ServiceId::Cpg, ClientNumber(1), &request));
    let [ClientOutput::Reply { message, .. }] = outputs.as_slice() else { panic!("{outputs:?}") };
    let reply = MembershipReply::decode(&Bytes::copy_from_slice(message)).unwrap();
    assert_eq!(reply.member_list.len(), ROOM);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn members_that_stay_together_are_told_the_same(actions in actions(), seed in any::<u64>()) {
        let mut run = Run::new(seed);
        for action in &actions {
            run.act(*action);
            run.check_quorum();
        }
        run.check_synchrony();
    }

    #[test]
    fn the_same_seed_has_the_same_outcome(actions in actions(), seed in any::<u64>()) {
        let [one, other] = [Run::new(seed), Run::new(seed)].map(|mut run| {
            actions.iter().for_each(|action| run.act(*action));
            run.all
        });
        prop_assert!(one == other);
    }
}
