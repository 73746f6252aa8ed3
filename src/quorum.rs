//! The quorum service: whether this partition of the cluster may act, and who is in it.
//!
//! Matches libquorum.
//!
//! ```no_run
//! use corosync_ipc::TrackFlags;
//! use corosync_ipc::quorum::{Client, Event};
//!
//! let client = Client::connect()?;
//! println!("quorate: {}", client.is_quorate()?);
//! client.track_start(TrackFlags::CHANGES)?;
//! for event in client.events() {
//!     if let Event::Notification(quorum) = event? {
//!         println!("quorate: {}, members: {:?}", quorum.quorate, quorum.members);
//!     }
//! }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::client::{SMALL_RING_SIZE, Service, Tracking, UnknownEvent, client};
use crate::cmap::Probe;
use crate::endpoint::Endpoint;
use crate::error::{CsError, Error, Result, WireError};
use crate::features::QUORUM_MODEL_V1;
use crate::libqb::buffer::Buffer;
use crate::libqb::client::{Call, within};
use crate::wire::Message;
use crate::wire::quorum as wire;
use crate::wire::values::{NodeId, RingId, TrackFlags, open_enum};

client! {
    /// A connection to the quorum service.
    pub struct Client: Quorum as "quorum"
}

/// The service, with what a client of it remembers.
#[derive(Debug)]
pub(crate) struct Quorum {
    quorum_type: QuorumType,
    /// Whether the parts of the present state become one event.
    joins_parts: bool,
    tracking: Tracking,
    present: Mutex<Present>,
}

/// Model v1: the present state comes in two messages, the list of nodes first. It is held until the
/// other one is there.
#[derive(Debug, Default)]
struct Present {
    /// How often the state was asked for and has not come.
    asked: u32,
    nodelist: Option<NodelistNotification>,
}

open_enum! {
    /// Whether a quorum provider is configured.
    pub struct QuorumType: u32 {
        /// None is: every partition is quorate. `QUORUM_FREE`
        const FREE = 0, "free";
        /// One is. `QUORUM_SET`
        const SET = 1, "set";
    }
}

/// Which notifications the daemon sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Model {
    /// [`Event::Notification`]. Every corosync has it. `QUORUM_MODEL_V0`
    #[default]
    V0,
    /// [`Event::Quorum`] and [`Event::Nodelist`]. Since corosync 3.1. `QUORUM_MODEL_V1`
    V1,
}

/// An event of the quorum service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// Model v0: quorum or membership changed.
    Notification(Notification),
    /// Model v1: quorum changed.
    Quorum(QuorumNotification),
    /// Model v1: membership changed. The first [`Event::Quorum`] has the membership at first.
    Nodelist(NodelistNotification),
    /// An event that this version does not know.
    Unknown(UnknownEvent),
}

/// Model v0: quorum or membership changed. Matches `quorum_notification_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Notification {
    /// Whether this node is quorate.
    pub quorate: bool,
    /// Sequence number of the ring.
    pub ring_seq: u64,
    /// Its members.
    pub members: Vec<NodeId>,
}

/// Model v1: quorum changed. Matches `quorum_v1_quorum_notification_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QuorumNotification {
    /// Whether this node is quorate.
    pub quorate: bool,
    /// The ring.
    pub ring_id: RingId,
    /// Its members.
    pub members: Vec<NodeId>,
    /// The list of nodes that belongs to it, when this is the present state that
    /// [`Client::track_start`] asked for. Afterwards it comes as [`Event::Nodelist`] of its
    /// own. Without a quorum provider this alone has the ring and its members.
    pub nodelist: Option<NodelistNotification>,
}

/// Model v1: membership changed. Matches `quorum_v1_nodelist_notification_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodelistNotification {
    /// The ring.
    pub ring_id: RingId,
    /// Its members.
    pub members: Vec<NodeId>,
    /// Members that were not in the ring before.
    pub joined: Vec<NodeId>,
    /// Members of the ring before that are not in this one.
    pub left: Vec<NodeId>,
}

