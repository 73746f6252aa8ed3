//! The votequorum service, as exec/votequorum.c.

mod clients;
mod config;
mod votes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::quorum::Quorum;
use super::trackers::Watcher;
use super::{ClientNumber, Context, Membership, Version};
use crate::cmap::TrackEvents;
use crate::error::CsError;
use crate::votequorum::{NodeState, QDEVICE_NODE_ID};
use crate::wire::values::{NodeId, RingId};
use crate::wire::votequorum::Status;

/// A message between nodes, numbered as in the daemon.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Exec {
    NodeInfo { node: NodeId, votes: u32, expected_votes: u32, flags: u32 },
    ExpectedVotes(u32),
    NodeVotes { node: NodeId, votes: u32 },
    CancelWaitForAll,
    QdeviceRegister(Bytes),
    QdeviceUnregister,
    QdeviceRename { old: Bytes, new: Bytes },
}

impl Exec {
    pub(super) fn number(&self) -> u32 {
        match self {
            Self::NodeInfo { .. } => 0,
            Self::ExpectedVotes(_) | Self::NodeVotes { .. } | Self::CancelWaitForAll => 1,
            Self::QdeviceRegister(_) | Self::QdeviceUnregister => 2,
            Self::QdeviceRename { .. } => 3,
        }
    }
}

/// The flags of a node. Match `NODE_FLAGS_QUORATE` and its siblings.
mod flag {
    pub(super) const QUORATE: u32 = 1;
    pub(super) const LEAVING: u32 = 2;
    pub(super) const WAIT_FOR_ALL: u32 = 4;
    pub(super) const FIRST: u32 = 8;
    pub(super) const QDEVICE_REGISTERED: u32 = 16;
    pub(super) const QDEVICE_ALIVE: u32 = 32;
    pub(super) const QDEVICE_CAST_VOTE: u32 = 64;
    pub(super) const QDEVICE_MASTER_WINS: u32 = 128;

    /// Returns `flags` with `flag` switched on or off.
    pub(super) const fn set(flags: u32, flag: u32, is_on: bool) -> u32 {
        if is_on { flags | flag } else { flags & !flag }
    }
}

const DEFAULT_QDEVICE_TIMEOUT: u32 = 10_000;
const DEFAULT_QDEVICE_SYNC_TIMEOUT: u32 = 30_000;
const DEFAULT_LAST_MAN_WINDOW: u32 = 10_000;

/// The keys that become read-only when the daemon has started.
const READ_ONLY: [&str; 7] = [
    "quorum.allow_downscale",
    "quorum.wait_for_all",
    "quorum.last_man_standing",
    "quorum.last_man_standing_window",
    "quorum.expected_votes_tracking",
    "quorum.auto_tie_breaker",
    "quorum.auto_tie_breaker_node",
];

#[derive(Clone, Debug, PartialEq)]
struct Node {
    state: NodeState,
    votes: u32,
    expected_votes: u32,
    flags: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum TieBreaker {
    #[default]
    None,
    Lowest,
    Highest,
    List(Vec<NodeId>),
}

impl TieBreaker {
    /// Matches `ATB_NONE` and its siblings.
    fn number(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::Lowest => 1,
            Self::Highest => 2,
            Self::List(_) => 3,
        }
    }

    /// Matches `parse_atb_string`.
    fn parse(text: &str) -> Self {
        let list: Vec<NodeId> = text
            .split_whitespace()
            .map_while(|word| word.parse().ok().filter(|id| *id != 0).map(NodeId))
            .collect();
        match text {
            "lowest" => Self::Lowest,
            "highest" => Self::Highest,
            _ if !list.is_empty() => Self::List(list),
            _ => Self::None,
        }
    }
}

#[derive(Debug)]
struct Tracker {
    client: ClientNumber,
    context: u64,
}

