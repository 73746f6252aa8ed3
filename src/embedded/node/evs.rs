//! The evs service, as exec/evs.c of corosync 1.99. Later versions do not have it.
//!
//! The map has no counters of its messages: clients recognize corosync 1.99 by the keys
//! `runtime.services.evs.`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{ClientNumber, Context, Membership};
use crate::error::CsError;
use crate::evs::{GroupName, MAX_JOINED_GROUPS};
use crate::wire::evs::{
    AnyRequest, Confchg, Deliver, JoinReply, LeaveReply, MAX_GROUPS, McastGroupsReply,
    McastJoinedReply, MembershipReply,
};
use crate::wire::values::NodeId;

/// A message to groups.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exec {
    groups: Vec<GroupName>,
    message: Bytes,
}

#[derive(Debug)]
pub(crate) struct Evs {
    us: NodeId,
    /// The groups of each client. A group that was joined twice is listed twice.
    sessions: BTreeMap<ClientNumber, Vec<GroupName>>,
    /// The last configuration change, which a new client gets first.
    last: Option<Confchg>,
}

impl Evs {
    pub(crate) fn new(us: NodeId) -> Self {
        Self { us, sessions: BTreeMap::new(), last: None }
    }

    /// Sends a new client the last configuration change. Before the first change the daemon sends
    /// zeros, which clients ignore; this sends nothing.
    pub(crate) fn connect(&mut self, context: &mut Context<'_>, client: ClientNumber) {
        self.sessions.insert(client, Vec::new());
        if let Some(last) = &self.last {
            context.event(client, last);
        }
    }

    pub(crate) fn disconnect(&mut self, client: ClientNumber) {
        self.sessions.remove(&client);
    }

    /// Sends clients the transitional configuration, then the regular one. Matches
    /// `evs_confchg_fn`, which totem calls for each.
    pub(crate) fn configure(&mut self, context: &mut Context<'_>, membership: &Membership) {
        let Membership { members, joined, left, transitional, .. } = membership.clone();
        self.notify(
            context,
            Confchg { member_list: transitional, left_list: left, joined_list: Vec::new() },
        );
        self.notify(
            context,
            Confchg { member_list: members, left_list: Vec::new(), joined_list: joined },
        );
    }

    fn notify(&mut self, context: &mut Context<'_>, change: Confchg) {
        for client in self.sessions.keys().rev() {
            context.event(*client, &change);
        }
        self.last = Some(change);
    }

    pub(crate) fn deliver(&self, context: &mut Context<'_>, from: NodeId, exec: Exec) {
        let event = Deliver { local_nodeid: from, msg: exec.message };
        for (client, groups) in self.sessions.iter().rev() {
            if groups.iter().any(|group| exec.groups.contains(group)) {
                context.event(*client, &event);
            }
        }
    }

    /// Serves a request. While the node is not quorate, it refuses all requests, as
    /// `corosync_sending_allowed`.
    pub(crate) fn request(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        request: AnyRequest,
        is_quorate: bool,
    ) {
        if !is_quorate {
            return context.refuse(client, 0, CsError::TryAgain);
        }
        match request {
            AnyRequest::Join(request) => {
                let status = self.join(client, request.groups);
                context.reply_with(client, &JoinReply {}, status);
            }
            AnyRequest::Leave(request) => {
                let status = self.leave(client, &request.groups);
                context.reply_with(client, &LeaveReply {}, status);
            }
            AnyRequest::McastJoined(request) => {
                let groups = self.sessions.get(&client).cloned().unwrap_or_default();
                context.multicast(super::Exec::Evs(Exec { groups, message: request.msg }));
                context.reply(client, &McastJoinedReply {});
            }
            AnyRequest::McastGroups(request) => {
                context.multicast(super::Exec::Evs(Exec {
                    groups: request.groups,
                    message: request.msg,
                }));
                context.reply(client, &McastGroupsReply {});
            }
            AnyRequest::GetMembership(_) => {
                let member_list =
                    self.last.as_ref().map(|last| last.member_list.clone()).unwrap_or_default();
                context.reply(client, &MembershipReply { local_nodeid: self.us, member_list });
            }
        }
    }

