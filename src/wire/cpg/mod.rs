//! The messages of the cpg service. `proto/cpg.json` has their layouts.
//!
//! The requests of zero copy (ids 9 to 11) are left out: they make the daemon follow the client's
//! pointers.
//!
//! ```
//! use corosync_ipc::NodeId;
//! use corosync_ipc::wire::{Message, cpg};
//!
//! let event = cpg::DeliverCallback {
//!     group_name: cpg::GroupName::new("group").unwrap(),
//!     nodeid: NodeId(2),
//!     pid: 4711,
//!     message: "hello".into(),
//! };
//! let bytes = event.encode()?;
//! match cpg::AnyEvent::decode(&bytes)? {
//!     cpg::AnyEvent::DeliverCallback(decoded) => assert_eq!(decoded, event),
//!     other => panic!("{}", other.name()),
//! }
//! # Ok::<(), corosync_ipc::WireError>(())
//! ```

mod name;

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

pub use self::name::{GroupName, MAX_GROUP_NAME};

use crate::codec::{Kind, Number, Reader, Writer};
use crate::error::WireError;
use crate::wire::message::{
    Encoding, InSlotCounted, Native, RingIdSlots, Slot, any_message, begin_message, message,
};
use crate::wire::values::{NodeId, RingId, open_enum};
use crate::wire::{Message, Request};

/// The most members in a [`MembershipReply`]. Matches `PROCESSOR_COUNT_MAX`.
pub(crate) const MAX_MEMBERS: usize = 384;

/// The size of a [`MembershipReply`] in bytes. The daemon always sends room for [`MAX_MEMBERS`].
/// Matches `sizeof (struct res_lib_cpg_membership_get)`.
const MEMBERSHIP_REPLY_SIZE: usize = 32 + MAX_MEMBERS * ADDRESS_SIZE;

/// The size of `mar_cpg_address_t` in bytes: three 32-bit numbers in slots.
const ADDRESS_SIZE: usize = 24;

open_enum! {
    /// The delivery order that a sender asks for. Matches `cpg_guarantee_t`. The daemon ignores it
    /// and delivers all messages in agreed order.
    pub struct Guarantee: u32 {
        /// No order. `CPG_TYPE_UNORDERED`
        const UNORDERED = 0, "unordered";
        /// Messages of one sender arrive in the order of sending. `CPG_TYPE_FIFO`
        const FIFO = 1, "fifo";
        /// All members get all messages in the same order. `CPG_TYPE_AGREED`
        const AGREED = 2, "agreed";
        /// As agreed, and only once all members have the message. `CPG_TYPE_SAFE`
        const SAFE = 3, "safe";
    }
}

open_enum! {
    /// Why a process joined or left. Matches `cpg_reason_t`.
    pub struct Reason: u32 {
        /// The daemon gives no reason. `CPG_REASON_UNDEFINED`
        const UNDEFINED = 0, "undefined";
        /// It joined. `CPG_REASON_JOIN`
        const JOIN = 1, "join";
        /// It left. `CPG_REASON_LEAVE`
        const LEAVE = 2, "leave";
        /// Its node left this node's partition or the cluster. `CPG_REASON_NODEDOWN`
        const NODEDOWN = 3, "nodedown";
        /// Its node joined this node's partition, and the process was in the group already.
        /// `CPG_REASON_NODEUP`
        const NODEUP = 4, "nodeup";
        /// The process ended or closed its connection without leaving. `CPG_REASON_PROCDOWN`
        const PROCDOWN = 5, "procdown";
    }
}

/// A member of a group. Matches `struct cpg_address`.
///
/// Two addresses are equal if they are the same process on the same node. The reasons do not count:
/// `members.contains(&joined[0])` is true, and a set of addresses has each member once. Addresses
/// sort by node, then by process.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Address {
    /// The member's node.
    pub node_id: NodeId,
    /// The member's process id, as the member itself gives it: see
    /// [`Options::pid`](crate::cpg::Options::pid).
    pub pid: u32,
    /// Why the process joined or left. [`Reason::UNDEFINED`] in member lists.
    pub reason: Reason,
}

