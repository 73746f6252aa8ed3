//! The cpg service, as exec/cpg.c.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{ClientNumber, Context, Membership, Version};
use crate::cpg::{Address, GroupName, Reason};
use crate::error::CsError;
use crate::wire::cpg::{
    AnyRequest, ConfchgCallback, DeliverCallback, Description, FinalizeReply, FragmentType,
    IterationFinalizeReply, IterationInitialize, IterationInitializeReply, IterationNextReply,
    Join, JoinReply, Leave, LeaveReply, LocalGetReply, MAX_MEMBERS, Mcast, MembershipReply,
    PartialDeliverCallback, PartialMcast, PartialSendReply, TotemConfchgCallback,
};
use crate::wire::values::{NodeId, RingId};

/// The flag of a join that asks for the totem membership. Matches
/// `CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF`.
const INITIAL_TOTEM: u32 = 1;

/// The size in the header of corosync 1.99's membership reply, which is that of the request.
/// Matches `sizeof (struct req_lib_cpg_membership_get)`.
const MEMBERSHIP_REQUEST_SIZE: u32 = 152;

/// The most open iterations of a connection, each of which holds a copy of the members. The
/// daemon's only limit is its memory.
const MAX_ITERATIONS: usize = 64;

/// A message between nodes, numbered as in the daemon.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Exec {
    Join {
        pid: u32,
        group: GroupName,
    },
    Leave {
        pid: u32,
        group: GroupName,
        reason: Reason,
    },
    /// The members on the sender's node, for nodes that were not in its last ring.
    JoinList(Vec<(u32, GroupName)>),
    Mcast {
        pid: u32,
        group: GroupName,
        message: Bytes,
    },
    /// The nodes that left, as the sender sees it. Receivers ignore it.
    DownList,
    PartialMcast {
        pid: u32,
        group: GroupName,
        msglen: u32,
        fragment_type: FragmentType,
        message: Bytes,
    },
}