    fn join(&mut self, client: ClientNumber, groups: Vec<GroupName>) -> Result<(), CsError> {
        let joined = self.sessions.get_mut(&client).ok_or(CsError::Library)?;
        if groups.len() > MAX_GROUPS {
            return Err(CsError::TooManyGroups);
        }
        // The daemon's only limit is its memory.
        if joined.len() + groups.len() > MAX_JOINED_GROUPS {
            return Err(CsError::NoMemory);
        }
        joined.extend(groups);
        Ok(())
    }

    /// Leaves groups. Stops at the first group that was not joined; the groups before it are left.
    fn leave(&mut self, client: ClientNumber, groups: &[GroupName]) -> Result<(), CsError> {
        let joined = self.sessions.get_mut(&client).ok_or(CsError::Library)?;
        for group in groups {
            let at = joined.iter().position(|one| one == group).ok_or(CsError::NotExist)?;
            joined.remove(at);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::{Config, Node, NodeOutput, ServiceId};
    use super::*;
    use crate::codec::encode_refusal;
    use crate::wire::Message;
    use crate::wire::evs::{GetMembership, Join};
    use crate::wire::values::RingId;

    const CLIENT: ClientNumber = ClientNumber(7);

    /// Node 1 of three, alone in its ring.
    fn node() -> Node {
        let mut node = Node::start(Instant::now(), NodeId(1), Config::with_nodes(3)).unwrap();
        configure(&mut node, &[1], &[1], &[], &[]);
        node
    }

    fn ids(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn configure(
        node: &mut Node,
        members: &[u32],
        joined: &[u32],
        left: &[u32],
        transitional: &[u32],
    ) {
        let [members, joined, left, transitional] = [members, joined, left, transitional].map(ids);
        let ring_id = RingId { node_id: NodeId(1), seq: 5 };
        node.configure(Instant::now(), Membership { ring_id, members, joined, left, transitional });
    }

    fn events(node: &mut Node) -> Vec<Confchg> {
        let events = node.take_outputs().into_iter().filter_map(|output| match output {
            NodeOutput::Event { client: CLIENT, message } => {
                Some(Confchg::decode(&message).unwrap())
            }
            _ => None,
        });
        events.collect()
    }

    fn change(members: &[u32], left: &[u32], joined: &[u32]) -> Confchg {
        Confchg { member_list: ids(members), left_list: ids(left), joined_list: ids(joined) }
    }

    #[test]
    fn a_client_is_greeted_and_told_both_halves_of_a_change() {
        let mut node = node();
        node.connect(Instant::now(), ServiceId::Evs, CLIENT, 1, String::new());
        assert_eq!(events(&mut node), [change(&[1], &[], &[1])]);
        configure(&mut node, &[1, 2, 3], &[2, 3], &[], &[1]);
        assert_eq!(events(&mut node), [change(&[1], &[], &[]), change(&[1, 2, 3], &[], &[2, 3])]);
        configure(&mut node, &[1, 2], &[], &[3], &[1, 2]);
        assert_eq!(events(&mut node), [change(&[1, 2], &[3], &[]), change(&[1, 2], &[], &[])]);
        node.disconnect(Instant::now(), ServiceId::Evs, CLIENT);
        configure(&mut node, &[1], &[], &[2], &[1]);
        assert_eq!(events(&mut node), []);
    }

    #[test]
    fn requests_are_to_be_tried_again_while_the_node_is_not_quorate() {
        let mut node = node();
        let now = Instant::now();
        node.connect(now, ServiceId::Evs, CLIENT, 1, String::new());
        for request in [
            GetMembership {}.encode(),
            Join { groups: vec![GroupName::from_bytes([1; 32])] }.encode(),
        ] {
            node.take_outputs();
            node.request(now, ServiceId::Evs, CLIENT, &request.unwrap().into());
            let message = encode_refusal(0, CsError::TryAgain).unwrap();
            assert_eq!(
                node.take_outputs(),
                [NodeOutput::Reply { client: CLIENT, message, zeros: 0 }]
            );
        }
    }
}
