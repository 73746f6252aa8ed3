//! The cpg service: closed process groups. Members of a group get its messages and the changes of
//! its membership, all of them in the same order on every node.
//!
//! Matches libcpg.
//!
//! ```no_run
//! use corosync_ipc::cpg::{Client, Event, GroupName, Guarantee};
//!
//! let client = Client::connect()?;
//! client.join(&GroupName::new("example")?)?;
//! client.multicast(Guarantee::AGREED, b"hello")?;
//! for event in client.events() {
//!     match event? {
//!         Event::Deliver(message) => println!("{}: {:?}", message.pid, message.payload),
//!         Event::Confchg(change) => println!("{} members", change.members.len()),
//!         _ => {}
//!     }
//! }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! # Large messages
//! A message up to [`Client::max_atomic_message_size`] travels in one piece. A longer one is cut
//! into fragments, and members join them again. A member sees either the whole message or nothing
//! of it. [`Options::reassembly_limit`] limits the memory of unfinished messages. A client keeps the
//! memory of a large message for the next one.
//! [`Client::dispatch`](crate::ServiceClient::dispatch) with [`One`](crate::Dispatch::One) returns
//! after each fragment, as in C.
//!
//! # Flow control
//! When the cluster cannot keep up, or while its nodes synchronize after a change of membership,
//! the daemon takes no multicasts. [`Client::multicast`] then waits, without using the processor,
//! until the daemon takes them again or the request timeout has passed; [`Client::try_multicast`]
//! fails with [`CsError::TryAgain`] at once. Meanwhile another thread can take events from the same
//! client. The daemon keeps the events of a client that does not take them in its own memory,
//! without a limit.
//!
//! # The end of a connection
//! When a client is dropped or [finalized](crate::ServiceClient::finalize), or its process ends,
//! the daemon makes it leave its group with [`Reason::PROCDOWN`]; only [`Client::leave`] makes it
//! [`Reason::LEAVE`]. Multicasts that the daemon has not taken out of the ring by then are lost.
//! [`Client::close`] and [`Client::leave`] wait until it has taken them.

#[cfg(feature = "tokio")]
mod asynchronous;
mod iter;
mod multicast;
pub(crate) mod reassembly;

use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncClient;
pub use iter::{Entry, Iter, Iteration};

use self::reassembly::{Progress, Reassembly};
use crate::client::{Service, UnknownEvent, client};
use crate::cmap::Probe;
use crate::endpoint::Endpoint;
use crate::error::{CsError, Error, Escaped, Result, WireError};
use crate::features;
use crate::libqb::buffer::{Buffer, MOST_COPIED};
use crate::libqb::client::Call;
use crate::wire::Message;
use crate::wire::cpg as wire;
#[doc(inline)]
pub use crate::wire::cpg::{Address, GroupName, Guarantee, MAX_GROUP_NAME, Reason};
use crate::wire::values::{NodeId, RingId};

client! {
    /// A connection to the cpg service, which can be in one group.
    pub struct Client: Cpg as "cpg"
}

/// The service, with what a client of it remembers.
#[derive(Debug)]
pub(crate) struct Cpg {
    options: Options,
    probe: Probe,
    /// With the process that the group sees.
    joined: Mutex<Option<(GroupName, u32)>>,
    reassembly: Mutex<Reassembly>,
}

/// An event of the cpg service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// A message to the group, from this client or another member.
    Deliver(Deliver),
    /// The membership of the group changed.
    Confchg(Confchg),
    /// The membership of the cluster changed.
    TotemConfchg(TotemConfchg),
    /// A message to the group that this client does not hand over.
    Discarded(Discarded),
    /// An event that this version does not know.
    Unknown(UnknownEvent),
}

/// A message to the group, from this client or another member. Matches `cpg_deliver_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Deliver {
    /// The group.
    pub group: GroupName,
    /// The sender's node.
    pub node_id: NodeId,
    /// The sender's process.
    pub pid: u32,
    /// The message. A part of it keeps the memory of all of it.
    pub payload: Bytes,
}

