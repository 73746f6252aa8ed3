//! The votequorum service: votes, expected votes, and quorum devices.
//!
//! Matches libvotequorum.
//!
//! ```no_run
//! use corosync_ipc::votequorum::{Client, InfoFlags};
//!
//! let client = Client::connect()?;
//! let local = client.local_info()?;
//! println!("{} of {} votes, quorum is {}", local.total_votes, local.highest_expected, local.quorum);
//! if local.flags.contains(InfoFlags::WAIT_FOR_ALL) {
//!     println!("waiting for all nodes once");
//! }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::client::{SMALL_RING_SIZE, Service, Tracking, UnknownEvent, client};
use crate::cmap::Probe;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result, WireError};
use crate::features::{QDEVICE, QDEVICE_EXTRA_INFO};
use crate::libqb::buffer::Buffer;
use crate::libqb::client::Call;
use crate::wire::Message;
use crate::wire::values::{NodeId, RingId, TrackFlags};
use crate::wire::votequorum as wire;
#[doc(inline)]
pub use crate::wire::votequorum::{InfoFlags, NodeEntry, NodeState};

client! {
    /// A connection to the votequorum service.
    pub struct Client: Votequorum as "votequorum"
}

/// The service, with what a client of it remembers.
#[derive(Debug)]
pub(crate) struct Votequorum {
    endpoint: Endpoint,
    probe: Probe,
    tracking: Tracking,
    /// A connection on which the answer to a registration is owed.
    registrar: Mutex<Option<Box<Client>>>,
}

impl Drop for Votequorum {
    fn drop(&mut self) {
        let registrar = self.registrar.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(client) = registrar {
            keep_open(*client);
        }
    }
}

/// Keeps a connection on which the daemon still owes the answer to a registration. The daemon
/// crashes when it ends before the answer, so it stays open until the daemon or this process ends.
fn keep_open(client: Client) {
    static OPEN: Mutex<Vec<Client>> = Mutex::new(Vec::new());
    let has_ended = |client: &Client| client.core.connection.has_ended();
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|client| !has_ended(client));
    if !has_ended(&client) {
        open.push(client);
    }
}

/// Stands for this node in [`Client::info`] and [`Client::set_votes`].
pub const LOCAL_NODE: NodeId = NodeId(0);

/// The quorum device in lists of nodes. Matches `VOTEQUORUM_QDEVICE_NODEID`.
pub const QDEVICE_NODE_ID: NodeId = NodeId(0);

/// The longest name of a quorum device, in bytes.
pub const MAX_QDEVICE_NAME: usize = wire::QDEVICE_MAX_NAME_LEN - 1;

/// The most bytes a quorum device can publish. Matches `VOTEQUORUM_QDEVICE_EXTRA_NODEINFO_MAXSIZE`.
pub const MAX_QDEVICE_EXTRA_INFO: usize = 4096;

/// Votes and state of a node. Matches `struct votequorum_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Info {
    /// The node.
    pub node_id: NodeId,
    /// Its state. `None` from corosync 1.99, which does not tell.
    pub state: Option<NodeState>,
    /// Its votes.
    pub votes: u32,
    /// The expected votes it is configured with.
    pub expected_votes: u32,
    /// The highest expected votes any member has.
    pub highest_expected: u32,
    /// Votes of all members.
    pub total_votes: u32,
    /// Votes needed to be quorate.
    pub quorum: u32,
    /// State of the cluster and of the quorum device.
    pub flags: InfoFlags,
    /// Votes of the quorum device.
    pub qdevice_votes: u32,
    /// Name of the quorum device; empty when there is none. Bytes that are no UTF-8 are replaced.
    pub qdevice_name: String,
}

/// An event of the votequorum service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// Quorum changed, or a node's state.
    Quorum(QuorumNotification),
    /// Membership changed.
    Nodelist(NodelistNotification),
    /// The expected votes changed.
    ExpectedVotes(ExpectedVotesNotification),
    /// A node's quorum device published other bytes.
    QdeviceExtraInfo(QdeviceExtraInfoNotification),
    /// An event that this version does not know.
    Unknown(UnknownEvent),
}

