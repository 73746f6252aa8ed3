//! totem in memory: forms rings of nodes and delivers messages in one order to all members of a
//! ring. It has no faults but those that a test asks for.

use std::collections::{BTreeMap, VecDeque};

use super::node::Membership;
use crate::libqb::server::Random;
use crate::wire::values::{NodeId, RingId};

/// The step between the sequence numbers of rings. Matches what `memb_state_commit_token_create`
/// adds.
const RING_STEP: u64 = 4;

/// The number that a daemon adds at its start to the sequence number of its last ring, which it
/// keeps in a file.
const START_STEP: u64 = 1;

/// The most messages that a node sends while it holds the token. Matches the default of
/// `totem.max_messages`.
const MESSAGES_PER_TOKEN: usize = 17;

/// A message to the members of a ring.
pub(super) struct Sent<M> {
    pub(super) from: NodeId,
    pub(super) to: Vec<NodeId>,
    pub(super) message: M,
}

/// Rings of nodes that send each other messages `M`.
///
/// Call [`Totem::form`] until it forms no more rings. Then all nodes that run, are not paused and
/// reach each other are in one ring.
pub(super) struct Totem<M> {
    nodes: BTreeMap<NodeId, TotemNode<M>>,
    rings: BTreeMap<RingId, Ring>,
    random: Random,
}

/// totem's state of a node.
struct TotemNode<M> {
    /// The part of the network that the node is in. Nodes of one part reach each other.
    part: usize,
    is_up: bool,
    is_paused: bool,
    /// The node's ring and its members. `None` from the start until it forms a ring.
    ring: Option<(RingId, Vec<NodeId>)>,
    /// The node was paused, so it must form a new ring even if the members are the same.
    has_lost_token: bool,
    /// The highest sequence number of the node's rings. It survives the daemon's end.
    seq: u64,
    queue: VecDeque<M>,
    /// Messages from before the ring formed. They are sent once the ring is synchronized.
    held_back: VecDeque<M>,
}

impl<M> Default for TotemNode<M> {
    fn default() -> Self {
        Self {
            part: 0,
            is_up: false,
            is_paused: false,
            ring: None,
            has_lost_token: false,
            seq: 0,
            queue: VecDeque::new(),
            held_back: VecDeque::new(),
        }
    }
}

struct Ring {
    members: Vec<NodeId>,
    /// The index of the member that holds the token.
    token: usize,
    /// The number of messages that the holder has sent.
    sent: usize,
    /// No member has sent a message since the position of the token was chosen at random.
    is_idle: bool,
}

impl<M> Totem<M> {
    pub(super) fn new(nodes: impl IntoIterator<Item = NodeId>, seed: u64) -> Self {
        let nodes = nodes.into_iter().map(|id| (id, TotemNode::default())).collect();
        Self { nodes, rings: BTreeMap::new(), random: Random::new(seed) }
    }

