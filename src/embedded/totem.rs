//! What joins the nodes: rings, and messages in one order for all members of a ring. In memory,
//! without faults but those it is told of.

use std::collections::{BTreeMap, VecDeque};

use super::node::Membership;
use crate::libqb::server::Random;
use crate::wire::values::{NodeId, RingId};

/// By how much the numbers of rings grow. Matches what `memb_state_commit_token_create` adds.
const RING_STEP: u64 = 4;

/// What a daemon adds at its start to the number of the last ring it knows, which it keeps in a
/// file.
const START_STEP: u64 = 1;

/// At most so many messages of a node are sent before the next node's. As `totem.max_messages` by
/// default.
const MESSAGES_A_TURN: usize = 17;

/// A message on its way to the members of a ring.
pub(super) struct Sent<M> {
    pub(super) from: NodeId,
    pub(super) to: Vec<NodeId>,
    pub(super) message: M,
}

/// Rings of nodes that send each other messages `M`.
///
/// Nodes that run, are not paused and reach each other are in one ring, once [`Totem::form`] was
/// called until it forms no more.
pub(super) struct Totem<M> {
    nodes: BTreeMap<NodeId, TotemNode<M>>,
    rings: BTreeMap<RingId, Ring>,
    random: Random,
}

/// What a node has of it.
struct TotemNode<M> {
    /// Nodes of the same part of the network reach each other.
    part: usize,
    is_up: bool,
    is_paused: bool,
    /// The last ring it knows of, and that ring's members; none since its start.
    ring: Option<(RingId, Vec<NodeId>)>,
    /// It missed what happened, so it needs a new ring, be it with the same members.
    has_lost_token: bool,
    /// The highest number of a ring it was in, which survives its end.
    seq: u64,
    queue: VecDeque<M>,
    /// What it sent before its ring formed, to go out when that is synchronized.
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
    /// Whose turn it is, and how much it has sent.
    token: usize,
    sent: usize,
    /// Nobody has spoken since it was decided where the token is.
    is_idle: bool,
}

impl<M> Totem<M> {
    pub(super) fn new(nodes: impl IntoIterator<Item = NodeId>, seed: u64) -> Self {
        let nodes = nodes.into_iter().map(|id| (id, TotemNode::default())).collect();
        Self { nodes, rings: BTreeMap::new(), random: Random::new(seed) }
    }

    /// A daemon starts.
    pub(super) fn start(&mut self, id: NodeId) {
        if let Some(place) = self.nodes.get_mut(&id) {
            let TotemNode { part, seq, .. } = *place;
            *place = TotemNode { part, is_up: true, seq: seq + START_STEP, ..TotemNode::default() };
        }
    }

    /// A daemon ends, and with it what it had not sent yet.
    pub(super) fn end(&mut self, id: NodeId) {
        if let Some(place) = self.nodes.get_mut(&id) {
            let TotemNode { part, seq, .. } = *place;
            *place = TotemNode { part, seq, ..TotemNode::default() };
        }
    }

    /// A node stands still, or goes on and finds that its token is lost.
    pub(super) fn pause(&mut self, id: NodeId, is_paused: bool) {
        if let Some(place) = self.nodes.get_mut(&id) {
            place.has_lost_token |= place.is_paused && !is_paused;
            place.is_paused = is_paused;
        }
    }

    /// Cuts the network into these parts and one of the nodes that are in none.
    pub(super) fn partition(&mut self, parts: &[Vec<NodeId>]) {
        for (id, place) in &mut self.nodes {
            place.part = parts.iter().position(|part| part.contains(id)).unwrap_or(parts.len());
        }
    }

    /// Takes a message for all members of the sender's ring.
    pub(super) fn multicast(&mut self, from: NodeId, message: M) {
        if let Some(place) = self.nodes.get_mut(&from) {
            // Who has no ring yet speaks up when it has one.
            let queue = if place.ring.is_none() { &mut place.held_back } else { &mut place.queue };
            queue.push_back(message);
        }
    }

    /// The next message. Members get the messages of a ring in this order.
    pub(super) fn next(&mut self) -> Option<Sent<M>> {
        for ring in self.rings.values_mut() {
            for _ in 0..ring.members.len() {
                let from = ring.members.get(ring.token).copied();
                let place = from
                    .and_then(|from| self.nodes.get_mut(&from))
                    .filter(|place| !place.is_paused);
                let message = if ring.sent < MESSAGES_A_TURN {
                    place.and_then(|it| it.queue.pop_front())
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
            // Where the token is when somebody speaks again is nobody's choice.
            if !std::mem::replace(&mut ring.is_idle, true) {
                ring.token = self.random.below(ring.members.len());
            }
        }
        None
    }

    /// Forms the rings that are due: of each member what it is told. They are to be synchronized.
    pub(super) fn form(&mut self) -> Vec<Vec<(NodeId, Membership)>> {
        let running = || self.nodes.iter().filter(|(_, place)| place.is_up && !place.is_paused);
        // Whoever starts is alone first, until it hears of the others.
        let mut parts: Vec<Vec<NodeId>> =
            running().filter(|(_, place)| place.ring.is_none()).map(|(id, _)| vec![*id]).collect();
        if parts.is_empty() {
            let mut by_part: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
            running().for_each(|(id, place)| by_part.entry(place.part).or_default().push(*id));
            parts = by_part.into_values().filter(|members| !self.is_ring(members)).collect();
        }
        parts.into_iter().map(|members| self.form_ring(&members)).collect()
    }

    fn is_ring(&self, members: &[NodeId]) -> bool {
        let rings: Vec<_> = members.iter().filter_map(|id| self.nodes.get(id)).collect();
        let first = rings.first().and_then(|place| place.ring.as_ref());
        rings.iter().all(|place| !place.has_lost_token && place.ring.as_ref() == first)
            && first.is_some_and(|(_, ring)| ring == members)
    }

    /// Matches `memb_state_recovery_enter` and `memb_state_operational_enter`.
    fn form_ring(&mut self, members: &[NodeId]) -> Vec<(NodeId, Membership)> {
        let seq = members
            .iter()
            .filter_map(|id| self.nodes.get(id))
            .map(|place| place.seq)
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
        let mut told = Vec::new();
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
            told.push((
                *id,
                Membership { ring_id, members: members.to_vec(), joined, left, transitional },
            ));
        }
        for id in members {
            if let Some(place) = self.nodes.get_mut(id) {
                (place.ring, place.seq, place.has_lost_token) =
                    (Some((ring_id, members.to_vec())), ring_id.seq, false);
                place.held_back.append(&mut place.queue);
            }
        }
        let token = self.random.below(members.len());
        self.rings
            .insert(ring_id, Ring { members: members.to_vec(), token, sent: 0, is_idle: true });
        // Rings that nobody who runs is in any more.
        let nodes = &self.nodes;
        self.rings.retain(|id, ring| {
            ring.members.iter().all(|node| {
                nodes.get(node).is_some_and(|place| {
                    place.ring.as_ref().is_some_and(|(ring_id, _)| ring_id == id)
                })
            })
        });
        told
    }

    /// A ring is synchronized: what its members had to say before goes out.
    pub(super) fn synchronized(&mut self, members: &[NodeId]) {
        for id in members {
            if let Some(place) = self.nodes.get_mut(id) {
                place.queue.append(&mut place.held_back);
            }
        }
    }
}
