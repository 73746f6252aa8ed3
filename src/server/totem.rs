//! What joins the nodes: memberships, and messages in one order for all.

use std::collections::VecDeque;
use std::time::Instant;

use super::services::{ClientId, Exec, Membership, Node, Output, SyncStep};
use crate::types::{NodeId, RingId};

/// Takes messages from node to node.
pub(super) trait Totem: Send {
    /// Takes a message for all members of the sender's ring.
    fn multicast(&mut self, from: NodeId, exec: Exec);

    /// The next message: its receiver, its sender and itself. Members get the messages of a ring in the same order.
    fn next(&mut self) -> Option<(NodeId, NodeId, Exec)>;

    /// The rings that have formed since the last call: of each member what it is told. Synchronization of a ring is over before the
    /// next forms.
    fn formed(&mut self) -> Vec<(NodeId, Membership)>;
}

/// One node, alone.
pub(super) struct Alone {
    node: NodeId,
    has_formed: bool,
    messages: VecDeque<Exec>,
}

impl Alone {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node, has_formed: false, messages: VecDeque::new() }
    }
}

/// Sequence number of the first ring of a node that never had one. Numbers grow by 4 with each, and 1 stands for the node alone before.
const FIRST_RING: u64 = 5;

impl Totem for Alone {
    fn multicast(&mut self, _: NodeId, exec: Exec) {
        self.messages.push_back(exec);
    }

    fn next(&mut self) -> Option<(NodeId, NodeId, Exec)> {
        // Before there is a ring messages wait.
        let exec = if self.has_formed { self.messages.pop_front() } else { None };
        exec.map(|exec| (self.node, self.node, exec))
    }

    fn formed(&mut self) -> Vec<(NodeId, Membership)> {
        if std::mem::replace(&mut self.has_formed, true) {
            return Vec::new();
        }
        let ring_id = RingId { node_id: self.node, seq: FIRST_RING };
        let members = vec![self.node];
        let membership =
            Membership { ring_id, joined: members.clone(), transitional: Vec::new(), left: Vec::new(), members };
        vec![(self.node, membership)]
    }
}

/// All nodes and what joins them. After each call everything that follows from it has happened.
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    totem: Box<dyn Totem>,
    outputs: Vec<ClientOutput>,
}

/// What is to be sent to a client.
#[derive(Debug, PartialEq)]
pub(super) enum ClientOutput {
    Reply {
        client: ClientId,
        message: Vec<u8>,
        zeros: u64,
    },
    Event {
        client: ClientId,
        message: Vec<u8>,
    },
    /// The daemon with this number ends, and its clients find it gone.
    Exit(usize),
}

impl World {
    pub(super) fn new(nodes: Vec<Node>, totem: Box<dyn Totem>) -> Self {
        Self { nodes, totem, outputs: Vec::new() }
    }

    /// Lets a node do something, then everybody what follows from it. Returns what is to be sent to clients, in this order.
    pub(super) fn step(&mut self, now: Instant, node: usize, body: impl FnOnce(&mut Node)) -> Vec<ClientOutput> {
        if let Some(node) = self.nodes.get_mut(node) {
            body(node);
        }
        self.settle(now)
    }

    /// Lets happen what is due.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<ClientOutput> {
        self.exchange(now);
        loop {
            let formed = self.totem.formed();
            if formed.is_empty() {
                break;
            }
            for (id, membership) in &formed {
                self.with(*id, |node| node.configure(now, membership.clone()));
            }
            self.exchange(now);
            for step in SyncStep::ALL {
                for (id, _) in &formed {
                    self.with(*id, |node| node.sync_process(now, step));
                }
                self.exchange(now);
                for (id, _) in &formed {
                    self.with(*id, |node| node.sync_activate(now, step));
                }
            }
            self.exchange(now);
        }
        std::mem::take(&mut self.outputs)
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.nodes.iter().filter_map(Node::next_timer).min()
    }

    pub(super) fn timer(&mut self, now: Instant) -> Vec<ClientOutput> {
        for node in &mut self.nodes {
            node.timer(now);
        }
        self.settle(now)
    }

    fn with(&mut self, id: NodeId, body: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.iter_mut().find(|node| node.id() == id) {
            body(node);
        }
    }

    /// Delivers messages until there are none.
    fn exchange(&mut self, now: Instant) {
        loop {
            for (number, node) in self.nodes.iter_mut().enumerate() {
                for output in node.take_outputs() {
                    self.outputs.push(match output {
                        Output::Reply { client, message, zeros } => ClientOutput::Reply { client, message, zeros },
                        Output::Event { client, message } => ClientOutput::Event { client, message },
                        Output::Exit => ClientOutput::Exit(number),
                        Output::Multicast(exec) => {
                            self.totem.multicast(node.id(), exec);
                            continue;
                        }
                    });
                }
            }
            let Some((to, from, exec)) = self.totem.next() else {
                return;
            };
            self.with(to, |node| node.deliver(now, from, exec));
        }
    }
}