/// Quorum changed, or a node's state. Matches `votequorum_quorum_notification_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QuorumNotification {
    /// As given to [`Client::track_start`].
    pub context: u64,
    /// Whether this node is quorate.
    pub quorate: bool,
    /// All nodes known, members or not, and the quorum device if there is one.
    pub nodes: Vec<NodeEntry>,
}

/// Membership changed. Since corosync 2.4. Matches `votequorum_nodelist_notification_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodelistNotification {
    /// As given to [`Client::track_start`].
    pub context: u64,
    /// The ring.
    pub ring_id: RingId,
    /// Its members.
    pub members: Vec<NodeId>,
}

/// The expected votes changed. Matches `votequorum_expectedvotes_notification_fn_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ExpectedVotesNotification {
    /// As given to [`Client::track_start`].
    pub context: u64,
    /// The new value.
    pub expected_votes: u32,
}

/// A node's quorum device published other bytes. Corosync after 3.1.10. Matches
/// `votequorum_qdevice_extra_info_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QdeviceExtraInfoNotification {
    /// As given to [`Client::track_start`].
    pub context: u64,
    /// The node.
    pub node_id: NodeId,
    /// The bytes.
    pub extra_info: Bytes,
}

impl Client {
    /// Connects as [`Endpoint::from_env`] says.
    ///
    /// Matches `votequorum_initialize` and `votequorum_model_initialize`: every notification there
    /// is arrives as an [`Event`].
    ///
    /// # Errors
    /// Whatever prevents a connection: the first variants of [`Error`]. Without votequorum as the
    /// configured provider the daemon has no such socket: [`Error::NoSocket`].
    pub fn connect() -> Result<Self> {
        Self::connect_to(&Endpoint::from_env()?)
    }

    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_to(endpoint: &Endpoint) -> Result<Self> {
        Self::connect_within(endpoint, Call::connecting(endpoint))
    }

    /// As [`Client::connect_to`], as a part of another call.
    fn connect_within(endpoint: &Endpoint, call: Call) -> Result<Self> {
        let probe = Probe::new(endpoint);
        let service = Votequorum {
            endpoint: endpoint.clone(),
            probe,
            tracking: Tracking::default(),
            registrar: Mutex::default(),
        };
        Self::open(endpoint, service, call)
    }

    /// Votes and state of a node; [`LOCAL_NODE`] is this one.
    ///
    /// Matches `votequorum_getinfo`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotExist`](crate::CsError::NotExist) for a node that was never
    /// a member; [`Error::TimedOut`], [`Error::Disconnected`].
    pub fn info(&self, node: NodeId) -> Result<Info> {
        self.info_within(node, self.core.call("votequorum getinfo"))
    }

