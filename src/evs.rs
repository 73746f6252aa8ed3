//! The evs service: multicast with extended virtual synchrony, straight from totem.
//!
//! Only corosync 1.99.0 to 1.99.7 (2012) has it in the wire that this crate speaks; earlier ones
//! speak another wire, and later ones, so everything that is packaged today, have no evs:
//! connecting fails with [`Error::NoSocket`]. [`cpg`](crate::cpg) does the same and more, and is
//! there in all of them.
//!
//! Matches libevs.
//!
//! ```no_run
//! use corosync_ipc::evs::{Client, Event, GroupName, Guarantee};
//!
//! let client = Client::connect()?;
//! client.join(&[GroupName::new("example")?])?;
//! client.multicast_joined(Guarantee::AGREED, b"hello")?;
//! for event in client.events() {
//!     if let Event::Deliver(message) = event? {
//!         println!("node {}: {:?}", message.node_id, message.payload);
//!     }
//! }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::client::{Service, UnknownEvent, client};
use crate::codec::{Header, Kind, Reader};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result, WireError};
use crate::libqb::buffer::Buffer;
use crate::libqb::client::Call;
use crate::wire::Message;
use crate::wire::evs as wire;
use crate::wire::values::NodeId;

/// In which order a message is delivered; `evs_guarantee_t` has the same values as
/// `cpg_guarantee_t`. The daemon takes all for agreed.
#[doc(inline)]
pub use crate::wire::evs::Guarantee;
#[doc(inline)]
pub use crate::wire::evs::{GROUP_NAME_SIZE, GroupName};

client! {
    /// A connection to the evs service.
    pub struct Client: Evs as "evs"
}

/// The service, with what a client of it remembers.
#[derive(Debug)]
pub(crate) struct Evs {
    /// How many groups this client joined, at most; one can be joined several times.
    joined: AtomicUsize,
}

/// A key of the map of every daemon that has evs, an embedded one included.
pub(crate) const SERVICE_ID: &str = "runtime.services.evs.service_id";

/// The most groups in one call.
pub const MAX_GROUPS: usize = wire::MAX_GROUPS;

/// The most groups that one client can be in.
pub const MAX_JOINED_GROUPS: usize = 1000;

/// The longest message, in bytes.
///
/// The daemon puts the pieces of a message together in 1 MiB without looking whether they fit: the
/// message itself, headers, the names of its groups, and up to 10000 bytes of what travelled with
/// the last piece. This leaves room for all of them.
pub const MAX_MESSAGE_SIZE: usize = 1_000_000;

/// The cluster's members. Matches what `evs_membership_get` hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Membership {
    /// This node.
    pub local_node_id: NodeId,
    /// All members.
    pub members: Vec<NodeId>,
}

/// An event of the evs service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// A message to a group that this client is in.
    Deliver(Deliver),
    /// The membership of the cluster changed.
    Confchg(Confchg),
    /// An event that this version does not know.
    Unknown(UnknownEvent),
}

/// A message to a group that this client is in. The daemon does not tell to which one. Matches
/// `evs_deliver_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Deliver {
    /// The sender's node.
    pub node_id: NodeId,
    /// The message.
    pub payload: Bytes,
}

/// The membership of the cluster changed. The first event of each connection is one, with the last
/// change. Matches `evs_confchg_fn_t`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Confchg {
    /// Members now.
    pub members: Vec<NodeId>,
    /// Members now that were not members before.
    pub joined: Vec<NodeId>,
    /// Members before that are no members now.
    pub left: Vec<NodeId>,
}

/// Size of a configuration change, which comes with room for all nodes there can be.
const LARGEST_CONFCHG: u32 = 4656;