/// The membership of the group changed. Matches `cpg_confchg_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Confchg {
    /// The group.
    pub group: GroupName,
    /// All members now: those that joined are among them, those that left are not.
    pub members: Vec<Address>,
    /// Those that joined.
    pub joined: Vec<Address>,
    /// Those that left.
    pub left: Vec<Address>,
}

/// The membership of the cluster changed. If [asked for](Options::initial_totem_confchg), also the
/// present membership when a group is joined. It comes after the changes of groups that follow
/// from it. Matches `cpg_totem_confchg_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TotemConfchg {
    /// The ring.
    pub ring_id: RingId,
    /// Its members.
    pub members: Vec<NodeId>,
}

/// A message in fragments that this client does not hand over: it is too long, or its fragments do
/// not fit together. The event comes as soon as the client knows, which may be before the message
/// ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Discarded {
    /// The group.
    pub group: GroupName,
    /// The sender's node.
    pub node_id: NodeId,
    /// The sender's process.
    pub pid: u32,
    /// The message's length in bytes, as its sender says.
    pub length: u32,
    /// What is wrong with it.
    pub reason: Discard,
}

/// Why a message is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Discard {
    /// All unfinished messages together exceed [`Options::reassembly_limit`], and this one is the
    /// longest of them so far. Or it alone is longer than the limit.
    TooLong,
    /// Its fragments are more or less than the length that was announced.
    Malformed,
}

/// Options of [`Client::connect_with`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    initial_totem_confchg: bool,
    reassembly_limit: usize,
    pid: Pid,
}

/// The process id that a group sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pid {
    /// That of the process that joins.
    Own,
    /// That by which the daemon knows it.
    AtDaemon,
    /// This one.
    Given(u32),
}

/// The default of [`Options::reassembly_limit`]: 256 MiB.
pub const DEFAULT_REASSEMBLY_LIMIT: usize = 256 << 20;

/// The most members a group may have, on all nodes together. Matches `CPG_MEMBERS_MAX`. corosync
/// lets more join, and crashes on every other node when more than that come or go at once with
/// their node.
pub const MAX_MEMBERS: usize = 128;

/// The flag of [`wire::Join`]. Matches `CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF`.
const DELIVER_INITIAL_TOTEM_CONF: u32 = 1;

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The options that [`Client::connect`] uses.
    pub fn new() -> Self {
        Self {
            initial_totem_confchg: false,
            reassembly_limit: DEFAULT_REASSEMBLY_LIMIT,
            pid: Pid::Own,
        }
    }

    /// Whether a [`TotemConfchg`] with the present membership comes when a group is joined, shortly
    /// before or after the group's [`Confchg`]. Otherwise only changes come.
    ///
    /// Matches `CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF`.
    pub fn initial_totem_confchg(mut self, on: bool) -> Self {
        self.initial_totem_confchg = on;
        self
    }

    /// Limits the memory of all messages in fragments that are not complete yet, in bytes. Default:
    /// 256 MiB ([`DEFAULT_REASSEMBLY_LIMIT`]). C has no limit.
    ///
    /// A message counts with the bytes that have come, up to twice as many, plus 256 bytes. The
    /// length that its sender announces does not count. At the limit the client drops the message
    /// of which most has come, and reports it as [`Event::Discarded`] with its sender's next
    /// fragment. So a member that sends without end takes no room from shorter messages. A message
    /// that is longer than the limit less 256 bytes is discarded at its first fragment.
    pub fn reassembly_limit(mut self, bytes: usize) -> Self {
        self.reassembly_limit = bytes;
        self
    }

    /// The process id the group sees. Default: that of the process that [joins](Client::join), as
    /// in C.
    ///
    /// A group has one member of a pid on each node, so clients that join the same group on the
    /// same node need different ones: several in one process, or processes in containers, which
    /// may have the same pid there. The daemon takes any number, and neither compares it with the
    /// credentials nor sends signals to it.
    pub fn pid(mut self, pid: u32) -> Self {
        self.pid = Pid::Given(pid);
        self
    }

    /// The group sees the process id by which the daemon knows the process that connected. Unlike
    /// the process's own one it differs between containers, if the daemon runs outside of them. C
    /// has no such option.
    ///
    /// The daemon sees processes from its own pid namespace, and names the files of a connection
    /// after them. Where the client is not visible to it, and with libqb before 0.14, this is as
    /// the default.
    pub fn pid_at_daemon(mut self) -> Self {
        self.pid = Pid::AtDaemon;
        self
    }
}

