//! The quorum service, as exec/vsf_quorum.c.

use std::collections::BTreeMap;

use super::{ClientNumber, Context, Membership};
use crate::error::CsError;
use crate::wire::quorum::{
    AnyRequest, GetQuorateReply, GetTypeReply, ModelGetTypeReply, NodelistNotification,
    Notification, QuorumNotification, TrackStartReply, TrackStopReply,
};
use crate::wire::values::{NodeId, RingId, TrackFlags};

/// The quorum type of a node with a quorum provider. Matches `QUORUM_SET`.
const QUORUM_SET: u32 = 1;

#[derive(Debug, Default)]
pub(crate) struct Quorum {
    quorate: bool,
    quorum_type: u32,
    /// The ring and its members as of the provider's last decision.
    ring_id: RingId,
    view: Vec<NodeId>,
    /// totem's membership.
    sync: Membership,
    old_members: Vec<NodeId>,
    models: BTreeMap<ClientNumber, u32>,
    /// In the order in which they started tracking. The newest is notified first.
    trackers: Vec<ClientNumber>,
}

impl Quorum {
    /// Starts the service. A node without a quorum provider is always quorate. Matches
    /// `quorum_exec_init_fn`.
    pub(crate) fn start(&mut self, has_provider: bool) {
        self.quorum_type = if has_provider { QUORUM_SET } else { 0 };
        self.quorate = !has_provider;
    }

    pub(crate) fn is_quorate(&self) -> bool {
        self.quorate
    }

    pub(crate) fn connect(&mut self, client: ClientNumber) {
        self.models.insert(client, 0);
    }

    pub(crate) fn disconnect(&mut self, client: ClientNumber) {
        self.models.remove(&client);
        self.trackers.retain(|tracker| *tracker != client);
    }

    /// Takes the provider's decision. Matches `quorum_api_set_quorum`.
    pub(crate) fn set_quorum(
        &mut self,
        context: &mut Context<'_>,
        view: &[NodeId],
        quorate: bool,
        ring_id: RingId,
    ) {
        self.quorate = quorate;
        self.view = view.to_vec();
        self.ring_id = ring_id;
        for client in self.newest_first() {
            self.notify_quorum(context, client);
        }
    }

    pub(crate) fn sync_init(&mut self, membership: &Membership) {
        let has = |list: &[NodeId], node: &NodeId| list.contains(node);
        let stays =
            |node: &NodeId| has(&membership.transitional, node) && has(&membership.members, node);
        let left: Vec<_> = self.old_members.iter().filter(|node| !stays(node)).copied().collect();
        let is_new = |node: &&NodeId| !has(&self.old_members, node) || has(&left, node);
        let joined = membership.members.iter().filter(is_new).copied().collect();
        self.sync = Membership { left, joined, ..membership.clone() };
    }

    pub(crate) fn sync_activate(&mut self, context: &mut Context<'_>) {
        self.old_members = self.sync.members.clone();
        for client in self.newest_first() {
            self.notify_nodelist(context, client, true);
        }
    }

    fn newest_first(&self) -> Vec<ClientNumber> {
        self.trackers.iter().rev().copied().collect()
    }

    fn notify_quorum(&self, context: &mut Context<'_>, client: ClientNumber) {
        let (quorate, view_list) = (self.quorate.into(), self.view.clone());
        match self.models.get(&client) {
            Some(0) => context
                .event(client, &Notification { quorate, ring_seq: self.ring_id.seq, view_list }),
            Some(1) => context
                .event(client, &QuorumNotification { quorate, ring_id: self.ring_id, view_list }),
            _ => {}
        }
    }

    fn notify_nodelist(&self, context: &mut Context<'_>, client: ClientNumber, with_changes: bool) {
        if self.models.get(&client) == Some(&1) {
            let Membership { ring_id, members, joined, left, .. } = self.sync.clone();
            let (joined_list, left_list) =
                if with_changes { (joined, left) } else { Default::default() };
            context.event(
                client,
                &NodelistNotification { ring_id, member_list: members, joined_list, left_list },
            );
        }
    }

    pub(crate) fn request(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        request: AnyRequest,
    ) {
        match request {
            AnyRequest::GetQuorate(_) => {
                context.reply(client, &GetQuorateReply { quorate: self.quorate.into() })
            }
            AnyRequest::TrackStart(request) => {
                let flags = request.track_flags;
                if flags.intersects(TrackFlags::CURRENT | TrackFlags::CHANGES) {
                    self.notify_nodelist(context, client, false);
                    self.notify_quorum(context, client);
                }
                let is_on = self.trackers.contains(&client);
                if !is_on && flags.intersects(TrackFlags::CHANGES | TrackFlags::CHANGES_ONLY) {
                    self.trackers.push(client);
                }
                let status = if is_on { Err(CsError::Exist) } else { Ok(()) };
                context.reply_with(client, &TrackStartReply {}, status);
            }
            AnyRequest::TrackStop(_) => {
                // Succeeds without a tracker too: the daemon drops its error.
                self.trackers.retain(|tracker| *tracker != client);
                context.reply(client, &TrackStopReply {});
            }
            AnyRequest::GetType(_) => {
                context.reply(client, &GetTypeReply { quorum_type: self.quorum_type })
            }
            AnyRequest::ModelGetType(request) => {
                let status = if request.model > 1 { Err(CsError::InvalidParam) } else { Ok(()) };
                if status.is_ok() {
                    self.models.insert(client, request.model);
                }
                context.reply_with(
                    client,
                    &ModelGetTypeReply { quorum_type: self.quorum_type },
                    status,
                );
            }
        }
    }
}