impl Client {
    /// Connects as [`Endpoint::from_env`] says. Events come at once: the cluster's membership
    /// first.
    ///
    /// Matches `evs_initialize`.
    ///
    /// # Errors
    /// [`Error::NoSocket`] from a corosync that has no evs, which is every one since 1.99.8; what
    /// else stands in the way: see the first variants of [`Error`].
    pub fn connect() -> Result<Self> {
        Self::connect_to(&Endpoint::from_env()?)
    }

    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`Error::InvalidArgument`] when the [ring size](Endpoint::ring_size)
    /// is too small for the first event.
    pub fn connect_to(endpoint: &Endpoint) -> Result<Self> {
        let room = endpoint.ring_size_or(Evs::RING_SIZE)?;
        if room < LARGEST_CONFCHG {
            let reason =
                format!("the first event has {LARGEST_CONFCHG} bytes, there is room for {room}");
            return Err(Error::invalid("ring size", reason));
        }
        Self::open(endpoint, Evs { joined: AtomicUsize::new(0) }, Call::connecting(endpoint))
    }

    /// Joins groups: messages to them are delivered to this client from now on. The daemon does not
    /// notice that a group was joined before; it must then be left as often.
    ///
    /// Matches `evs_join`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no group or more than [`MAX_GROUPS`], and when the client
    /// would be in more than [`MAX_JOINED_GROUPS`]; [`Error::TimedOut`], also while the
    /// partition is not quorate, when the service takes no request at all;
    /// [`Error::Disconnected`]; [`Error::Cs`] as the daemon says.
    pub fn join(&self, groups: &[GroupName]) -> Result<()> {
        check_groups(groups)?;
        // Relaxed: a count. A join whose answer is not known counts.
        let joined = self
            .core
            .service
            .joined
            .fetch_add(groups.len(), Ordering::Relaxed)
            .saturating_add(groups.len());
        let result = if joined > MAX_JOINED_GROUPS {
            Err(Error::invalid(
                "groups",
                format!("{joined} joined in all are more than {MAX_JOINED_GROUPS}"),
            ))
        } else {
            self.core
                .request(self.core.call("evs join"), &wire::Join { groups: groups.to_vec() })
                .map(drop)
        };
        if matches!(result, Err(Error::InvalidArgument { .. } | Error::Cs { .. })) {
            self.core.service.joined.fetch_sub(groups.len(), Ordering::Relaxed);
        }
        result
    }

    /// Leaves groups.
    ///
    /// Matches `evs_leave`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotExist`](crate::CsError::NotExist) at the first group that
    /// was not joined: those before it are left, those behind it are not; as [`Client::join`].
    pub fn leave(&self, groups: &[GroupName]) -> Result<()> {
        check_groups(groups)?;
        self.core.request(self.core.call("evs leave"), &wire::Leave { groups: groups.to_vec() })?;
        self.core.service.joined.fetch_sub(groups.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Sends a message to all groups this client joined. Returns when the daemon has taken it,
    /// which is before it is delivered.
    ///
    /// Matches `evs_mcast_joined`, but waits for a daemon that is busy.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a message longer than [`MAX_MESSAGE_SIZE`] or than the ring
    /// has room for; as [`Client::join`].
    pub fn multicast_joined(&self, guarantee: Guarantee, message: &[u8]) -> Result<()> {
        self.core.request(
            self.core.call("evs mcast joined"),
            &wire::McastJoined { guarantee, msg: check_message(message)? },
        )?;
        Ok(())
    }

    /// Sends a message to groups, whether this client joined them or not. A member of several of
    /// them gets it once.
    ///
    /// Matches `evs_mcast_groups`, but waits for a daemon that is busy.
    ///
    /// # Errors
    /// As [`Client::multicast_joined`].
    pub fn multicast_groups(
        &self,
        guarantee: Guarantee,
        groups: &[GroupName],
        message: &[u8],
    ) -> Result<()> {
        check_groups(groups)?;
        let request =
            wire::McastGroups { guarantee, groups: groups.to_vec(), msg: check_message(message)? };
        self.core.request(self.core.call("evs mcast groups"), &request)?;
        Ok(())
    }

    /// The cluster's members, whether they use evs or not.
    ///
    /// Matches `evs_membership_get`.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub fn membership(&self) -> Result<Membership> {
        let reply =
            self.core.request(self.core.call("evs membership get"), &wire::GetMembership {})?;
        Ok(Membership { local_node_id: reply.local_nodeid, members: reply.member_list })
    }
}

