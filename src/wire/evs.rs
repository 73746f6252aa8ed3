//! The messages of the evs service, which only corosync 1.99.0 to 1.99.7 has. `proto/evs.json` has
//! their layouts.
//!
//! Counts are C's `size_t` and node ids `unsigned int`, not slots. Most requests begin with a
//! response header.
//!
//! ```
//! use corosync_ipc::wire::{Message, evs};
//!
//! let request = evs::Join { groups: vec![evs::GroupName::new("group").unwrap()] };
//! assert_eq!(evs::Join::decode(&request.encode()?)?, request);
//! # Ok::<(), corosync_ipc::WireError>(())
//! ```

use std::fmt;

use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::codec::{Kind, Number, Plain, Reader, Value, Writer};
use crate::error::{Error, Result, WireError};
use crate::wire::Message;
#[doc(inline)]
pub use crate::wire::cpg::Guarantee;
use crate::wire::message::{any_message, message};
use crate::wire::values::NodeId;

/// The size of a group name in bytes.
pub const GROUP_NAME_SIZE: usize = 32;

/// A group name: 32 bytes, all of which count. Matches `struct evs_group`.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
#[repr(transparent)]
pub struct GroupName([u8; GROUP_NAME_SIZE]);

impl Plain for GroupName {
    fn value(&self) -> Value {
        self.0.value()
    }
}

impl GroupName {
    /// Makes a name of up to 32 bytes, padded with NULs as C's `strcpy` into a zeroed struct pads
    /// it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more than [`GROUP_NAME_SIZE`] bytes.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self> {
        let name = name.as_ref();
        let mut padded = [0; GROUP_NAME_SIZE];
        match padded.get_mut(..name.len()) {
            Some(room) => room.copy_from_slice(name),
            None => {
                let reason = format!("{} bytes are more than {GROUP_NAME_SIZE}", name.len());
                return Err(Error::invalid("group name", reason));
            }
        }
        Ok(Self(padded))
    }

    /// Makes a name of 32 bytes.
    pub const fn from_bytes(bytes: [u8; GROUP_NAME_SIZE]) -> Self {
        Self(bytes)
    }

    /// Returns all 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; GROUP_NAME_SIZE] {
        &self.0
    }

    /// Returns the name without the NULs at its end.
    pub fn trimmed(&self) -> &[u8] {
        let end = self.0.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.0.get(..end).unwrap_or_default()
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(self.trimmed()))
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupName(\"{}\")", self.trimmed().escape_ascii())
    }
}

/// The most nodes in a list of nodes. Matches `PROCESSOR_COUNT_MAX`.
pub const MAX_NODES: usize = 384;

/// The most groups in one [`Join`].
pub const MAX_GROUPS: usize = 50;

/// Joins groups.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Join {
    /// The groups, at most [`MAX_GROUPS`].
    pub groups: Vec<GroupName>,
}

/// Leaves groups.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Leave {
    /// The groups.
    pub groups: Vec<GroupName>,
}

/// Implements a request whose only field is a list of groups.
macro_rules! groups_request {
    ($type:ident, $id:literal, $name:literal, $reply:ty) => {
        impl Message for $type {
            const NAME: &'static str = $name;
            const ID: i32 = $id;
            const KIND: Kind = Kind::Request;
            const HEADER: Kind = Kind::Response;

            fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
                writer.put("group_entries", self.groups.len() as u64);
                writer.list("groups", &self.groups);
                Ok(())
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                let count = reader.number::<u64>("group_entries")?;
                Ok(Self { groups: groups(reader, count)? })
            }
        }

        impl crate::wire::Request for $type {
            type Reply = $reply;
        }
    };
}

groups_request!(Join, 0, "req_lib_evs_join", JoinReply);
groups_request!(Leave, 1, "req_lib_evs_leave", LeaveReply);

/// Sends a message to the groups that this connection joined.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct McastJoined {
    /// The requested order, which the daemon ignores.
    pub guarantee: Guarantee,
    /// The message.
    pub msg: Bytes,
}

impl Message for McastJoined {
    const NAME: &'static str = "req_lib_evs_mcast_joined";
    const ID: i32 = 2;
    const KIND: Kind = Kind::Request;
    const HEADER: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.slot("guarantee", self.guarantee);
        writer.put("msg_len", self.msg.len() as u64);
        writer.bytes("msg", &self.msg);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let guarantee = reader.slot("guarantee")?;
        let length = reader.number::<u64>("msg_len")?;
        Ok(Self { guarantee, msg: message(reader, length)? })
    }
}

impl crate::wire::Request for McastJoined {
    type Reply = McastJoinedReply;
}