impl Exec {
    pub(super) fn number(&self) -> u32 {
        match self {
            Self::Join { .. } => 0,
            Self::Leave { .. } => 1,
            Self::JoinList(_) => 2,
            Self::Mcast { .. } => 3,
            Self::DownList => 5,
            Self::PartialMcast { .. } => 6,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    Unjoined,
    JoinStarted,
    Joined,
    /// Final: a connection that left its group cannot join another.
    Left,
}

#[derive(Debug)]
struct Session {
    state: State,
    pid: u32,
    group: GroupName,
    flags: u32,
    has_initial_totem: bool,
    /// The number of configuration changes.
    transitions: u64,
    /// The value of `transitions` at the first fragment of the current message.
    at_first_fragment: u64,
    /// The client sent a finalize request, so it gets no more events.
    is_finalized: bool,
}

impl Session {
    /// Returns true if the client gets the events of a group.
    fn receives(&self, group: &GroupName) -> bool {
        !self.is_finalized
            && matches!(self.state, State::Joined | State::Left)
            && self.group == *group
    }
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    node: NodeId,
    pid: u32,
    group: GroupName,
}

impl Process {
    fn address(&self, reason: Reason) -> Address {
        Address { node_id: self.node, pid: self.pid, reason }
    }
}

#[derive(Debug)]
struct Iteration {
    owner: ClientNumber,
    items: VecDeque<Process>,
}

#[derive(Debug)]
pub(crate) struct Cpg {
    us: NodeId,
    version: Version,
    sessions: BTreeMap<ClientNumber, Session>,
    /// All members of all groups, sorted by node and pid. Equal ones are in order of their join.
    processes: Vec<Process>,
    iterations: BTreeMap<u64, Iteration>,
    next_iteration: u64,
    ring_id: RingId,
    members: Vec<NodeId>,
    old_members: Vec<NodeId>,
    /// The nodes of the last ring that are not in the new one.
    left_nodes: Vec<NodeId>,
    /// The members that nodes reported during synchronization, the latest first.
    join_lists: Vec<Process>,
}

impl Cpg {
    pub(crate) fn new(us: NodeId, version: Version) -> Self {
        Self {
            us,
            version,
            sessions: BTreeMap::new(),
            processes: Vec::new(),
            iterations: BTreeMap::new(),
            next_iteration: 1,
            ring_id: RingId::default(),
            members: Vec::new(),
            old_members: Vec::new(),
            left_nodes: Vec::new(),
            join_lists: Vec::new(),
        }
    }

    pub(crate) fn connect(&mut self, client: ClientNumber) {
        let session = Session {
            state: State::Unjoined,
            pid: 0,
            group: GroupName::default(),
            flags: 0,
            has_initial_totem: false,
            transitions: 0,
            at_first_fragment: 0,
            is_finalized: false,
        };
        self.sessions.insert(client, session);
    }

    pub(crate) fn disconnect(&mut self, context: &mut Context<'_>, client: ClientNumber) {
        self.iterations.retain(|_, iteration| iteration.owner != client);
        let Some(session) = self.sessions.remove(&client) else {
            return;
        };
        if !session.group.as_bytes().is_empty() && session.state != State::Left {
            let Session { pid, group, .. } = session;
            context.multicast(super::Exec::Cpg(Exec::Leave {
                pid,
                group,
                reason: Reason::PROCDOWN,
            }));
        }
    }

    /// Closes all connections, the newest first.
    pub(crate) fn unload(&mut self, context: &mut Context<'_>) {
        for client in self.newest_first(|_| true) {
            self.disconnect(context, client);
        }
    }

    // --- membership ---

    pub(crate) fn sync_init(&mut self, membership: &Membership) {
        self.members = membership.members.clone();
        self.ring_id = membership.ring_id;
        let stays = |node: &&NodeId| membership.transitional.contains(node);
        self.left_nodes = self.old_members.iter().filter(|node| !stays(node)).copied().collect();
        self.join_lists.clear();
    }

    pub(crate) fn sync_process(&mut self, context: &mut Context<'_>) {
        context.multicast(super::Exec::Cpg(Exec::DownList));
        let ours = self.processes.iter().filter(|process| process.node == self.us);
        let list: Vec<_> = ours.map(|process| (process.pid, process.group)).collect();
        if !list.is_empty() {
            context.multicast(super::Exec::Cpg(Exec::JoinList(list)));
        }
    }

    pub(crate) fn sync_activate(&mut self, context: &mut Context<'_>) {
        self.old_members = self.members.clone();
        self.remove_left_nodes(context);
        self.add_joined_nodes(context);
        self.remove_zombies(context);
        self.join_lists.clear();
        for client in self.listening() {
            self.notify_totem(context, client, &self.members);
        }
    }

    /// Matches `downlist_inform_clients`.
    fn remove_left_nodes(&mut self, context: &mut Context<'_>) {
        let left_nodes = std::mem::take(&mut self.left_nodes);
        let (left, stay) =
            self.processes.iter().partition(|process| left_nodes.contains(&process.node));
        self.processes = stay;
        for (group, processes) in by_group(left) {
            let left = processes.iter().map(|process| process.address(Reason::NODEDOWN)).collect();
            self.notify_change(context, group, Vec::new(), left);
        }
    }

    /// Matches `joinlist_inform_clients`.
    fn add_joined_nodes(&mut self, context: &mut Context<'_>) {
        let others = self.join_lists.iter().filter(|process| process.node != self.us).copied();
        let mut joined: Vec<Process> = Vec::new();
        for process in others.collect::<Vec<_>>() {
            if self.add_process(process) {
                joined.push(process);
            }
        }
        for (group, processes) in by_group(joined) {
            let joined = processes.iter().map(|process| process.address(Reason::NODEUP)).collect();
            self.notify_change(context, group, joined, Vec::new());
        }
    }

    /// Removes processes that left while their node was in another partition. Matches
    /// `joinlist_remove_zombie_pi_entries`.
    fn remove_zombies(&mut self, context: &mut Context<'_>) {
        let is_zombie =
            |process: &&Process| process.node != self.us && !self.join_lists.contains(process);
        let zombies: Vec<_> = self.processes.iter().filter(is_zombie).copied().collect();
        for process in zombies {
            self.remove_process(context, process, Reason::PROCDOWN);
        }
    }

    /// Adds a member to its group. Returns false if it is in the group already.
    fn add_process(&mut self, process: Process) -> bool {
        if self.processes.contains(&process) {
            return false;
        }
        let key = (process.node, process.pid);
        let at = self.processes.partition_point(|other| (other.node, other.pid) <= key);
        self.processes.insert(at, process);
        true
    }

    /// Removes a member from its group. Notifies the group even if the process was not a member, as
    /// `do_proc_leave`.
    fn remove_process(&mut self, context: &mut Context<'_>, process: Process, reason: Reason) {
        self.notify_change(context, process.group, Vec::new(), vec![process.address(reason)]);
        self.processes.retain(|other| *other != process);
    }

    // --- messages ---

    pub(crate) fn deliver(&mut self, context: &mut Context<'_>, from: NodeId, exec: Exec) {
        match exec {
            Exec::Join { pid, group } => {
                let process = Process { node: from, pid, group };
                if self.add_process(process) {
                    self.notify_change(
                        context,
                        group,
                        vec![process.address(Reason::JOIN)],
                        Vec::new(),
                    );
                }
            }
            Exec::Leave { pid, group, reason } => {
                self.remove_process(context, Process { node: from, pid, group }, reason);
            }
            Exec::JoinList(list) => {
                for (pid, group) in list {
                    self.join_lists.insert(0, Process { node: from, pid, group });
                }
            }
            Exec::DownList => {}
            Exec::Mcast { pid, group, message } => {
                let event = DeliverCallback { group_name: group, nodeid: from, pid, message };
                for client in self.receivers(from, &group) {
                    context.event(client, &event);
                }
            }
            Exec::PartialMcast { pid, group, msglen, fragment_type, message } => {
                let event = PartialDeliverCallback {
                    group_name: group,
                    msglen,
                    nodeid: from,
                    pid,
                    fragment_type,
                    message,
                };
                for client in self.receivers(from, &group) {
                    context.event(client, &event);
                }
            }
        }
    }

    /// Returns the clients that get a message: none as long as no member of the group on the
    /// sender's node is known.
    fn receivers(&self, from: NodeId, group: &GroupName) -> Vec<ClientNumber> {
        if !self.processes.iter().any(|process| process.node == from && process.group == *group) {
            return Vec::new();
        }
        self.newest_first(|session| session.receives(group))
    }

    fn listening(&self) -> Vec<ClientNumber> {
        self.newest_first(|session| !session.is_finalized)
    }

    /// Returns the matching clients in the order in which the daemon notifies them.
    fn newest_first(&self, matches: impl Fn(&Session) -> bool) -> Vec<ClientNumber> {
        self.sessions
            .iter()
            .rev()
            .filter(|(_, session)| matches(session))
            .map(|(client, _)| *client)
            .collect()
    }

    /// The members of a group, at most [`MAX_MEMBERS`]. When partitions merge, a group can have
    /// more.
    fn members_of(&self, group: &GroupName) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.group == *group).take(MAX_MEMBERS)
    }