#[derive(Debug)]
pub(crate) struct Votequorum {
    us: NodeId,
    version: Version,
    /// All nodes ever seen, this one included.
    nodes: BTreeMap<NodeId, Node>,
    qdevice_votes: u32,
    qdevice_name: Bytes,
    qdevice_timeout: u32,
    qdevice_sync_timeout: u32,
    qdevice_can_operate: bool,
    qdevice_master_wins: bool,
    /// The client whose registration of a quorum device is pending.
    registering: Option<ClientNumber>,
    two_node: bool,
    wait_for_all: bool,
    wait_for_all_status: bool,
    wait_for_all_autoset: bool,
    tie_breaker: TieBreaker,
    initial_tie_breaker: TieBreaker,
    lowest: NodeId,
    highest: NodeId,
    last_man_standing: bool,
    last_man_window: u32,
    allow_downscale: bool,
    expected_barrier: u32,
    expected_tracking: bool,
    tracking_barrier: u32,
    quorum: u32,
    is_quorate: bool,
    members: Vec<NodeId>,
    previous_members: Vec<NodeId>,
    ring_id: RingId,
    in_sync: bool,
    waits_for_device: bool,
    trackers: Vec<Tracker>,
    qdevice_timer: Option<Instant>,
    last_man_timer: Option<Instant>,
}

impl Votequorum {
    pub(crate) fn new(us: NodeId, version: Version) -> Self {
        Self {
            us,
            version,
            nodes: BTreeMap::new(),
            qdevice_votes: 0,
            qdevice_name: Bytes::new(),
            qdevice_timeout: DEFAULT_QDEVICE_TIMEOUT,
            qdevice_sync_timeout: DEFAULT_QDEVICE_SYNC_TIMEOUT,
            qdevice_can_operate: true,
            qdevice_master_wins: false,
            registering: None,
            two_node: false,
            wait_for_all: false,
            wait_for_all_status: false,
            wait_for_all_autoset: false,
            tie_breaker: TieBreaker::None,
            initial_tie_breaker: TieBreaker::None,
            lowest: us,
            highest: us,
            last_man_standing: false,
            last_man_window: DEFAULT_LAST_MAN_WINDOW,
            allow_downscale: false,
            expected_barrier: 0,
            expected_tracking: false,
            tracking_barrier: 0,
            quorum: 0,
            is_quorate: false,
            members: Vec::new(),
            previous_members: Vec::new(),
            ring_id: RingId::default(),
            in_sync: false,
            waits_for_device: false,
            trackers: Vec::new(),
            qdevice_timer: None,
            last_man_timer: None,
        }
    }