impl Address {
    fn identity(&self) -> (NodeId, u32) {
        (self.node_id, self.pid)
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl Ord for Address {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

open_enum! {
    /// The position of a fragment in its message. Matches `enum lib_cpg_partial_types`.
    pub struct FragmentType: u32 {
        /// The first fragment. `LIBCPG_PARTIAL_FIRST`
        const FIRST = 1, "first";
        /// A fragment between the first and the last. `LIBCPG_PARTIAL_CONTINUED`
        const CONTINUED = 2, "continued";
        /// The last fragment. `LIBCPG_PARTIAL_LAST`
        const LAST = 3, "last";
    }
}

message! {
    /// Joins a group.
    request 0 "req_lib_cpg_join" -> JoinReply: pub struct Join {
        /// The group.
        group_name: GroupName as CpgName,
        /// The process id of the new member. The daemon does not compare it with the credentials.
        pid: u32 as Slot,
        /// 1 asks for a [`TotemConfchgCallback`] after the first configuration change.
        flags: u32 as Slot,
    }
}

message! {
    /// Leaves the group.
    request 1 "req_lib_cpg_leave" -> LeaveReply: pub struct Leave {
        /// The group.
        group_name: GroupName as CpgName,
        /// As in [`Join`].
        pid: u32 as Slot,
    }
}

message! {
    /// Asks for the members of any group.
    request 3 "req_lib_cpg_membership_get" -> MembershipReply: pub struct MembershipGet {
        /// The group.
        group_name: GroupName as CpgName,
    }
}

message! {
    /// Asks for the id of the daemon's node.
    request 4 "req_lib_cpg_local_get" -> LocalGetReply joins(|_| 64): pub struct LocalGet {}
}

message! {
    /// Opens an iterator in the daemon.
    request 5 "req_lib_cpg_iterationinitialize" -> IterationInitializeReply: pub struct IterationInitialize {
        /// The group, for type 2.
        group_name: GroupName as MaybeCpgName,
        /// 1: group names only. 2: the members of one group. 3: the members of all groups.
        iteration_type: u32 as Slot,
    }
}

message! {
    /// Asks an iterator for the next entry.
    request 6 "req_lib_cpg_iterationnext" -> IterationNextReply: pub struct IterationNext {
        /// From [`IterationInitializeReply`].
        iteration_handle: u64 as Native,
    }
}

message! {
    /// Closes an iterator.
    request 7 "req_lib_cpg_iterationfinalize" -> IterationFinalizeReply: pub struct IterationFinalize {
        /// From [`IterationInitializeReply`].
        iteration_handle: u64 as Native,
    }
}

message! {
    /// Announces the end of the connection. It changes nothing for the group, which gets `PROCDOWN`
    /// when the connection is closed.
    request 8 "req_lib_cpg_finalize" -> FinalizeReply: pub struct Finalize {}
}

message! {
    /// Reply to [`Join`].
    response 0 "res_lib_cpg_join": pub struct JoinReply {}
}

message! {
    /// Reply to [`Leave`].
    response 1 "res_lib_cpg_leave": pub struct LeaveReply {}
}

message! {
    /// Reply to [`LocalGet`].
    response 7 "res_lib_cpg_local_get": pub struct LocalGetReply {
        /// The node.
        local_nodeid: NodeId as Slot,
    }
}

message! {
    /// Reply to [`IterationInitialize`].
    response 9 "res_lib_cpg_iterationinitialize": pub struct IterationInitializeReply {
        /// The iterator's handle.
        iteration_handle: u64 as Native,
    }
}

message! {
    /// Reply to [`IterationNext`]. `CS_ERR_NO_SECTIONS` after the last entry.
    response 10 "res_lib_cpg_iterationnext": pub struct IterationNextReply {
        /// The entry.
        description: Description as DescriptionFields,
    }
}

message! {
    /// Reply to [`IterationFinalize`].
    response 11 "res_lib_cpg_iterationfinalize": pub struct IterationFinalizeReply {}
}

message! {
    /// Reply to [`Finalize`].
    response 12 "res_lib_cpg_finalize": pub struct FinalizeReply {}
}

message! {
    /// Reply to [`PartialMcast`]. `CS_ERR_INTERRUPT`: the group's membership has changed since the
    /// first fragment, and the daemon did not send this one.
    response 18 "res_lib_cpg_partial_send": pub struct PartialSendReply {}
}

message! {
    /// Event: the membership of the cluster's nodes changed.
    event 13 "res_lib_cpg_totem_confchg_callback": pub struct TotemConfchgCallback {
        /// The new ring.
        ring_id: RingId as RingIdSlots,
        /// The members of the ring.
        member_list: Vec<NodeId> as InSlotCounted,
    }
}

/// An entry of an iteration. Matches `mar_cpg_iteration_description_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Description {
    /// The group.
    pub group: GroupName,
    /// The member's node. Undefined in an iteration of names only.
    pub nodeid: NodeId,
    /// The member's process id. Undefined in an iteration of names only.
    pub pid: u32,
}

/// Sends a message to the group. The daemon does not answer.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Mcast {
    /// The requested order, which the daemon ignores.
    pub guarantee: Guarantee,
    /// The message.
    pub message: Bytes,
}

impl Mcast {
    /// Encodes the request up to its message of `length` bytes, which the caller sends behind it.
    pub(crate) fn encode_head(guarantee: Guarantee, length: usize) -> Result<Vec<u8>, WireError> {
        let mut writer = begin_message::<Self>(Vec::new());
        Self::write_head(&mut writer, guarantee, length)?;
        writer.finish(length)
    }

