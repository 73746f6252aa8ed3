//! The requests and notifications of votequorum.

use std::time::Duration;

use bytes::Bytes;

use super::super::{ClientNumber, Context, Version, c_string};
use super::{Exec, TieBreaker, Tracker, Votequorum, flag};
use crate::embedded::node;
use crate::error::CsError;
use crate::votequorum::{InfoFlags, NodeEntry, NodeState, QDEVICE_NODE_ID};
use crate::wire::values::{NodeId, TrackFlags};
use crate::wire::votequorum::{
    AnyRequest, ExpectedVotesNotification, ExpectedVotesNotification199, GetInfoReply, NodeInfo,
    NodelistNotification, Notification199, QdeviceMasterWins, QdevicePoll, QdeviceRegister,
    QdeviceUnregister, QdeviceUpdate, QuorumNotification, SetVotes, ShortNodeInfo, Status,
    TrackStart,
};

impl Votequorum {
    pub(super) fn notify_quorum(
        &self,
        context: &mut Context<'_>,
        client: ClientNumber,
        tracking: u64,
    ) {
        // The daemon's list has the other nodes by id, then this one.
        let others = self.nodes.iter().filter(|(id, _)| **id != self.us);
        let all = others.chain(self.nodes.get_key_value(&self.us));
        let mut node_list: Vec<_> =
            all.map(|(id, node)| NodeEntry { node_id: *id, state: node.state }).collect();
        if self.our_flags() & flag::QDEVICE_REGISTERED != 0 {
            // The daemon never sets the state of the device's entry.
            node_list.push(NodeEntry { node_id: QDEVICE_NODE_ID, state: NodeState(0) });
        }
        let quorate = self.is_quorate.into();
        if self.version == Version::V1_99 {
            return context
                .event(client, &Notification199 { quorate, context: tracking, node_list });
        }
        context.event(client, &QuorumNotification { quorate, context: tracking, node_list });
    }

    pub(super) fn notify_nodelist(
        &self,
        context: &mut Context<'_>,
        client: ClientNumber,
        tracking: u64,
    ) {
        if self.version == Version::V1_99 {
            // corosync 1.99 has no such notification.
            return;
        }
        let (ring_id, node_list) = (self.ring_id, self.members.clone());
        context.event(client, &NodelistNotification { context: tracking, ring_id, node_list });
    }

    pub(super) fn notify_expected(&self, context: &mut Context<'_>) {
        let expected_votes = self.our_votes().1;
        for tracker in self.trackers.iter().rev() {
            let Tracker { client, context: tracking, .. } = *tracker;
            if self.version == Version::V1_99 {
                context.event(
                    client,
                    &ExpectedVotesNotification199 { context: tracking, expected_votes },
                );
            } else {
                context.event(
                    client,
                    &ExpectedVotesNotification { context: tracking, expected_votes },
                );
            }
        }
    }