    /// Notifies the group of a configuration change. Matches `notify_lib_joinlist`.
    fn notify_change(
        &mut self,
        context: &mut Context<'_>,
        group: GroupName,
        joined_list: Vec<Address>,
        left_list: Vec<Address>,
    ) {
        let has_left = |process: &&Process| {
            left_list.iter().any(|left| (left.node_id, left.pid) == (process.node, process.pid))
        };
        let members = self.members_of(&group).filter(|process| !has_left(process));
        let member_list = members.map(|process| process.address(Reason::UNDEFINED)).collect();
        for joined in joined_list.iter().filter(|joined| joined.node_id == self.us) {
            for session in self.sessions.values_mut().filter(|session| !session.is_finalized) {
                if session.pid == joined.pid && session.group == group {
                    session.state = State::Joined;
                }
            }
        }
        let (mut left_list, mut joined_list) = (left_list, joined_list);
        left_list.truncate(MAX_MEMBERS);
        joined_list.truncate(MAX_MEMBERS);
        let event = ConfchgCallback { group_name: group, member_list, left_list, joined_list };
        for client in self.newest_first(|session| session.receives(&group)) {
            context.event(client, &event);
            if let Some(session) = self.sessions.get_mut(&client) {
                session.transitions += 1;
            }
        }
        let waits =
            |session: &Session| session.flags & INITIAL_TOTEM != 0 && !session.has_initial_totem;
        for client in self.newest_first(|session| !session.is_finalized && waits(session)) {
            if let Some(session) = self.sessions.get_mut(&client) {
                session.has_initial_totem = true;
            }
            self.notify_totem(context, client, &self.old_members);
        }
    }