impl Client {
    /// Connects to the cpg service, as [`Endpoint::from_env`] says.
    ///
    /// Matches `cpg_initialize`.
    ///
    /// # Errors
    /// Whatever prevents a connection: the first variants of [`Error`].
    pub fn connect() -> Result<Self> {
        Self::connect_to(&Endpoint::from_env()?)
    }

    /// Connects to the cpg service.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_to(endpoint: &Endpoint) -> Result<Self> {
        Self::connect_with(endpoint, Options::new())
    }

    /// Connects with options.
    ///
    /// Matches `cpg_model_initialize` with `CPG_MODEL_V1`.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_with(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let service = Cpg {
            probe: Probe::new(endpoint),
            joined: Mutex::default(),
            reassembly: Mutex::new(Reassembly::new(options.reassembly_limit)),
            options,
        };
        Self::open(endpoint, service, Call::connecting(endpoint))
    }

    /// Joins a group. Its messages and changes of membership come from now on, beginning with the
    /// [`Event::Confchg`] of this join. A client is in one group at a time.
    ///
    /// Matches `cpg_join`. Waits while the nodes synchronize, or while the daemon is still busy
    /// with the last leave. The first join then uses what is left of the time to ask cmap, over
    /// a connection of its own, whether the daemon knows messages in fragments.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the name is empty: the daemon would never make such a member
    /// leave. [`Error::WouldCrash`] when the group has [`MAX_MEMBERS`], which is looked up before.
    /// [`Error::PidTaken`] when another client of the same pid on this node is in the group, as
    /// happens between containers: see [`Options::pid_at_daemon`]. [`Error::Cs`] with
    /// [`CsError::Exist`] when this client has joined already; with [`CsError::TryAgain`] when the
    /// nodes synchronize for longer than the request timeout.
    ///
    /// A client that [left](Client::leave) can join again only with daemons before 3.0. Later ones
    /// answer [`Error::PidTaken`] to the same group, to any client of the pid, until the client
    /// that left is gone, and [`CsError::Busy`] to another one (which the C library asks again
    /// without end): connect anew.
    ///
    /// [`Error::TimedOut`]: the group may have been joined or not, and multicasting is refused;
    /// connect anew. As well [`Error::Disconnected`], [`Error::Finalized`].
    pub fn join(&self, group: &GroupName) -> Result<()> {
        if group.is_empty() {
            return Err(Error::invalid(
                "group name",
                "is empty: the daemon would never make such a member leave",
            ));
        }
        let call = self.core.call("cpg join");
        if self.membership_within(group, call)?.len() >= MAX_MEMBERS {
            let reason = format!(
                "{group} has {MAX_MEMBERS} members, and corosync crashes when the nodes of more leave"
            );
            return Err(Error::WouldCrash { call: "cpg join".into(), reason: reason.into() });
        }
        let flags = if self.core.service.options.initial_totem_confchg {
            DELIVER_INITIAL_TOTEM_CONF
        } else {
            0
        };
        // The present pid: the process may have forked since it connected.
        let pid = self.next_pid();
        let request = wire::Join { group_name: *group, pid, flags };
        let is_joined = self.core.service.joined().is_some();
        self.core.request(call.busy_when(BUSY), &request).map_err(|error| match error {
            Error::Cs { error: CsError::Exist, .. } if !is_joined => {
                Error::PidTaken { group: Escaped(group.as_bytes()).to_string(), pid }
            }
            error => error,
        })?;
        *self.core.service.joined() = Some((*group, pid));
        // Asks now, since the process may drop its privileges or enter a sandbox later. If this
        // fails, the first message in fragments asks again.
        let _ = self.core.service.probe.require(&features::CPG_FRAGMENTS, call);
        Ok(())
    }

    /// Leaves the group. The last event is the [`Event::Confchg`] of this leave.
    ///
    /// Matches `cpg_leave`. Waits while the nodes synchronize or the join is not complete.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotExist`] when this client is not in this group (C leaves
    /// whatever group was joined, and tells its members another one); otherwise as
    /// [`Client::join`].
    pub fn leave(&self, group: &GroupName) -> Result<()> {
        const CALL: &str = "cpg leave";
        // Forgets the group before the leave is sent, so that no multicast follows it: the daemon
        // would drop that silently.
        let left = self.core.service.joined().take_if(|(joined, _)| joined == group);
        let (_, pid) = left.ok_or(Error::Cs { call: CALL.into(), error: CsError::NotExist })?;
        let request = wire::Leave { group_name: *group, pid };
        let reply = self.core.request(self.core.call(CALL).busy_when(BUSY), &request);
        if let Err(Error::Cs { error: CsError::TryAgain | CsError::Busy, .. }) = reply {
            // The daemon did not carry it out.
            self.core.service.joined().get_or_insert((*group, pid));
        }
        reply.map(|_| ())
    }

    /// Ends the connection, as [`finalize`](crate::ServiceClient::finalize) does, but first waits
    /// until the daemon has taken every multicast. The connection ends also when this fails.
    ///
    /// Matches `cpg_finalize`.
    ///
    /// # Errors
    /// Multicasts may be lost: [`Error::TimedOut`], [`Error::Disconnected`], [`Error::Finalized`],
    /// [`Error::ForeignProcess`], where the connection stays, and, with
    /// [`Endpoint::wait_while_busy`](crate::Endpoint::wait_while_busy) off, [`Error::Cs`] with
    /// [`CsError::TryAgain`].
    pub fn close(&self) -> Result<()> {
        let taken = self.core.request(self.core.call("cpg finalize"), &wire::Finalize {});
        self.core.connection.finalize();
        taken.map(|_| ())
    }

    /// The members of any group, joined or not, in the order of their nodes and processes. Empty if
    /// there is no such group.
    ///
    /// Answers as `cpg_membership_get`, but asks through [`Client::iter`]: C's request crashes
    /// corosync when the group has more than 384 members.
    ///
    /// # Errors
    /// As [`Client::iter`].
    pub fn membership(&self, group: &GroupName) -> Result<Vec<Address>> {
        self.membership_within(group, self.core.call("cpg membership"))
    }

    fn membership_within(&self, group: &GroupName, call: Call) -> Result<Vec<Address>> {
        let member =
            |Entry { node_id, pid, .. }| Address { node_id, pid, reason: Reason::UNDEFINED };
        let entries = self.list_within(Iteration::Group(*group), call)?;
        let mut members: Vec<_> = entries.into_iter().map(member).collect();
        members.sort_unstable();
        Ok(members)
    }

    /// The id of the node that the daemon runs on.
    ///
    /// Matches `cpg_local_get`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Disconnected`], [`Error::Finalized`].
    pub fn local_node_id(&self) -> Result<NodeId> {
        Ok(self.core.request(self.core.call("cpg local get"), &wire::LocalGet {})?.local_nodeid)
    }

    /// The process id by which members know this client, or would if it joined now: see
    /// [`Options::pid`].
    pub fn pid(&self) -> u32 {
        self.core.service.joined().map_or_else(|| self.next_pid(), |(_, pid)| pid)
    }

    /// The process id by which the daemon knows the process that connected: see
    /// [`Options::pid_at_daemon`]. `None` if the daemon does not see that process, or does not
    /// tell.
    pub fn pid_at_daemon(&self) -> Option<u32> {
        self.core.connection.pid_at_daemon()
    }

    /// The process id to join with.
    fn next_pid(&self) -> u32 {
        match self.core.service.options.pid {
            Pid::Given(pid) => pid,
            Pid::AtDaemon => self.pid_at_daemon().unwrap_or_else(process::id),
            Pid::Own => process::id(),
        }
    }

    /// The group that was joined and not left.
    pub fn joined(&self) -> Option<GroupName> {
        self.core.service.joined().map(|(group, _)| group)
    }
}