    pub(crate) fn request(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        request: AnyRequest,
    ) {
        let status = match request {
            AnyRequest::GetInfo(request) => return self.get_info(context, client, request.nodeid),
            AnyRequest::SetExpected(request) => {
                self.request_expected(context, request.expected_votes)
            }
            AnyRequest::SetVotes(request) => self.request_votes(context, &request),
            AnyRequest::TrackStart(request) => self.track_start(context, client, &request),
            AnyRequest::TrackStop(_) => {
                let before = self.trackers.len();
                self.trackers.retain(|tracker| tracker.client != client);
                if self.trackers.len() < before { Ok(()) } else { Err(CsError::NotExist) }
            }
            AnyRequest::QdeviceRegister(QdeviceRegister { name }) => {
                match self.register(context, client, name) {
                    // The reply follows when the multicast is delivered.
                    Ok(None) => return,
                    Ok(Some(())) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            AnyRequest::QdeviceUnregister(QdeviceUnregister { name }) => {
                self.unregister(context, &name)
            }
            AnyRequest::QdeviceUpdate(QdeviceUpdate { oldname, newname }) => {
                self.check_device(&oldname).map(|()| {
                    let rename = Exec::QdeviceRename { old: oldname, new: newname };
                    context.multicast(node::Exec::Votequorum(rename));
                })
            }
            AnyRequest::QdevicePoll(request) => self.poll(context, &request),
            AnyRequest::QdeviceMasterWins(request) => self.master_wins(context, &request),
            // Newer than corosync 3.1.7.
            AnyRequest::SetQdeviceExtraInfo(_) | AnyRequest::GetQdeviceExtraInfo(_) => {
                return context.refuse(client, 0, CsError::InvalidParam);
            }
        };
        context.reply_with(client, &Status {}, status);
    }

    fn get_info(&self, context: &mut Context<'_>, client: ClientNumber, id: NodeId) {
        let id = if id == QDEVICE_NODE_ID { self.us } else { id };
        let mut info = NodeInfo {
            nodeid: NodeId(0),
            state: None,
            votes: 0,
            expected_votes: 0,
            highest_expected: 0,
            total_votes: 0,
            quorum: 0,
            flags: InfoFlags::empty(),
            qdevice_votes: 0,
            qdevice_name: Bytes::new(),
        };
        let Some(node) = self.nodes.get(&id) else {
            return context.reply_with(client, &self.in_layout(info), Err(CsError::NotExist));
        };
        let has = |flag: u32| node.flags & flag != 0;
        let device = if has(flag::QDEVICE_CAST_VOTE) { self.qdevice_votes } else { 0 };
        for (is_set, flag) in [
            (self.two_node, InfoFlags::TWO_NODE),
            (self.is_quorate, InfoFlags::QUORATE),
            (self.wait_for_all, InfoFlags::WAIT_FOR_ALL),
            (self.last_man_standing, InfoFlags::LAST_MAN_STANDING),
            (self.tie_breaker != TieBreaker::None, InfoFlags::AUTO_TIE_BREAKER),
            (self.allow_downscale, InfoFlags::ALLOW_DOWNSCALE),
            (has(flag::QDEVICE_REGISTERED), InfoFlags::QDEVICE_REGISTERED),
            (has(flag::QDEVICE_ALIVE), InfoFlags::QDEVICE_ALIVE),
            (has(flag::QDEVICE_CAST_VOTE), InfoFlags::QDEVICE_CAST_VOTE),
            (has(flag::QDEVICE_MASTER_WINS), InfoFlags::QDEVICE_MASTER_WINS),
        ] {
            if is_set {
                info.flags |= flag;
            }
        }
        let votes = self.alive().fold(0u32, |total, (_, node)| total.wrapping_add(node.votes));
        info.nodeid = id;
        info.state = Some(node.state);
        info.votes = node.votes;
        info.expected_votes = node.expected_votes;
        info.highest_expected =
            self.alive().map(|(_, node)| node.expected_votes).max().unwrap_or(0);
        info.total_votes = votes.wrapping_add(device);
        info.quorum = self.quorum;
        info.qdevice_votes = self.qdevice_votes;
        info.qdevice_name = self.qdevice_name.clone();
        context.reply(client, &self.in_layout(info));
    }

    /// Lays out the reply as this daemon's version does.
    fn in_layout(&self, info: NodeInfo) -> GetInfoReply {
        if self.version > Version::V1_99 {
            return GetInfoReply::Full(info);
        }
        let NodeInfo {
            nodeid,
            state,
            votes,
            expected_votes,
            highest_expected,
            total_votes,
            quorum,
            flags,
            ..
        } = info;
        let state = state.unwrap_or_default().0;
        let words = [
            nodeid.0,
            state,
            votes,
            expected_votes,
            highest_expected,
            total_votes,
            quorum,
            flags.bits(),
        ];
        GetInfoReply::Short(ShortNodeInfo(words))
    }

    fn request_expected(&mut self, context: &mut Context<'_>, votes: u32) -> Result<(), CsError> {
        let allow_downscale = std::mem::replace(&mut self.allow_downscale, false);
        let (quorum, total) = self.calculate(true, votes);
        self.allow_downscale = allow_downscale;
        if votes < total || (self.is_quorate && quorum > total) {
            return Err(CsError::InvalidParam);
        }
        self.set_expected(votes);
        context.multicast(node::Exec::Votequorum(Exec::ExpectedVotes(votes)));
        Ok(())
    }

    fn request_votes(
        &mut self,
        context: &mut Context<'_>,
        request: &SetVotes,
    ) -> Result<(), CsError> {
        let id = request.nodeid;
        let saved = self.votes_of(id).ok_or(CsError::NameNotFound)?;
        self.set_votes_of(id, request.votes);
        let (quorum, total) = self.calculate(true, 0);
        if quorum < total / 2 || quorum > total {
            self.set_votes_of(id, saved);
            return Err(CsError::InvalidParam);
        }
        context
            .multicast(node::Exec::Votequorum(Exec::NodeVotes { node: id, votes: request.votes }));
        Ok(())
    }

    /// Returns the votes of a node, or of the quorum device for node 0.
    pub(super) fn votes_of(&self, id: NodeId) -> Option<u32> {
        if id == QDEVICE_NODE_ID {
            Some(self.qdevice_votes)
        } else {
            self.nodes.get(&id).map(|node| node.votes)
        }
    }

    pub(super) fn set_votes_of(&mut self, id: NodeId, votes: u32) {
        if id == QDEVICE_NODE_ID {
            self.qdevice_votes = votes;
        } else if let Some(node) = self.nodes.get_mut(&id) {
            node.votes = votes;
        }
    }

    fn track_start(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        request: &TrackStart,
    ) -> Result<(), CsError> {
        let flags = request.track_flags;
        if flags.intersects(TrackFlags::CURRENT | TrackFlags::CHANGES) {
            self.notify_nodelist(context, client, request.context);
            self.notify_quorum(context, client, request.context);
        }
        if self.trackers.iter().any(|tracker| tracker.client == client) {
            return Err(CsError::Exist);
        }
        if flags.intersects(TrackFlags::CHANGES | TrackFlags::CHANGES_ONLY) {
            self.trackers.push(Tracker { client, context: request.context });
        }
        Ok(())
    }

    /// Checks that a quorum device with this name is registered.
    fn check_device(&self, name: &Bytes) -> Result<(), CsError> {
        if self.our_flags() & flag::QDEVICE_REGISTERED == 0 {
            return Err(CsError::NotExist);
        }
        if c_string(name) == self.qdevice_name { Ok(()) } else { Err(CsError::InvalidParam) }
    }

    /// Registers a quorum device. `None`: the reply comes later.
    fn register(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        name: Bytes,
    ) -> Result<Option<()>, CsError> {
        if !self.qdevice_can_operate {
            return Err(CsError::Access);
        }
        if self.our_flags() & flag::QDEVICE_REGISTERED != 0 {
            return if name == self.qdevice_name { Ok(Some(())) } else { Err(CsError::Exist) };
        }
        if self.registering.is_some() {
            return Err(CsError::TryAgain);
        }
        self.registering = Some(client);
        context.multicast(node::Exec::Votequorum(Exec::QdeviceRegister(name)));
        Ok(None)
    }

    fn unregister(&mut self, context: &mut Context<'_>, name: &Bytes) -> Result<(), CsError> {
        self.check_device(name)?;
        self.qdevice_timer = None;
        let device = flag::QDEVICE_REGISTERED
            | flag::QDEVICE_ALIVE
            | flag::QDEVICE_CAST_VOTE
            | flag::QDEVICE_MASTER_WINS;
        self.change_our_flags(|flags| flags & !device);
        self.send_node_info(context, self.us);
        context.multicast(node::Exec::Votequorum(Exec::QdeviceUnregister));
        Ok(())
    }

    fn poll(&mut self, context: &mut Context<'_>, request: &QdevicePoll) -> Result<(), CsError> {
        if !self.qdevice_can_operate {
            return Err(CsError::Access);
        }
        if self.our_flags() & flag::QDEVICE_REGISTERED == 0 {
            return Err(CsError::NotExist);
        }
        if request.ring_id != self.ring_id {
            return Err(CsError::MessageError);
        }
        self.check_device(&request.name)?;
        let casts_vote = request.cast_vote != 0;
        self.publish_our_flags(context, |flags| {
            flag::set(flags | flag::QDEVICE_ALIVE, flag::QDEVICE_CAST_VOTE, casts_vote)
        });
        self.qdevice_timer =
            context.now.checked_add(Duration::from_millis(self.qdevice_timeout.into()));
        self.waits_for_device = false;
        Ok(())
    }

    fn master_wins(
        &mut self,
        context: &mut Context<'_>,
        request: &QdeviceMasterWins,
    ) -> Result<(), CsError> {
        if !self.qdevice_can_operate {
            return Err(CsError::Access);
        }
        self.check_device(&request.name)?;
        let is_on = request.allow != 0;
        self.publish_our_flags(context, |flags| flag::set(flags, flag::QDEVICE_MASTER_WINS, is_on));
        self.qdevice_master_wins = is_on;
        context.set("runtime.votequorum.qdevice_master_wins", request.allow as u8);
        Ok(())
    }
}