/// Sends a message to groups, joined or not.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct McastGroups {
    /// The requested order, which the daemon ignores.
    pub guarantee: Guarantee,
    /// The groups.
    pub groups: Vec<GroupName>,
    /// The message.
    pub msg: Bytes,
}

impl Message for McastGroups {
    const NAME: &'static str = "req_lib_evs_mcast_groups";
    const ID: i32 = 3;
    const KIND: Kind = Kind::Request;
    const HEADER: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.slot("guarantee", self.guarantee);
        writer.put("msg_len", self.msg.len() as u64);
        writer.put("group_entries", self.groups.len() as u64);
        writer.list("groups", &self.groups);
        writer.bytes("msg", &self.msg);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let guarantee = reader.slot("guarantee")?;
        let length = reader.number::<u64>("msg_len")?;
        let count = reader.number::<u64>("group_entries")?;
        Ok(Self { guarantee, groups: groups(reader, count)?, msg: message(reader, length)? })
    }
}

impl crate::wire::Request for McastGroups {
    type Reply = McastGroupsReply;
}

message! {
    /// Asks for the members of the current configuration.
    request 4 "req_lib_evs_membership_get" -> MembershipReply: pub struct GetMembership {}
}

message! {
    /// Reply to [`Join`].
    response 2 "res_lib_evs_join": pub struct JoinReply {}
}

message! {
    /// Reply to [`Leave`].
    response 3 "res_lib_evs_leave": pub struct LeaveReply {}
}

message! {
    /// Reply to [`McastJoined`].
    response 4 "res_lib_evs_mcast_joined": pub struct McastJoinedReply {}
}

message! {
    /// Reply to [`McastGroups`].
    response 5 "res_lib_evs_mcast_groups": pub struct McastGroupsReply {}
}

/// Reply to [`GetMembership`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MembershipReply {
    /// This node.
    pub local_nodeid: NodeId,
    /// The members, at most [`MAX_NODES`].
    pub member_list: Vec<NodeId>,
}

impl Message for MembershipReply {
    const NAME: &'static str = "res_lib_evs_membership_get";
    const ID: i32 = 6;
    const KIND: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.put("local_nodeid", self.local_nodeid);
        let count = write_nodes("member_list", &self.member_list, writer)?;
        writer.align();
        writer.put("member_list_entries", count);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let local_nodeid = reader.get("local_nodeid")?;
        let mut member_list = reader.list("member_list", MAX_NODES)?;
        reader.align();
        let count = reader.number::<u64>("member_list_entries")?;
        member_list.truncate(reader.bounded(count, MAX_NODES)?);
        Ok(Self { local_nodeid, member_list })
    }
}

/// Event: a message to a group that this connection joined.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Deliver {
    /// The sender's node, despite the field's name in C.
    pub local_nodeid: NodeId,
    /// The message.
    pub msg: Bytes,
}

impl Message for Deliver {
    const NAME: &'static str = "res_evs_deliver_callback";
    const ID: i32 = 0;
    const KIND: Kind = Kind::Event;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.slot("local_nodeid", self.local_nodeid);
        writer.put("msglen", self.msg.len() as u64);
        writer.bytes("msg", &self.msg);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let local_nodeid = reader.slot("local_nodeid")?;
        let length = reader.number::<u64>("msglen")?;
        Ok(Self { local_nodeid, msg: message(reader, length)? })
    }
}

/// Event: the membership of the cluster changed.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Confchg {
    /// The members after the change.
    pub member_list: Vec<NodeId>,
    /// The members that left.
    pub left_list: Vec<NodeId>,
    /// The members that joined.
    pub joined_list: Vec<NodeId>,
}

impl Message for Confchg {
    const NAME: &'static str = "res_evs_confchg_callback";
    const ID: i32 = 1;
    const KIND: Kind = Kind::Event;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.put("member_list_entries", self.member_list.len() as u64);
        writer.put("left_list_entries", self.left_list.len() as u64);
        writer.put("joined_list_entries", self.joined_list.len() as u64);
        write_nodes("member_list", &self.member_list, writer)?;
        write_nodes("left_list", &self.left_list, writer)?;
        write_nodes("joined_list", &self.joined_list, writer)?;
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut count =
            |field| reader.number::<u64>(field).and_then(|count| reader.bounded(count, MAX_NODES));
        let members = count("member_list_entries")?;
        let left = count("left_list_entries")?;
        let joined = count("joined_list_entries")?;
        let mut list = |field, count| {
            let mut nodes = reader.list(field, MAX_NODES)?;
            nodes.truncate(count);
            Ok(nodes)
        };
        Ok(Self {
            member_list: list("member_list", members)?,
            left_list: list("left_list", left)?,
            joined_list: list("joined_list", joined)?,
        })
    }
}

any_message! {
    /// Any request of the service.
    pub enum AnyRequest { Join, Leave, McastJoined, McastGroups, GetMembership }
}