/// The daemon's answers while a change of this client's own membership is under way.
const BUSY: &[CsError] = &[CsError::TryAgain, CsError::Busy];

impl Cpg {
    fn joined(&self) -> MutexGuard<'_, Option<(GroupName, u32)>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fragment(
        &self,
        reassembly: &mut Reassembly,
        fragment: wire::PartialDeliverCallback,
    ) -> Option<Event> {
        let progress = reassembly.feed(&fragment);
        let wire::PartialDeliverCallback {
            group_name: group,
            nodeid: node_id,
            pid,
            msglen: length,
            ..
        } = fragment;
        let discarded =
            |reason| Event::Discarded(Discarded { group, node_id, pid, length, reason });
        match progress {
            Progress::Nothing => None,
            Progress::Whole(payload) => {
                Some(Event::Deliver(Deliver { group, node_id, pid, payload }))
            }
            Progress::NoRoom => Some(discarded(Discard::TooLong)),
            Progress::Malformed => Some(discarded(Discard::Malformed)),
        }
    }
}

impl Service for Cpg {
    type Event = Event;

    const NAME: &'static str = "cpg";
    /// As the C library: the largest message in one piece is a bit less.
    const RING_SIZE: u32 = multicast::LARGEST_REQUEST as u32;

    fn nudge() -> Result<Vec<u8>, WireError> {
        wire::LocalGet {}.encode()
    }