    /// Matches `votequorum_exec_init_fn`.
    ///
    /// # Errors
    /// The daemon's error message for a configuration that it does not start with.
    pub(crate) fn start(
        &mut self,
        context: &mut Context<'_>,
        quorum: &mut Quorum,
    ) -> Result<(), &'static str> {
        context.set("runtime.votequorum.this_node_id", self.us.0);
        let us = Node { state: NodeState::MEMBER, votes: 1, expected_votes: 0, flags: flag::FIRST };
        self.nodes.insert(self.us, us);
        self.read_config(context, true)?;
        self.recalculate(context, quorum, false, false);
        for key in READ_ONLY {
            context.icmap.protect(key, false);
        }
        let events =
            TrackEvents::ADD | TrackEvents::DELETE | TrackEvents::MODIFY | TrackEvents::PREFIX;
        for prefix in ["nodelist.", "quorum."] {
            let _ = context.icmap.track(
                Bytes::from_static(prefix.as_bytes()),
                events,
                Watcher::Votequorum,
            );
        }
        let events = TrackEvents::ADD | TrackEvents::MODIFY;
        let key = Bytes::from_static(b"config.totemconfig_reload_in_progress");
        let _ = context.icmap.track(key, events, Watcher::Votequorum);
        self.send_node_info(context, self.us);
        Ok(())
    }

    /// Multicasts that this node leaves, if downscale is allowed. Matches
    /// `votequorum_exec_exit_fn`.
    pub(crate) fn unload(&mut self, context: &mut Context<'_>) {
        if self.allow_downscale {
            self.change_our_flags(|flags| flags | flag::LEAVING);
            self.send_node_info(context, self.us);
        }
    }

    pub(crate) fn disconnect(&mut self, client: ClientNumber) {
        self.trackers.retain(|tracker| tracker.client != client);
        if self.registering == Some(client) {
            self.registering = None;
        }
    }

    /// The time of the next call of [`Votequorum::timer`].
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.qdevice_timer.into_iter().chain(self.last_man_timer).min()
    }

    /// Expires the timers that are due.
    pub(crate) fn timer(&mut self, context: &mut Context<'_>, quorum: &mut Quorum) {
        let now = context.now;
        let has_expired = self.qdevice_timer.take_if(|timer| *timer <= now).is_some();
        self.waits_for_device &= !has_expired;
        if has_expired && self.our_flags() & flag::QDEVICE_ALIVE != 0 {
            self.change_our_flags(|flags| flags & !(flag::QDEVICE_ALIVE | flag::QDEVICE_CAST_VOTE));
            self.send_node_info(context, self.us);
        }
        if self.last_man_timer.take_if(|timer| *timer <= now).is_some() && self.is_quorate {
            self.recalculate(context, quorum, true, true);
        }
    }

    // --- other nodes ---

    fn send_node_info(&self, context: &mut Context<'_>, node: NodeId) {
        let info = match self.nodes.get(&node) {
            Some(info) => Exec::NodeInfo {
                node,
                votes: info.votes,
                expected_votes: info.expected_votes,
                flags: info.flags,
            },
            None if node == QDEVICE_NODE_ID => {
                Exec::NodeInfo { node, votes: self.qdevice_votes, expected_votes: 0, flags: 0 }
            }
            None => return,
        };
        context.multicast(super::Exec::Votequorum(info));
    }

    pub(crate) fn deliver(
        &mut self,
        context: &mut Context<'_>,
        quorum: &mut Quorum,
        from: NodeId,
        exec: Exec,
    ) {
        match exec {
            Exec::NodeInfo { node, votes, .. } if node == QDEVICE_NODE_ID => {
                let is_sender_quorate =
                    self.nodes.get(&from).is_some_and(|node| node.flags & flag::QUORATE != 0);
                let old = self.qdevice_votes;
                self.qdevice_votes =
                    if !self.is_quorate && is_sender_quorate { votes } else { old.max(votes) };
                if self.qdevice_votes != old {
                    self.recalculate(context, quorum, false, false);
                }
            }
            Exec::NodeInfo { node, votes, expected_votes, flags } => {
                self.deliver_node_info(context, quorum, node, (votes, expected_votes, flags));
            }
            Exec::ExpectedVotes(votes) => {
                self.set_expected(votes);
                self.notify_expected(context);
                self.set_expected_barrier(context, votes);
                let barrier = self.tracking_barrier;
                if let Some(us) = self.nodes.get_mut(&self.us).filter(|_| self.expected_tracking) {
                    us.expected_votes = us.expected_votes.max(barrier);
                }
                self.recalculate(context, quorum, true, false);
            }
            Exec::NodeVotes { node, votes } => {
                if self.votes_of(node).is_some() {
                    self.set_votes_of(node, votes);
                    self.recalculate(context, quorum, true, false);
                }
            }
            Exec::CancelWaitForAll => {
                self.set_wait_for_all_status(context, false);
                self.recalculate(context, quorum, false, false);
            }
            Exec::QdeviceRegister(name) => self.deliver_registration(context, from, name),
            Exec::QdeviceUnregister => {
                if !self.alive().any(|(_, node)| node.flags & flag::QDEVICE_REGISTERED != 0) {
                    self.qdevice_name = Bytes::new();
                }
            }
            Exec::QdeviceRename { old, new } => {
                if old == self.qdevice_name {
                    self.qdevice_name = new;
                }
            }
        }
    }

    /// Matches `message_handler_req_exec_votequorum_nodeinfo`.
    fn deliver_node_info(
        &mut self,
        context: &mut Context<'_>,
        quorum: &mut Quorum,
        id: NodeId,
        (votes, expected_votes, flags): (u32, u32, u32),
    ) {
        let old = self.nodes.get(&id).cloned();
        let is_leaving = flags & flag::LEAVING != 0;
        let sender_quorate = flags & flag::QUORATE != 0;
        let mut allow_decrease = is_leaving;
        if !self.is_quorate && sender_quorate {
            allow_decrease = true;
            if let Some(us) = self.nodes.get_mut(&self.us) {
                us.expected_votes = expected_votes;
            }
        }
        let expected_votes = if sender_quorate || self.expected_tracking {
            expected_votes
        } else {
            self.our_votes().1
        };
        let state = if is_leaving { NodeState::LEAVING } else { NodeState::MEMBER };
        let node = Node { state, votes, expected_votes, flags };
        self.nodes.insert(id, node.clone());
        if self.last_man_standing && votes > 1 {
            self.last_man_standing = false;
            self.last_man_timer = None;
        }
        if id == self.us || flags & flag::FIRST != 0 || old != Some(node) {
            self.recalculate(context, quorum, allow_decrease, is_leaving);
        }
        let flags = self.nodes.get(&id).map_or(0, |node| node.flags);
        if self.wait_for_all && flags & flag::WAIT_FOR_ALL == 0 && flags & flag::QUORATE != 0 {
            self.set_wait_for_all_status(context, false);
        }
    }

    fn deliver_registration(&mut self, context: &mut Context<'_>, from: NodeId, name: Bytes) {
        if from != self.us {
            if self.qdevice_name.is_empty() {
                self.qdevice_name = name;
            }
            return;
        }
        if self.our_flags() & flag::QDEVICE_REGISTERED != 0 {
            return;
        }
        let Some(client) = self.registering.take() else {
            return;
        };
        if self.qdevice_name.is_empty() {
            self.qdevice_name = name.clone();
        }
        let status = if name == self.qdevice_name {
            self.change_our_flags(|flags| flags | flag::QDEVICE_REGISTERED);
            self.send_node_info(context, QDEVICE_NODE_ID);
            self.send_node_info(context, self.us);
            Ok(())
        } else {
            Err(CsError::Exist)
        };
        context.reply_with(client, &Status {}, status);
    }

    // --- synchronization ---

    pub(crate) fn sync_init(&mut self, context: &mut Context<'_>, membership: &Membership) {
        self.in_sync = true;
        if membership.members.len() > 1 {
            self.change_our_flags(|flags| flags & !flag::FIRST);
        }
        let mut has_left = false;
        for node in self.members.iter().filter(|node| !membership.members.contains(node)) {
            has_left = true;
            if let Some(node) = self.nodes.get_mut(node) {
                node.state = NodeState::DEAD;
            }
        }
        let count = membership.members.len() as u32;
        let has_lowest =
            self.tie_breaker != TieBreaker::None && self.alive().any(|(id, _)| *id == self.lowest);
        if self.last_man_standing
            && ((count >= self.quorum && has_left) || (count <= self.quorum && has_lowest))
        {
            self.last_man_timer =
                context.now.checked_add(Duration::from_millis(self.last_man_window.into()));
        }
        self.previous_members = std::mem::replace(&mut self.members, membership.members.clone());
        self.ring_id = membership.ring_id;
        let polled = flag::QDEVICE_REGISTERED | flag::QDEVICE_ALIVE;
        if self.our_flags() & polled == polled {
            self.qdevice_timer =
                context.now.checked_add(Duration::from_millis(self.qdevice_sync_timeout.into()));
        }
        self.waits_for_device = self.our_flags() & polled == polled;
    }

    /// Returns true while synchronization waits for the quorum device's vote on the new ring, at
    /// most for `quorum.device.sync_timeout`.
    pub(crate) fn waits_for_device(&self) -> bool {
        self.waits_for_device && self.our_flags() & flag::QDEVICE_REGISTERED != 0
    }

    pub(crate) fn sync_process(&mut self, context: &mut Context<'_>) {
        self.send_node_info(context, self.us);
        self.send_node_info(context, QDEVICE_NODE_ID);
        if !self.qdevice_name.is_empty() {
            let name = self.qdevice_name.clone();
            context.multicast(super::Exec::Votequorum(Exec::QdeviceRegister(name)));
        }
        for tracker in self.trackers.iter().rev() {
            self.notify_nodelist(context, tracker.client, tracker.context);
        }
    }

    pub(crate) fn sync_activate(&mut self, context: &mut Context<'_>, quorum: &mut Quorum) {
        self.recalculate(context, quorum, false, false);
        self.publish_quorum(context, quorum);
        self.in_sync = false;
    }
}