    fn write_head(
        writer: &mut Writer,
        guarantee: Guarantee,
        length: usize,
    ) -> Result<(), WireError> {
        writer.slot("guarantee", guarantee);
        let msglen = writer.length("msglen", length, u32::MAX as usize)?;
        writer.slot("msglen", msglen);
        Ok(())
    }
}

impl Message for Mcast {
    const NAME: &'static str = "req_lib_cpg_mcast";
    const ID: i32 = 2;
    const KIND: Kind = Kind::Request;
    const HEADER: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        Self::write_head(writer, self.guarantee, self.message.len())?;
        writer.bytes("message", &self.message);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let guarantee = reader.slot("guarantee")?;
        let msglen = reader.number_slot::<u32>("msglen")?;
        Ok(Self { guarantee, message: counted_bytes(reader, msglen)? })
    }
}

/// Sends a fragment of a message to the group. Since corosync 2.3.5; it crashes earlier daemons.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PartialMcast {
    /// As in [`Mcast`].
    pub guarantee: Guarantee,
    /// The length of the whole message in bytes.
    pub msglen: u32,
    /// The position of the fragment.
    pub fragment_type: FragmentType,
    /// The fragment.
    pub message: Bytes,
}

impl PartialMcast {
    /// Encodes the request up to its fragment of `length` bytes, which the caller sends behind it.
    pub(crate) fn encode_head(
        guarantee: Guarantee,
        msglen: u32,
        fragment_type: FragmentType,
        length: usize,
    ) -> Result<Vec<u8>, WireError> {
        let mut writer = begin_message::<Self>(Vec::new());
        Self::write_head(&mut writer, guarantee, msglen, fragment_type, length)?;
        writer.finish(length)
    }

    fn write_head(
        writer: &mut Writer,
        guarantee: Guarantee,
        msglen: u32,
        fragment_type: FragmentType,
        length: usize,
    ) -> Result<(), WireError> {
        writer.slot("guarantee", guarantee);
        writer.slot("msglen", msglen);
        let fraglen = writer.length("fraglen", length, u32::MAX as usize)?;
        writer.slot("fraglen", fraglen);
        writer.slot("type", fragment_type);
        Ok(())
    }
}

impl Message for PartialMcast {
    const NAME: &'static str = "req_lib_cpg_partial_mcast";
    const ID: i32 = 12;
    const KIND: Kind = Kind::Request;
    const HEADER: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        Self::write_head(
            writer,
            self.guarantee,
            self.msglen,
            self.fragment_type,
            self.message.len(),
        )?;
        writer.bytes("message", &self.message);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let guarantee = reader.slot("guarantee")?;
        let msglen = reader.slot("msglen")?;
        let fraglen = reader.number_slot::<u32>("fraglen")?;
        let fragment_type = reader.slot("type")?;
        Ok(Self { guarantee, msglen, fragment_type, message: counted_bytes(reader, fraglen)? })
    }
}

impl Request for PartialMcast {
    type Reply = PartialSendReply;
}

/// Reply to [`MembershipGet`]. The message always has room for 384 members.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MembershipReply {
    /// The members. Their reasons are undefined.
    pub member_list: Vec<Address>,
}