    /// Starts a daemon.
    pub(super) fn start(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            let TotemNode { part, seq, .. } = *node;
            *node = TotemNode { part, is_up: true, seq: seq + START_STEP, ..TotemNode::default() };
        }
    }

    /// Ends a daemon. Its unsent messages are lost.
    pub(super) fn end(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            let TotemNode { part, seq, .. } = *node;
            *node = TotemNode { part, seq, ..TotemNode::default() };
        }
    }

    /// Pauses or resumes a node. A resumed node finds its token lost.
    pub(super) fn pause(&mut self, id: NodeId, is_paused: bool) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.has_lost_token |= node.is_paused && !is_paused;
            node.is_paused = is_paused;
        }
    }

    /// Partitions the network into `parts`. The nodes that are in none form one more part.
    pub(super) fn partition(&mut self, parts: &[Vec<NodeId>]) {
        for (id, node) in &mut self.nodes {
            node.part = parts.iter().position(|part| part.contains(id)).unwrap_or(parts.len());
        }
    }

    /// Takes a message for all members of the sender's ring.
    pub(super) fn multicast(&mut self, from: NodeId, message: M) {
        if let Some(node) = self.nodes.get_mut(&from) {
            // A node without a ring sends once it has one.
            let queue = if node.ring.is_none() { &mut node.held_back } else { &mut node.queue };
            queue.push_back(message);
        }
    }

    /// Takes the next message. All members get the messages of a ring in this order.
    pub(super) fn next(&mut self) -> Option<Sent<M>> {
        for ring in self.rings.values_mut() {
            for _ in 0..ring.members.len() {
                let from = ring.members.get(ring.token).copied();
                let node =
                    from.and_then(|from| self.nodes.get_mut(&from)).filter(|node| !node.is_paused);
                let message = if ring.sent < MESSAGES_PER_TOKEN {
                    node.and_then(|it| it.queue.pop_front())
                } else {
                    None
                };
                if let (Some(from), Some(message)) = (from, message) {
                    ring.sent += 1;
                    ring.is_idle = false;
                    return Some(Sent { from, to: ring.members.clone(), message });
                }
                (ring.token, ring.sent) = ((ring.token + 1) % ring.members.len(), 0);
            }
            // The ring is idle. Real time would decide who holds the token when a member sends
            // again, so the seed does.
            if !std::mem::replace(&mut ring.is_idle, true) {
                ring.token = self.random.below(ring.members.len());
            }
        }
        None
    }

    /// Forms the rings that are due. Returns the memberships of each new ring, one per member. The
    /// caller synchronizes the rings.
    pub(super) fn form(&mut self) -> Vec<Vec<(NodeId, Membership)>> {
        let running = || self.nodes.iter().filter(|(_, node)| node.is_up && !node.is_paused);
        // A node that starts is alone in its first ring, until it hears of the others.
        let mut parts: Vec<Vec<NodeId>> =
            running().filter(|(_, node)| node.ring.is_none()).map(|(id, _)| vec![*id]).collect();
        if parts.is_empty() {
            let mut by_part: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
            running().for_each(|(id, node)| by_part.entry(node.part).or_default().push(*id));
            parts = by_part.into_values().filter(|members| !self.is_ring(members)).collect();
        }
        parts.into_iter().map(|members| self.form_ring(&members)).collect()
    }

    fn is_ring(&self, members: &[NodeId]) -> bool {
        let rings: Vec<_> = members.iter().filter_map(|id| self.nodes.get(id)).collect();
        let first = rings.first().and_then(|node| node.ring.as_ref());
        rings.iter().all(|node| !node.has_lost_token && node.ring.as_ref() == first)
            && first.is_some_and(|(_, ring)| ring == members)
    }

    /// Matches `memb_state_recovery_enter` and `memb_state_operational_enter`.
    fn form_ring(&mut self, members: &[NodeId]) -> Vec<(NodeId, Membership)> {
        let seq = members
            .iter()
            .filter_map(|id| self.nodes.get(id))
            .map(|node| node.seq)
            .max()
            .unwrap_or(0);
        let node_id = members.first().copied().unwrap_or_default();
        let ring_id = RingId { node_id, seq: seq + RING_STEP };
        let before: BTreeMap<NodeId, Option<(RingId, Vec<NodeId>)>> = members
            .iter()
            .filter_map(|id| Some((*id, self.nodes.get_mut(id)?.ring.take())))
            .collect();
        let old_id = |id: &NodeId| {
            before.get(id).and_then(|ring| ring.as_ref()).map(|(ring_id, _)| *ring_id)
        };
        let mut memberships = Vec::new();
        for id in members {
            let old = before
                .get(id)
                .and_then(|ring| ring.as_ref())
                .map_or(&[][..], |(_, members)| members);
            let stays = |other: &&NodeId| {
                old.contains(other) && members.contains(other) && old_id(other) == old_id(id)
            };
            let transitional: Vec<NodeId> = members.iter().filter(stays).copied().collect();
            let without = |list: &[NodeId]| {
                list.iter().filter(|other| !transitional.contains(other)).copied().collect()
            };
            let (joined, left) = (without(members), without(old));
            memberships.push((
                *id,
                Membership { ring_id, members: members.to_vec(), joined, left, transitional },
            ));
        }
        for id in members {
            if let Some(node) = self.nodes.get_mut(id) {
                (node.ring, node.seq, node.has_lost_token) =
                    (Some((ring_id, members.to_vec())), ring_id.seq, false);
                node.held_back.append(&mut node.queue);
            }
        }
        let token = self.random.below(members.len());
        self.rings
            .insert(ring_id, Ring { members: members.to_vec(), token, sent: 0, is_idle: true });
        // Drop each ring that a member has left.
        let nodes = &self.nodes;
        self.rings.retain(|id, ring| {
            ring.members.iter().all(|node| {
                nodes.get(node).is_some_and(|node| {
                    node.ring.as_ref().is_some_and(|(ring_id, _)| ring_id == id)
                })
            })
        });
        memberships
    }

    /// Lets the members of a synchronized ring send the messages they held back.
    pub(super) fn synchronized(&mut self, members: &[NodeId]) {
        for id in members {
            if let Some(node) = self.nodes.get_mut(id) {
                node.queue.append(&mut node.held_back);
            }
        }
    }
}