    fn event(&self, message: &mut Buffer) -> Result<Option<Event>, WireError> {
        let event = if message.len() <= MOST_COPIED {
            wire::AnyEvent::decode(message)
        } else {
            wire::AnyEvent::decode_shared(&message.take())
        };
        // The caller holds the event ring's lock, so nobody waits for this one.
        let mut reassembly = self.reassembly.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(match event {
            Ok(wire::AnyEvent::DeliverCallback(event)) => Event::Deliver(Deliver {
                group: event.group_name,
                node_id: event.nodeid,
                pid: event.pid,
                payload: event.message,
            }),
            Ok(wire::AnyEvent::PartialDeliverCallback(event)) => {
                return Ok(self.fragment(&mut reassembly, event));
            }
            Ok(wire::AnyEvent::ConfchgCallback(mut event)) => {
                for left in &event.left_list {
                    reassembly.drop_member(left.node_id, left.pid);
                }
                event.member_list.iter_mut().for_each(|member| member.reason = Reason::UNDEFINED);
                Event::Confchg(Confchg {
                    group: event.group_name,
                    members: event.member_list,
                    joined: event.joined_list,
                    left: event.left_list,
                })
            }
            Ok(wire::AnyEvent::TotemConfchgCallback(event)) => {
                reassembly.keep_nodes(&event.member_list);
                Event::TotemConfchg(TotemConfchg {
                    ring_id: event.ring_id,
                    members: event.member_list,
                })
            }
            Err(WireError::UnknownId { id, .. }) => {
                Event::Unknown(UnknownEvent { id, message: message.take() })
            }
            Err(error) => return Err(error),
        }))
    }
}