/// A ring's id. Old corosyncs keep the node that formed it to themselves.
///
/// Prints as [`RingId`], with `?` for a node that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(into = "RingText", from = "RingText")
)]
pub struct Ring {
    /// The node that formed the ring; `None` from model v0.
    pub node_id: Option<NodeId>,
    /// The sequence number.
    pub seq: u64,
}

impl From<RingId> for Ring {
    fn from(ring: RingId) -> Self {
        Self { node_id: Some(ring.node_id), seq: ring.seq }
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node_id, seq } = *self;
        match node_id {
            Some(node_id) => f.pad(&RingId { node_id, seq }.to_string()),
            None => f.pad(&format!("?.{seq:x}")),
        }
    }
}

/// A ring's id with the text that corosync prints.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
struct RingText {
    node_id: Option<NodeId>,
    seq: u64,
    #[serde(default)]
    text: String,
}

#[cfg(feature = "serde")]
impl From<Ring> for RingText {
    fn from(ring: Ring) -> Self {
        Self { node_id: ring.node_id, seq: ring.seq, text: ring.to_string() }
    }
}

#[cfg(feature = "serde")]
impl From<RingText> for Ring {
    fn from(ring: RingText) -> Self {
        Self { node_id: ring.node_id, seq: ring.seq }
    }
}

/// Quorum and the members at one moment; [`membership`] asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Membership {
    /// Whether this node is quorate.
    pub quorate: bool,
    /// The ring. This and the members are `None` from corosync before 3.1 without a quorum
    /// provider, where no service reports them.
    pub ring_id: Option<Ring>,
    /// Its members.
    pub members: Option<Vec<NodeId>>,
}

/// Quorum, the ring and its members, in the newest model that the daemon has. No C function does
/// this: there one chooses a model and waits for a callback.
///
/// It connects by itself, to cmap too, which tells whether the daemon has model v1.
///
/// ```no_run
/// use corosync_ipc::{Endpoint, quorum};
///
/// let membership = quorum::membership(&Endpoint::from_env()?)?;
/// println!("quorate: {}, members: {:?}", membership.quorate, membership.members);
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
///
/// # Errors
/// As [`Client::connect`]; [`Error::TimedOut`].
pub fn membership(endpoint: &Endpoint) -> Result<Membership> {
    let call = Call::connecting(endpoint);
    within(call.deadline, || Client::connect_newest(endpoint)?.present(call.deadline))
}

/// Options of [`Client::connect_with`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    model: Model,
    nodelist_apart: bool,
}

impl Options {
    /// The options that [`Client::connect`] uses.
    pub fn new() -> Self {
        Self::default()
    }

    /// The notifications to be sent. Default: [`Model::V0`].
    pub fn model(mut self, model: Model) -> Self {
        self.model = model;
        self
    }

    /// Whether the list of nodes that belongs to the present state comes as an [`Event::Nodelist`]
    /// in front of the [`Event::Quorum`], as in C, instead of [inside of
    /// it](QuorumNotification::nodelist). Default: false.
    pub fn nodelist_apart(mut self, apart: bool) -> Self {
        self.nodelist_apart = apart;
        self
    }
}

impl Client {
    /// Connects with model v0, as [`Endpoint::from_env`] says.
    ///
    /// Matches `quorum_initialize`.
    ///
    /// # Errors
    /// Whatever prevents a connection: the first variants of [`Error`].
    pub fn connect() -> Result<Self> {
        Self::connect_to(&Endpoint::from_env()?)
    }