impl Message for MembershipReply {
    const NAME: &'static str = "res_lib_cpg_membership_get";
    const ID: i32 = 3;
    const KIND: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        let count = writer.length("member_count", self.member_list.len(), MAX_MEMBERS)?;
        writer.slot("member_count", count);
        write_addresses("member_list", &self.member_list, writer);
        writer.padding(MEMBERSHIP_REPLY_SIZE.saturating_sub(writer.len()));
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = reader.number_slot::<u32>("member_count")?;
        Ok(Self { member_list: read_addresses("member_list", count, reader)? })
    }
}

/// Event: the membership of a group changed.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConfchgCallback {
    /// The group.
    pub group_name: GroupName,
    /// The members after the change. Their reasons are undefined.
    pub member_list: Vec<Address>,
    /// The processes that left.
    pub left_list: Vec<Address>,
    /// The processes that joined.
    pub joined_list: Vec<Address>,
}

impl Message for ConfchgCallback {
    const NAME: &'static str = "res_lib_cpg_confchg_callback";
    const ID: i32 = 4;
    const KIND: Kind = Kind::Event;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        CpgName::write("group_name", &self.group_name, writer)?;
        for (field, list) in [
            ("member_list_entries", &self.member_list),
            ("joined_list_entries", &self.joined_list),
            ("left_list_entries", &self.left_list),
        ] {
            let count = writer.length(field, list.len(), u32::MAX as usize)?;
            writer.slot(field, count);
        }
        // The lists are not in the order of the counts.
        write_addresses("member_list", &self.member_list, writer);
        write_addresses("left_list", &self.left_list, writer);
        write_addresses("joined_list", &self.joined_list, writer);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let group_name = CpgName::read("group_name", reader)?;
        let members = reader.number_slot::<u32>("member_list_entries")?;
        let joined = reader.number_slot::<u32>("joined_list_entries")?;
        let left = reader.number_slot::<u32>("left_list_entries")?;
        Ok(Self {
            group_name,
            member_list: read_addresses("member_list", members, reader)?,
            left_list: read_addresses("left_list", left, reader)?,
            joined_list: read_addresses("joined_list", joined, reader)?,
        })
    }
}

/// Event: a member sent a message.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DeliverCallback {
    /// The group.
    pub group_name: GroupName,
    /// The sender's node.
    pub nodeid: NodeId,
    /// The sender's process id.
    pub pid: u32,
    /// The message.
    pub message: Bytes,
}

impl Message for DeliverCallback {
    const NAME: &'static str = "res_lib_cpg_deliver_callback";
    const ID: i32 = 5;
    const KIND: Kind = Kind::Event;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        CpgName::write("group_name", &self.group_name, writer)?;
        let msglen = writer.length("msglen", self.message.len(), u32::MAX as usize)?;
        writer.slot("msglen", msglen);
        writer.slot("nodeid", self.nodeid);
        writer.slot("pid", self.pid);
        writer.bytes("message", &self.message);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let group_name = CpgName::read("group_name", reader)?;
        let msglen = reader.number_slot::<u32>("msglen")?;
        let nodeid = reader.slot("nodeid")?;
        let pid = reader.slot("pid")?;
        Ok(Self { group_name, nodeid, pid, message: counted_bytes(reader, msglen)? })
    }
}

/// Event: a member sent a fragment of a message. Since corosync 2.3.5.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PartialDeliverCallback {
    /// The group.
    pub group_name: GroupName,
    /// The length of the whole message in bytes, as the sender gives it.
    pub msglen: u32,
    /// The sender's node.
    pub nodeid: NodeId,
    /// The sender's process id.
    pub pid: u32,
    /// The position of the fragment.
    pub fragment_type: FragmentType,
    /// The fragment.
    pub message: Bytes,
}

impl Message for PartialDeliverCallback {
    const NAME: &'static str = "res_lib_cpg_partial_deliver_callback";
    const ID: i32 = 17;
    const KIND: Kind = Kind::Event;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        CpgName::write("group_name", &self.group_name, writer)?;
        writer.slot("msglen", self.msglen);
        let fraglen = writer.length("fraglen", self.message.len(), u32::MAX as usize)?;
        writer.slot("fraglen", fraglen);
        writer.slot("nodeid", self.nodeid);
        writer.slot("pid", self.pid);
        writer.slot("type", self.fragment_type);
        writer.bytes("message", &self.message);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let group_name = CpgName::read("group_name", reader)?;
        let msglen = reader.slot("msglen")?;
        let fraglen = reader.number_slot::<u32>("fraglen")?;
        let nodeid = reader.slot("nodeid")?;
        let pid = reader.slot("pid")?;
        let fragment_type = reader.slot("type")?;
        let message = counted_bytes(reader, fraglen)?;
        Ok(Self { group_name, msglen, nodeid, pid, fragment_type, message })
    }
}