    fn notify_totem(&self, context: &mut Context<'_>, client: ClientNumber, members: &[NodeId]) {
        context.event(
            client,
            &TotemConfchgCallback { ring_id: self.ring_id, member_list: members.to_vec() },
        );
    }

    // --- clients ---

    pub(crate) fn request(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        request: AnyRequest,
    ) {
        match request {
            AnyRequest::Join(request) => {
                let status = self.join(context, client, &request);
                context.reply_with(client, &JoinReply {}, status);
            }
            AnyRequest::Leave(request) => {
                let status = self.leave(context, client, &request);
                context.reply_with(client, &LeaveReply {}, status);
            }
            AnyRequest::Mcast(Mcast { message, .. }) => {
                // A multicast has no reply, so a client that is not a member gets no error.
                let sender = self.sessions.get(&client).filter(|session| is_sender(session));
                if let Some(Session { pid, group, .. }) = sender {
                    context.multicast(super::Exec::Cpg(Exec::Mcast {
                        pid: *pid,
                        group: *group,
                        message,
                    }));
                }
            }
            AnyRequest::PartialMcast(request) => {
                let status = self.partial_mcast(context, client, request);
                context.reply_with(client, &PartialSendReply {}, status);
            }
            AnyRequest::MembershipGet(request) => {
                let members = self.members_of(&request.group_name);
                let member_list =
                    members.map(|process| process.address(Reason::UNDEFINED)).collect();
                context.reply(client, &MembershipReply { member_list });
                if self.version == Version::V1_99 {
                    context.claim_size(MEMBERSHIP_REQUEST_SIZE);
                }
            }
            AnyRequest::LocalGet(_) => {
                context.reply(client, &LocalGetReply { local_nodeid: self.us })
            }
            AnyRequest::IterationInitialize(request) => {
                let own = self.iterations.values().filter(|it| it.owner == client);
                if own.count() >= MAX_ITERATIONS {
                    let reply = IterationInitializeReply { iteration_handle: 0 };
                    return context.reply_with(client, &reply, Err(CsError::NoMemory));
                }
                let iteration_handle = self.begin_iteration(client, &request);
                context.reply(client, &IterationInitializeReply { iteration_handle });
            }
            AnyRequest::IterationNext(request) => {
                let next = match self.iterations.get_mut(&request.iteration_handle) {
                    Some(iteration) => iteration.items.pop_front().ok_or(CsError::NoSections),
                    None => Err(CsError::Library),
                };
                let item = next.unwrap_or(Process {
                    node: NodeId(0),
                    pid: 0,
                    group: GroupName::default(),
                });
                let description =
                    Description { group: item.group, nodeid: item.node, pid: item.pid };
                context.reply_with(client, &IterationNextReply { description }, next.map(|_| ()));
            }
            AnyRequest::IterationFinalize(request) => {
                let removed = self.iterations.remove(&request.iteration_handle);
                let status = removed.map(|_| ()).ok_or(CsError::Library);
                context.reply_with(client, &IterationFinalizeReply {}, status);
            }
            AnyRequest::Finalize(_) => {
                if let Some(session) = self.sessions.get_mut(&client) {
                    session.is_finalized = true;
                }
                context.reply(client, &FinalizeReply {});
            }
        }
    }