    /// Connects with model v0.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_to(endpoint: &Endpoint) -> Result<Self> {
        Self::connect_with(endpoint, Options::new())
    }

    /// Connects with the newest model that the daemon is known to have: model v0 also where cmap
    /// does not say how old the daemon is.
    ///
    /// Where no quorum provider is configured, only model v1 tells the members. A program that
    /// would rather have no connection than miss them uses [`Client::connect_with`], and model v0
    /// only after [`Error::Unsupported`].
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_newest(endpoint: &Endpoint) -> Result<Self> {
        // Whatever cmap fails with, that the daemon is asked with care must not keep anybody from
        // it.
        Self::connect_with(endpoint, Options::new().model(Model::V1))
            .or_else(|_| Self::connect_to(endpoint))
    }

    /// Connects with options.
    ///
    /// Matches `quorum_model_initialize`. Before model v1 is asked for, the daemon's age is looked
    /// up in cmap, over a connection of its own, since that request crashes daemons before 2.99.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`Error::Unsupported`] when the daemon does not have the model.
    pub fn connect_with(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let call = Call::connecting(endpoint);
        if options.model == Model::V1 {
            Probe::new(endpoint).require(&QUORUM_MODEL_V1, call)?;
        }
        Self::connect_known(endpoint, options, call)
    }

    /// As [`Client::connect_with`], for a daemon that is known to have the model, or at least to
    /// refuse it without harm.
    pub(crate) fn connect_known(endpoint: &Endpoint, options: Options, call: Call) -> Result<Self> {
        let Options { model, nodelist_apart } = options;
        let service = Quorum {
            quorum_type: QuorumType::FREE,
            joins_parts: model == Model::V1 && !nodelist_apart,
            tracking: Tracking::default(),
            present: Mutex::default(),
        };
        let mut client = Self::open(endpoint, service, call)?;
        let quorum_type = match model {
            Model::V0 => {
                client.core.request(call.step("quorum gettype"), &wire::GetType {})?.quorum_type
            }
            Model::V1 => {
                let request = wire::ModelGetType { model: 1 };
                let reply = client.core.request(call.step("quorum model gettype"), &request);
                QUORUM_MODEL_V1.or_unsupported(reply)?.quorum_type
            }
        };
        client.core.service.quorum_type = QuorumType(quorum_type);
        Ok(client)
    }

    /// Whether a quorum provider is configured, as the daemon said when this client connected.
    pub fn quorum_type(&self) -> QuorumType {
        self.core.service.quorum_type
    }

    /// Whether this node is quorate.
    ///
    /// Matches `quorum_getquorate`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Disconnected`], [`Error::Cs`] as the daemon says.
    pub fn is_quorate(&self) -> Result<bool> {
        Ok(self.core.request(self.core.call("quorum getquorate"), &wire::GetQuorate {})?.quorate
            != 0)
    }

    /// Starts notifications. With `CURRENT` or `CHANGES` the present state comes first, before this
    /// returns; with `CHANGES` or `CHANGES_ONLY` every change follows. The flags combine
    /// freely.
    ///
    /// Matches `quorum_trackstart`. Unlike in C, the present state is one event in model v1 too, an
    /// [`Event::Quorum`] with its [`nodelist`](QuorumNotification::nodelist), so that nobody
    /// acts on the list of nodes before it is known whether they are quorate.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::Exist`] when notifications are on already (the present state
    /// is sent all the same, if asked for), or may be because a start timed out; as
    /// [`Client::is_quorate`].
    pub fn track_start(&self, flags: TrackFlags) -> Result<()> {
        const CALL: &str = "quorum trackstart";
        let send = |track_flags: TrackFlags| {
            let present = track_flags.intersects(TrackFlags::CURRENT | TrackFlags::CHANGES);
            if !self.core.service.joins_parts || !present {
                return self
                    .core
                    .request(self.core.call(CALL), &wire::TrackStart { track_flags })
                    .map(drop);
            }
            // Before the request: the state is here before the answer.
            self.core.service.present().asked += 1;
            let started = self
                .core
                .request(self.core.call(CALL), &wire::TrackStart { track_flags })
                .map(drop);
            if !matches!(
                started,
                Ok(()) | Err(Error::Cs { error: CsError::Exist, .. } | Error::TimedOut { .. })
            ) {
                // It is not told.
                let mut present = self.core.service.present();
                present.asked = present.asked.saturating_sub(1);
            }
            started
        };
        self.core.service.tracking.start(CALL, flags, send)
    }

    /// Asks for the present state and waits for it, on a client that nobody else takes events of.
    pub(crate) fn present(&self, deadline: Instant) -> Result<Membership> {
        self.track_start(TrackFlags::CURRENT)?;
        let (quorate, ring, members, nodelist) = loop {
            match self.next_event(deadline)? {
                Some(Event::Quorum(event)) => {
                    break (event.quorate, event.ring_id.into(), event.members, event.nodelist);
                }
                Some(Event::Notification(event)) => {
                    let ring = Ring { node_id: None, seq: event.ring_seq };
                    break (event.quorate, ring, event.members, None);
                }
                Some(_) => {}
                None => {
                    let operation = "waiting for the state of quorum".into();
                    let after = self.request_timeout();
                    return Err(Error::TimedOut { operation, after, stage: None });
                }
            }
        };
        // Ring and members come from the provider. Without one they stay empty in the state.
        let (ring_id, members) = match (self.quorum_type(), nodelist) {
            (QuorumType::FREE, None) => (None, None),
            (QuorumType::FREE, Some(list)) => (Some(list.ring_id.into()), Some(list.members)),
            _ => (Some(ring), Some(members)),
        };
        Ok(Membership { quorate, ring_id, members })
    }

    /// Ends notifications. Those already sent still come.
    ///
    /// Matches `quorum_trackstop`.
    ///
    /// # Errors
    /// As [`Client::is_quorate`]. That notifications were off is none.
    pub fn track_stop(&self) -> Result<()> {
        self.core.service.tracking.stop(|| {
            self.core.request(self.core.call("quorum trackstop"), &wire::TrackStop {}).map(drop)
        })
    }
}