any_message! {
    /// Any request of the service, except those of zero copy (ids 9 to 11).
    pub enum AnyRequest {
        Join, Leave, Mcast, MembershipGet, LocalGet, IterationInitialize, IterationNext, IterationFinalize, Finalize,
        PartialMcast,
    }
}

any_message! {
    /// Any reply of the service.
    pub enum AnyResponse {
        JoinReply, LeaveReply, MembershipReply, LocalGetReply, IterationInitializeReply, IterationNextReply,
        IterationFinalizeReply, FinalizeReply, PartialSendReply,
    }
}

any_message! {
    /// Any event of the service.
    pub enum AnyEvent { ConfchgCallback, DeliverCallback, TotemConfchgCallback, PartialDeliverCallback }
}

/// `mar_cpg_name_t`: a 32-bit length in a slot, and 128 bytes.
pub(crate) struct CpgName;

impl Encoding<GroupName> for CpgName {
    fn write(field: &'static str, value: &GroupName, writer: &mut Writer) -> Result<(), WireError> {
        let length = writer.length(field, value.as_bytes().len(), MAX_GROUP_NAME)?;
        writer.slot(field, length);
        writer.padded(field, value.as_bytes(), MAX_GROUP_NAME, MAX_GROUP_NAME)
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<GroupName, WireError> {
        let length = reader.part(".length").number_slot::<u32>(field)?;
        let value = reader.part(".value").take(field, MAX_GROUP_NAME)?;
        let length = reader.bounded(length, MAX_GROUP_NAME)?;
        Ok(value.get(..length).and_then(GroupName::from_wire).unwrap_or_default())
    }
}

/// As [`CpgName`], but reads an invalid name as the empty one: where a request needs no name,
/// libcpg sends bytes of its stack.
pub(crate) struct MaybeCpgName;

impl Encoding<GroupName> for MaybeCpgName {
    fn write(field: &'static str, value: &GroupName, writer: &mut Writer) -> Result<(), WireError> {
        CpgName::write(field, value, writer)
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<GroupName, WireError> {
        match CpgName::read(field, reader) {
            Err(WireError::TooLarge { .. }) => Ok(GroupName::default()),
            result => result,
        }
    }
}

/// `mar_cpg_iteration_description_t`: only the name is in slots.
pub(crate) struct DescriptionFields;

impl Encoding<Description> for DescriptionFields {
    fn write(_: &'static str, value: &Description, writer: &mut Writer) -> Result<(), WireError> {
        CpgName::write("description.group", &value.group, writer)?;
        writer.put("description.nodeid", value.nodeid);
        writer.put("description.pid", value.pid);
        Ok(())
    }

    fn read(_: &'static str, reader: &mut Reader<'_>) -> Result<Description, WireError> {
        Ok(Description {
            group: CpgName::read("description.group", reader)?,
            nodeid: reader.get("description.nodeid")?,
            pid: reader.get("description.pid")?,
        })
    }
}

fn counted_bytes(reader: &mut Reader<'_>, count: Number) -> Result<Bytes, WireError> {
    let length = reader.counted(count, 1)?;
    reader.bytes("message", length)
}

fn write_addresses(field: &'static str, list: &[Address], writer: &mut Writer) {
    for address in list {
        writer.slot(field, address.node_id);
        writer.slot(field, address.pid);
        writer.slot(field, address.reason);
    }
}

fn read_addresses(
    field: &'static str,
    count: Number,
    reader: &mut Reader<'_>,
) -> Result<Vec<Address>, WireError> {
    let count = reader.counted(count, ADDRESS_SIZE)?;
    let mut list = Vec::with_capacity(count);
    for index in 0..count {
        let node_id = reader.part(format_args!("[{index}].nodeid")).slot(field)?;
        let pid = reader.part(format_args!("[{index}].pid")).slot(field)?;
        let reason: Reason = reader.part(format_args!("[{index}].reason")).slot(field)?;
        list.push(Address { node_id, pid, reason });
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