    fn join(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        request: &Join,
    ) -> Result<(), CsError> {
        let Join { group_name: group, pid, flags } = *request;
        let is_same = |session: &Session| session.pid == pid && session.group == group;
        if self.sessions.values().any(|session| !session.is_finalized && is_same(session)) {
            return Err(CsError::Exist);
        }
        // The process may have left while its leave message is still on its way.
        if self.processes.contains(&Process { node: self.us, pid, group }) {
            return Err(CsError::TryAgain);
        }
        // The daemon has no such check: it writes its reply about a larger group beyond the reply's
        // end.
        if self.members_of(&group).count() == MAX_MEMBERS {
            return Err(CsError::NoResources);
        }
        let session = self.sessions.get_mut(&client).ok_or(CsError::Library)?;
        match session.state {
            State::Unjoined => {}
            State::JoinStarted | State::Joined => return Err(CsError::Exist),
            State::Left => return Err(CsError::Busy),
        }
        (session.state, session.pid, session.group, session.flags) =
            (State::JoinStarted, pid, group, flags);
        context.multicast(super::Exec::Cpg(Exec::Join { pid, group }));
        Ok(())
    }

    fn leave(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        request: &Leave,
    ) -> Result<(), CsError> {
        let session = self.sessions.get_mut(&client).ok_or(CsError::Library)?;
        match session.state {
            State::Unjoined | State::Left => return Err(CsError::NotExist),
            State::JoinStarted => return Err(CsError::Busy),
            State::Joined => session.state = State::Left,
        }
        let Leave { pid, group_name: group } = *request;
        context.multicast(super::Exec::Cpg(Exec::Leave { pid, group, reason: Reason::LEAVE }));
        Ok(())
    }

    fn partial_mcast(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        request: PartialMcast,
    ) -> Result<(), CsError> {
        let session = self.sessions.get_mut(&client).ok_or(CsError::Library)?;
        if request.fragment_type == FragmentType::FIRST {
            session.at_first_fragment = session.transitions;
        }
        if session.at_first_fragment != session.transitions {
            return Err(CsError::Interrupt);
        }
        if !is_sender(session) {
            return Err(CsError::NotExist);
        }
        let PartialMcast { msglen, fragment_type, message, .. } = request;
        let (pid, group) = (session.pid, session.group);
        context.multicast(super::Exec::Cpg(Exec::PartialMcast {
            pid,
            group,
            msglen,
            fragment_type,
            message,
        }));
        Ok(())
    }

    /// Starts an iteration over a copy of the members, in the daemon's order: the last group first,
    /// and in each group the first process, then the others from the last to the second.
    fn begin_iteration(&mut self, owner: ClientNumber, request: &IterationInitialize) -> u64 {
        const NAMES_ONLY: u32 = 1;
        const ONE_GROUP: u32 = 2;
        let mut items: VecDeque<Process> = VecDeque::new();
        for process in &self.processes {
            let same = items.iter().position(|item| item.group == process.group);
            let is_included = match request.iteration_type {
                NAMES_ONLY => same.is_none(),
                ONE_GROUP => process.group == request.group_name,
                _ => true,
            };
            if is_included {
                let names = request.iteration_type == NAMES_ONLY;
                let item =
                    if names { Process { node: NodeId(0), pid: 0, ..*process } } else { *process };
                items.insert(same.map_or(0, |same| same + 1), item);
            }
        }
        let handle = (0x5eed_0000 << 32) | self.next_iteration;
        self.next_iteration += 1;
        self.iterations.insert(handle, Iteration { owner, items });
        handle
    }
}

fn is_sender(session: &Session) -> bool {
    matches!(session.state, State::JoinStarted | State::Joined)
}

/// Groups processes by their group, in the order of the daemon's map, whose keys are C strings.
fn by_group(processes: Vec<Process>) -> Vec<(GroupName, Vec<Process>)> {
    let mut groups: BTreeMap<Vec<u8>, (GroupName, Vec<Process>)> = BTreeMap::new();
    for process in processes {
        let name =
            process.group.as_bytes().split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        groups.entry(name).or_insert_with(|| (process.group, Vec::new())).1.push(process);
    }
    groups.into_values().collect()
}