#[cfg(feature = "tokio")]
crate::client::async_client! {
    /// The evs client for tokio: every request can be awaited.
    pub struct AsyncClient;
    join(groups: &[GroupName]) -> ();
    leave(groups: &[GroupName]) -> ();
    multicast_joined(guarantee: Guarantee, message: &[u8]) -> ();
    multicast_groups(guarantee: Guarantee, groups: &[GroupName], message: &[u8]) -> ();
    membership() -> Membership;
}

/// An empty list makes the daemon free its list of groups and use it afterwards.
fn check_groups(groups: &[GroupName]) -> Result<()> {
    if groups.is_empty() || groups.len() > MAX_GROUPS {
        return Err(Error::invalid(
            "groups",
            format!("1 to {MAX_GROUPS} at a time, not {}", groups.len()),
        ));
    }
    Ok(())
}

fn check_message(message: &[u8]) -> Result<Bytes> {
    if message.len() > MAX_MESSAGE_SIZE {
        return Err(Error::invalid(
            "message",
            format!("{} bytes are more than {MAX_MESSAGE_SIZE}", message.len()),
        ));
    }
    Ok(Bytes::copy_from_slice(message))
}

impl Service for Evs {
    type Event = Event;

    const NAME: &'static str = "evs";
    /// Messages may be nearly as long as C's rings.
    const RING_SIZE: u32 = 1 << 20;

    fn nudge() -> Result<Vec<u8>, WireError> {
        wire::GetMembership {}.encode()
    }

    fn event(&self, message: &mut Buffer) -> Result<Option<Event>, WireError> {
        // A connection that comes before the first membership gets a membership of zeros.
        let header = Header::read(&mut Reader::new("evs event", message), Kind::Event)?;
        if header.size == 0 {
            return Ok(None);
        }
        let message = message.take();
        Ok(Some(match wire::AnyEvent::decode_shared(&message) {
            Ok(wire::AnyEvent::Deliver(event)) => {
                Event::Deliver(Deliver { node_id: event.local_nodeid, payload: event.msg })
            }
            Ok(wire::AnyEvent::Confchg(event)) => Event::Confchg(Confchg {
                members: event.member_list,
                joined: event.joined_list,
                left: event.left_list,
            }),
            Err(WireError::UnknownId { id, .. }) => Event::Unknown(UnknownEvent { id, message }),
            Err(error) => return Err(error),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_too_small_for_the_first_event_is_refused() {
        let error = Client::connect_to(&Endpoint::new().ring_size(4096)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ring size: the first event has 4656 bytes, there is room for 4096"
        );
    }

    #[test]
    fn all_bytes_of_a_name_count() {
        let name = GroupName::new("red").unwrap();
        assert_eq!((name.to_string(), name.as_bytes()[3]), ("red".to_owned(), 0));
        assert_ne!(GroupName::new("red\0x").unwrap(), name);
        assert_eq!(GroupName::new("red\0x").unwrap().trimmed(), b"red\0x");
        assert_eq!(GroupName::new("x".repeat(32)).unwrap().trimmed().len(), 32);
        assert_eq!(format!("{:?}", GroupName::from_bytes([255; 32])).len(), 13 + 32 * 4);
    }

    #[test]
    fn a_greeting_without_a_membership_is_no_event() {
        let service = Evs { joined: AtomicUsize::new(0) };
        assert_eq!(service.event(&mut vec![0; 4656].into()).unwrap(), None);
        let empty = wire::Deliver { local_nodeid: NodeId(1), msg: Bytes::new() }.encode().unwrap();
        let event = service.event(&mut empty.into()).unwrap();
        assert_eq!(
            event,
            Some(Event::Deliver(Deliver { node_id: NodeId(1), payload: Bytes::new() }))
        );
        let unknown = crate::codec::encode_refusal(9, crate::error::CsError::Busy).unwrap();
        assert!(matches!(
            service.event(&mut unknown.into()),
            Ok(Some(Event::Unknown(UnknownEvent { id: 9, .. })))
        ));
    }
}