any_message! {
    /// Any reply of the service.
    pub enum AnyResponse { JoinReply, LeaveReply, McastJoinedReply, McastGroupsReply, MembershipReply }
}

any_message! {
    /// Any event of the service.
    pub enum AnyEvent { Deliver, Confchg }
}

fn groups(reader: &mut Reader<'_>, count: Number) -> Result<Vec<GroupName>, WireError> {
    let count = reader.counted(count, size_of::<GroupName>())?;
    reader.list("groups", count)
}

fn message(reader: &mut Reader<'_>, length: Number) -> Result<Bytes, WireError> {
    let length = reader.counted(length, 1)?;
    reader.bytes("msg", length)
}

/// Writes a list of nodes as an array of [`MAX_NODES`]. Returns the list's length.
fn write_nodes(
    field: &'static str,
    nodes: &[NodeId],
    writer: &mut Writer,
) -> Result<u64, WireError> {
    use zerocopy::IntoBytes;
    let count = writer.length(field, nodes.len(), MAX_NODES)?;
    let size = MAX_NODES * size_of::<NodeId>();
    writer.padded(field, nodes.as_bytes(), size, size)?;
    Ok(count.into())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn groups() -> impl Strategy<Value = Vec<GroupName>> {
        vec(any::<[u8; 32]>().prop_map(GroupName::from_bytes), 0..=MAX_GROUPS)
    }

    fn payload() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..3000).prop_map(Bytes::from)
    }

    fn nodes() -> impl Strategy<Value = Vec<NodeId>> {
        vec(any::<u32>().prop_map(NodeId), 0..=MAX_NODES)
    }

    fn request() -> impl Strategy<Value = AnyRequest> {
        let guarantee = || any::<u32>().prop_map(Guarantee);
        prop_oneof![
            groups().prop_map(|groups| AnyRequest::Join(Join { groups })),
            groups().prop_map(|groups| AnyRequest::Leave(Leave { groups })),
            (guarantee(), payload()).prop_map(|(guarantee, msg)| AnyRequest::McastJoined(
                McastJoined { guarantee, msg }
            )),
            (guarantee(), groups(), payload()).prop_map(|(guarantee, groups, msg)| {
                AnyRequest::McastGroups(McastGroups { guarantee, groups, msg })
            }),
        ]
    }

    fn event() -> impl Strategy<Value = AnyEvent> {
        prop_oneof![
            (any::<u32>(), payload()).prop_map(|(node, msg)| AnyEvent::Deliver(Deliver {
                local_nodeid: NodeId(node),
                msg
            })),
            (nodes(), nodes(), nodes()).prop_map(|(member_list, left_list, joined_list)| {
                AnyEvent::Confchg(Confchg { member_list, left_list, joined_list })
            }),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back_as_they_went(request in request()) {
            prop_assert_eq!(AnyRequest::decode(&request.encode().unwrap()), Ok(request));
        }

        #[test]
        fn memberships_come_back_as_they_went(node: u32, member_list in nodes()) {
            let reply = MembershipReply { local_nodeid: NodeId(node), member_list };
            prop_assert_eq!(MembershipReply::decode(&reply.encode().unwrap()), Ok(reply));
        }

        #[test]
        fn events_come_back_as_they_went(event in event()) {
            prop_assert_eq!(AnyEvent::decode(&event.encode().unwrap()), Ok(event));
        }
    }

    #[test]
    fn counts_beyond_the_message_are_refused() {
        let mut deliver =
            Deliver { local_nodeid: NodeId(1), msg: "hello".into() }.encode().unwrap();
        deliver[32..40].copy_from_slice(&u64::MAX.to_ne_bytes());
        let message = "res_evs_deliver_callback";
        assert_eq!(
            Deliver::decode(&deliver),
            Err(WireError::TooLarge {
                message,
                field: "msglen",
                offset: 32,
                value: u64::MAX,
                limit: 5
            })
        );
        let mut join = Join { groups: vec![GroupName::from_bytes([1; 32]); 2] }.encode().unwrap();
        join[24..32].copy_from_slice(&(1u64 << 60).to_ne_bytes());
        assert!(matches!(Join::decode(&join), Err(WireError::TooLarge { limit: 2, .. })));
        let empty = Confchg { member_list: vec![], left_list: vec![], joined_list: vec![] };
        let mut change = empty.encode().unwrap();
        change[40..48].copy_from_slice(&385u64.to_ne_bytes());
        assert!(matches!(
            Confchg::decode(&change),
            Err(WireError::TooLarge { value: 385, limit: 384, .. })
        ));
        assert!(Confchg { member_list: vec![NodeId(1); MAX_NODES + 1], ..empty }.encode().is_err());
    }
}