    fn info_within(&self, node: NodeId, call: Call) -> Result<Info> {
        let reply = match self
            .core
            .request(call.step("votequorum getinfo"), &wire::GetInfo { nodeid: node })?
        {
            wire::GetInfoReply::Full(reply) => reply,
            // The two short layouts are equally long; the one with a state came together with
            // quorum devices.
            wire::GetInfoReply::Short(words) => {
                match self.core.service.probe.require(&QDEVICE, call) {
                    Ok(()) => words.with_state(),
                    Err(Error::Unsupported { .. }) => words.without_state(),
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(Info {
            node_id: reply.nodeid,
            state: reply.state,
            votes: reply.votes,
            expected_votes: reply.expected_votes,
            highest_expected: reply.highest_expected,
            total_votes: reply.total_votes,
            quorum: reply.quorum,
            flags: reply.flags,
            qdevice_votes: reply.qdevice_votes,
            qdevice_name: String::from_utf8_lossy(&reply.qdevice_name).into_owned(),
        })
    }

    /// Votes and state of this node.
    ///
    /// # Errors
    /// As [`Client::info`].
    pub fn local_info(&self) -> Result<Info> {
        self.info(LOCAL_NODE)
    }

    /// Sets the expected votes of the whole cluster, until it restarts.
    ///
    /// Matches `votequorum_setexpected`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::InvalidParam`](crate::CsError::InvalidParam) when the value
    /// would make the quorum larger or split the cluster; as [`Client::info`].
    pub fn set_expected(&self, expected_votes: u32) -> Result<()> {
        self.core.request(
            self.core.call("votequorum setexpected"),
            &wire::SetExpected { expected_votes },
        )?;
        Ok(())
    }

    /// Sets the votes of a node; [`LOCAL_NODE`] is this one, whose id takes a request to find out.
    ///
    /// Matches `votequorum_setvotes`, which sets the votes of the quorum device when the node is 0:
    /// see [`Client::set_qdevice_votes`].
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NameNotFound`](crate::CsError::NameNotFound) for a node that
    /// was never a member, with [`CsError::InvalidParam`](crate::CsError::InvalidParam) when
    /// the node would no longer be quorate; as [`Client::info`].
    pub fn set_votes(&self, node: NodeId, votes: u32) -> Result<()> {
        const CALL: &str = "votequorum setvotes";
        let call = self.core.call(CALL);
        let nodeid = if node == LOCAL_NODE { self.info_within(node, call)?.node_id } else { node };
        self.core.request(call, &wire::SetVotes { votes, nodeid })?;
        Ok(())
    }

    /// Sets the votes of this node's quorum device, until the daemon reads its configuration again.
    ///
    /// Matches `votequorum_setvotes` with node 0.
    ///
    /// # Errors
    /// As [`Client::set_votes`], and as [`Client::qdevice_unregister`].
    pub fn set_qdevice_votes(&self, votes: u32) -> Result<()> {
        let request = wire::SetVotes { votes, nodeid: QDEVICE_NODE_ID };
        self.core.service.probe.request(&self.core, &QDEVICE, "votequorum setvotes", &request)?;
        Ok(())
    }

    /// Starts notifications; each carries `context`. With `CURRENT` or `CHANGES` the present state
    /// comes first, before this returns; with `CHANGES` or `CHANGES_ONLY` every change follows.
    /// The flags combine freely.
    ///
    /// Matches `votequorum_trackstart`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::Exist`](crate::CsError::Exist) when notifications are on
    /// already (the present state is sent all the same, if asked for), or may be because a
    /// start timed out; as [`Client::info`].
    pub fn track_start(&self, context: u64, flags: TrackFlags) -> Result<()> {
        const CALL: &str = "votequorum trackstart";
        let send = |track_flags| {
            self.core
                .request(self.core.call(CALL), &wire::TrackStart { context, track_flags })
                .map(drop)
        };
        self.core.service.tracking.start(CALL, flags, send)
    }

    /// Ends notifications. Those already sent still come.
    ///
    /// Matches `votequorum_trackstop`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotExist`](crate::CsError::NotExist) when notifications are
    /// off; as [`Client::info`].
    pub fn track_stop(&self) -> Result<()> {
        self.core.service.tracking.stop(|| {
            self.core.request(self.core.call("votequorum trackstop"), &wire::TrackStop {}).map(drop)
        })
    }

    /// Registers this node's quorum device. It votes once it polls. The daemon answers when all
    /// nodes know of it.
    ///
    /// Matches `votequorum_qdevice_register`. Before the first call about a quorum device, the
    /// daemon's map is asked whether it knows such calls, since they crash corosync before
    /// 1.99.6.
    ///
    /// corosync also dies when a connection ends whose registration it has not answered yet. So
    /// this uses a connection of its own. When the answer does not come in time, it stays open until
    /// the process or the daemon ends. Do not end the process while this waits.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name that is empty, longer than [`MAX_QDEVICE_NAME`] or has
    /// a NUL in it; [`Error::Cs`] with [`CsError::Exist`](crate::CsError::Exist) when another
    /// device is registered; as [`Client::info`].
    pub fn qdevice_register(&self, name: &str) -> Result<()> {
        let name = device_name("name", name)?;
        const CALL: &str = "votequorum qdevice register";
        let call = self.core.call(CALL);
        self.core.service.probe.require(&QDEVICE, call)?;
        let registrar =
            || self.core.service.registrar.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = registrar().take();
        let client = match earlier {
            Some(client) => client,
            None => Box::new(Self::connect_within(&self.core.service.endpoint, call)?),
        };
        let registered = client.core.request(call, &wire::QdeviceRegister { name });
        if matches!(registered, Err(Error::TimedOut { .. })) {
            let other = registrar().replace(client);
            if let Some(client) = other {
                keep_open(*client);
            }
        }
        registered.map(drop)
    }

    /// Removes the quorum device.
    ///
    /// Matches `votequorum_qdevice_unregister`.
    ///
    /// # Errors
    /// As [`Client::qdevice_register`]; [`Error::Cs`] with
    /// [`CsError::NotExist`](crate::CsError::NotExist) when there is none.
    pub fn qdevice_unregister(&self, name: &str) -> Result<()> {
        let name = device_name("name", name)?;
        self.core.service.probe.request(
            &self.core,
            &QDEVICE,
            "votequorum qdevice unregister",
            &wire::QdeviceUnregister { name },
        )?;
        Ok(())
    }

    /// Renames the quorum device.
    ///
    /// Matches `votequorum_qdevice_update`.
    ///
    /// # Errors
    /// As [`Client::qdevice_unregister`].
    pub fn qdevice_update(&self, old_name: &str, new_name: &str) -> Result<()> {
        let request = wire::QdeviceUpdate {
            oldname: device_name("old name", old_name)?,
            newname: device_name("new name", new_name)?,
        };
        self.core.service.probe.request(
            &self.core,
            &QDEVICE,
            "votequorum qdevice update",
            &request,
        )?;
        Ok(())
    }

    /// Says that the quorum device is alive, and whether it votes for this partition. To be
    /// repeated before `quorum.device.timeout` (10 s) is over.
    ///
    /// Matches `votequorum_qdevice_poll`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::MessageError`](crate::CsError::MessageError) when `ring_id` is
    /// not the present ring: the vote was for a membership that is over; as
    /// [`Client::qdevice_unregister`].
    pub fn qdevice_poll(&self, name: &str, cast_vote: bool, ring_id: RingId) -> Result<()> {
        let name = device_name("name", name)?;
        self.core.service.probe.request(
            &self.core,
            &QDEVICE,
            "votequorum qdevice poll",
            &wire::QdevicePoll { name, cast_vote: cast_vote.into(), ring_id },
        )?;
        Ok(())
    }

    /// Allows or forbids the quorum device that a partition with the master wins.
    ///
    /// Matches `votequorum_qdevice_master_wins`.
    ///
    /// # Errors
    /// As [`Client::qdevice_unregister`].
    pub fn qdevice_master_wins(&self, name: &str, allow: bool) -> Result<()> {
        let name = device_name("name", name)?;
        self.core.service.probe.request(
            &self.core,
            &QDEVICE,
            "votequorum qdevice master wins",
            &wire::QdeviceMasterWins { name, allow: allow.into() },
        )?;
        Ok(())
    }

    /// Publishes bytes of this node's quorum device to all nodes.
    ///
    /// Matches `votequorum_set_qdevice_extra_info`. The daemon's map is asked first whether it
    /// knows this request, since it crashes old daemons.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more than [`MAX_QDEVICE_EXTRA_INFO`] bytes;
    /// [`Error::Unsupported`] by a corosync up to 3.1.10; [`Error::Cs`] with
    /// [`CsError::NotExist`](crate::CsError::NotExist) when no quorum device is registered; as
    /// [`Client::info`].
    pub fn set_qdevice_extra_info(&self, extra_info: impl Into<Bytes>) -> Result<()> {
        let extra_info = extra_info.into();
        if extra_info.len() > MAX_QDEVICE_EXTRA_INFO {
            let reason =
                format!("{} bytes are more than {MAX_QDEVICE_EXTRA_INFO}", extra_info.len());
            return Err(Error::invalid("extra info", reason));
        }
        let request = wire::SetQdeviceExtraInfo { extra_info };
        let reply = self.core.service.probe.request(
            &self.core,
            &QDEVICE_EXTRA_INFO,
            "votequorum set qdevice extra info",
            &request,
        );
        QDEVICE_EXTRA_INFO.or_unsupported(reply)?;
        Ok(())
    }

    /// The bytes a node's quorum device published; empty when it did not.
    ///
    /// Matches `votequorum_get_qdevice_extra_info`. The daemon's map is asked first whether it
    /// knows this request, since it crashes old daemons.
    ///
    /// # Errors
    /// [`Error::Unsupported`] by a corosync up to 3.1.10; as [`Client::info`].
    pub fn qdevice_extra_info(&self, node: NodeId) -> Result<Bytes> {
        let request = wire::GetQdeviceExtraInfo { nodeid: node };
        let reply = self.core.service.probe.request(
            &self.core,
            &QDEVICE_EXTRA_INFO,
            "votequorum get qdevice extra info",
            &request,
        );
        Ok(QDEVICE_EXTRA_INFO.or_unsupported(reply)?.extra_info)
    }
}

#[cfg(feature = "tokio")]
crate::client::async_client! {
    /// The votequorum client for tokio: every request can be awaited.
    pub struct AsyncClient;
    info(node: NodeId) -> Info;
    local_info() -> Info;
    set_expected(expected_votes: u32) -> ();
    set_votes(node: NodeId, votes: u32) -> ();
    set_qdevice_votes(votes: u32) -> ();
    track_start(context: u64, flags: TrackFlags) -> ();
    track_stop() -> ();
    qdevice_register(name: &str) -> ();
    qdevice_unregister(name: &str) -> ();
    qdevice_update(old_name: &str, new_name: &str) -> ();
    qdevice_poll(name: &str, cast_vote: bool, ring_id: RingId) -> ();
    qdevice_master_wins(name: &str, allow: bool) -> ();
    set_qdevice_extra_info(extra_info: into Bytes) -> ();
    qdevice_extra_info(node: NodeId) -> Bytes;
}

fn device_name(argument: &'static str, name: &str) -> Result<Bytes> {
    if name.is_empty() || name.len() > MAX_QDEVICE_NAME {
        let reason =
            format!("a quorum device's name has 1 to {MAX_QDEVICE_NAME} bytes, not {}", name.len());
        return Err(Error::invalid(argument, reason));
    }
    if name.contains('\0') {
        return Err(Error::invalid(argument, "a quorum device's name has no NUL in it"));
    }
    Ok(Bytes::copy_from_slice(name.as_bytes()))
}

impl Service for Votequorum {
    type Event = Event;

    const NAME: &'static str = "votequorum";
    const RING_SIZE: u32 = SMALL_RING_SIZE;

    fn nudge() -> Result<Vec<u8>, WireError> {
        // Of a node that is not there, or of a quorum device that is not: less work than for any
        // other.
        wire::GetInfo { nodeid: NodeId(u32::MAX) }.encode()
    }

    fn event(&self, message: &mut Buffer) -> Result<Option<Event>, WireError> {
        Ok(Some(match wire::decode_event(message) {
            Ok(wire::AnyEvent::QuorumNotification(event)) => Event::Quorum(QuorumNotification {
                context: event.context,
                quorate: event.quorate != 0,
                nodes: event.node_list,
            }),
            Ok(wire::AnyEvent::NodelistNotification(event)) => {
                Event::Nodelist(NodelistNotification {
                    context: event.context,
                    ring_id: event.ring_id,
                    members: event.node_list,
                })
            }
            Ok(wire::AnyEvent::ExpectedVotesNotification(event)) => {
                Event::ExpectedVotes(ExpectedVotesNotification {
                    context: event.context,
                    expected_votes: event.expected_votes,
                })
            }
            Ok(wire::AnyEvent::QdeviceExtraInfoNotification(event)) => {
                Event::QdeviceExtraInfo(QdeviceExtraInfoNotification {
                    context: event.context,
                    node_id: event.nodeid,
                    extra_info: event.extra_info,
                })
            }
            Err(WireError::UnknownId { id, .. }) => {
                Event::Unknown(UnknownEvent { id, message: message.take() })
            }
            Err(error) => return Err(error),
        }))
    }
}