#[cfg(feature = "tokio")]
crate::client::async_client! {
    /// The quorum client for tokio: every request can be awaited.
    pub struct AsyncClient(with Options);
    is_quorate() -> bool;
    track_start(flags: TrackFlags) -> ();
    track_stop() -> ();
}

impl Quorum {
    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    /// Takes a list of nodes that came. Returns it when it is an event of its own.
    fn nodelist_came(&mut self, nodelist: NodelistNotification) -> Option<NodelistNotification> {
        // The list of the present state has no changes.
        let is_present = self.asked > 0 && nodelist.joined.is_empty() && nodelist.left.is_empty();
        if is_present { self.nodelist.replace(nodelist) } else { Some(nodelist) }
    }

    /// Takes note that the state of quorum came. Returns the list of nodes that belongs to it.
    fn quorum_came(&mut self) -> Option<NodelistNotification> {
        let nodelist = self.nodelist.take()?;
        self.asked = self.asked.saturating_sub(1);
        Some(nodelist)
    }
}

impl Service for Quorum {
    type Event = Event;

    const NAME: &'static str = "quorum";
    const RING_SIZE: u32 = SMALL_RING_SIZE;

    fn nudge() -> Result<Vec<u8>, WireError> {
        wire::GetQuorate {}.encode()
    }

    fn event(&self, message: &mut Buffer) -> Result<Option<Event>, WireError> {
        Ok(Some(match wire::AnyEvent::decode(message) {
            Ok(wire::AnyEvent::Notification(event)) => Event::Notification(Notification {
                quorate: event.quorate != 0,
                ring_seq: event.ring_seq,
                members: event.view_list,
            }),
            Ok(wire::AnyEvent::QuorumNotification(event)) => Event::Quorum(QuorumNotification {
                quorate: event.quorate != 0,
                ring_id: event.ring_id,
                members: event.view_list,
                nodelist: self.present().quorum_came(),
            }),
            Ok(wire::AnyEvent::NodelistNotification(event)) => {
                let nodelist = NodelistNotification {
                    ring_id: event.ring_id,
                    members: event.member_list,
                    joined: event.joined_list,
                    left: event.left_list,
                };
                return Ok(self.present().nodelist_came(nodelist).map(Event::Nodelist));
            }
            Err(WireError::UnknownId { id, .. }) => {
                Event::Unknown(UnknownEvent { id, message: message.take() })
            }
            Err(error) => return Err(error),
        }))
    }
}
