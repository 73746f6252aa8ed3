//! Messages of the cpg service. Table: `proto/cpg.json`.

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

/// The most members of a group that [`MembershipReply`] names. Matches `PROCESSOR_COUNT_MAX`.
pub(crate) const MAX_MEMBERS: usize = 384;

/// Size of [`MembershipReply`]: the daemon always sends room for all the processes it can name.
/// Matches `sizeof (struct res_lib_cpg_membership_get)`.
const MEMBERSHIP_REPLY_SIZE: usize = 32 + MAX_MEMBERS * ADDRESS_SIZE;

/// Size of `mar_cpg_address_t`: three 32-bit numbers in slots.
const ADDRESS_SIZE: usize = 24;

open_enum! {
    /// In which order members see messages. The daemon delivers all of them in agreed order,
    /// whatever is asked for.
    pub struct Guarantee: u32 {
        /// `CPG_TYPE_UNORDERED`
        const UNORDERED = 0, "unordered";
        /// Messages of one sender come in the order they were sent. `CPG_TYPE_FIFO`
        const FIFO = 1, "fifo";
        /// All members see all messages in the same order. `CPG_TYPE_AGREED`
        const AGREED = 2, "agreed";
        /// `CPG_TYPE_SAFE`
        const SAFE = 3, "safe";
    }
}

open_enum! {
    /// Why a process joined or left. Matches `cpg_reason_t`.
    pub struct Reason: u32 {
        /// No reason is told. `CPG_REASON_UNDEFINED`
        const UNDEFINED = 0, "undefined";
        /// It joined. `CPG_REASON_JOIN`
        const JOIN = 1, "join";
        /// It left. `CPG_REASON_LEAVE`
        const LEAVE = 2, "leave";
        /// Its node left the cluster, or this side of a partition. `CPG_REASON_NODEDOWN`
        const NODEDOWN = 3, "nodedown";
        /// Its node came into the cluster, or to this side of a partition, and it was in the group
        /// already. `CPG_REASON_NODEUP`
        const NODEUP = 4, "nodeup";
        /// It ended, or closed its connection, without leaving. `CPG_REASON_PROCDOWN`
        const PROCDOWN = 5, "procdown";
    }
}

/// A member of a group. Matches `struct cpg_address`.
///
/// Equal to another if both are the same process on the same node, whatever the reasons are:
/// `members.contains(&joined[0])` is true, and a set of addresses has each member once. The order
/// is that of nodes and processes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Address {
    /// Its node.
    pub node_id: NodeId,
    /// Its process, as it says itself: see [`Options::pid`](crate::cpg::Options::pid).
    pub pid: u32,
    /// Why it joined or left; [`Reason::UNDEFINED`] in lists of members.
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
    /// Which piece of a message a fragment is. Matches `enum lib_cpg_partial_types`.
    pub struct FragmentType: u32 {
        /// `LIBCPG_PARTIAL_FIRST`
        const FIRST = 1, "first";
        /// `LIBCPG_PARTIAL_CONTINUED`
        const CONTINUED = 2, "continued";
        /// `LIBCPG_PARTIAL_LAST`
        const LAST = 3, "last";
    }
}

message! {
    /// Joins a group.
    request 0 "req_lib_cpg_join" -> JoinReply: pub struct Join {
        /// The group.
        group_name: GroupName as CpgName,
        /// The process the group sees as its member. The daemon does not compare it with the
        /// credentials.
        pid: u32 as Slot,
        /// 1 asks for the totem membership after the first configuration change.
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
    request 4 "req_lib_cpg_local_get" -> LocalGetReply: pub struct LocalGet {}
}

message! {
    /// Opens an iterator in the daemon.
    request 5 "req_lib_cpg_iterationinitialize" -> IterationInitializeReply: pub struct IterationInitialize {
        /// The group, if the type is 2.
        group_name: GroupName as MaybeCpgName,
        /// 1 names only, 2 members of one group, 3 members of all groups.
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
    /// Announces the end of the connection. The group sees the same as without it: `PROCDOWN`, when
    /// the connection is closed.
    request 8 "req_lib_cpg_finalize" -> FinalizeReply: pub struct Finalize {}
}

message! {
    /// Answer to [`Join`].
    response 0 "res_lib_cpg_join": pub struct JoinReply {}
}

message! {
    /// Answer to [`Leave`].
    response 1 "res_lib_cpg_leave": pub struct LeaveReply {}
}

message! {
    /// Answer to [`LocalGet`].
    response 7 "res_lib_cpg_local_get": pub struct LocalGetReply {
        /// The node.
        local_nodeid: NodeId as Slot,
    }
}

message! {
    /// Answer to [`IterationInitialize`].
    response 9 "res_lib_cpg_iterationinitialize": pub struct IterationInitializeReply {
        /// Names the iterator.
        iteration_handle: u64 as Native,
    }
}

message! {
    /// Answer to [`IterationNext`]; after the last entry it is `CS_ERR_NO_SECTIONS`.
    response 10 "res_lib_cpg_iterationnext": pub struct IterationNextReply {
        /// The entry.
        description: Description as DescriptionFields,
    }
}

message! {
    /// Answer to [`IterationFinalize`].
    response 11 "res_lib_cpg_iterationfinalize": pub struct IterationFinalizeReply {}
}

message! {
    /// Answer to [`Finalize`].
    response 12 "res_lib_cpg_finalize": pub struct FinalizeReply {}
}

message! {
    /// Answer to [`PartialMcast`]. `CS_ERR_INTERRUPT`: the group's membership changed since the
    /// first fragment, and this one was not sent.
    response 18 "res_lib_cpg_partial_send": pub struct PartialSendReply {}
}

message! {
    /// The membership of totem, which is that of the cluster's nodes, changed.
    event 13 "res_lib_cpg_totem_confchg_callback": pub struct TotemConfchgCallback {
        /// The ring.
        ring_id: RingId as RingIdSlots,
        /// Its members.
        member_list: Vec<NodeId> as InSlotCounted,
    }
}

/// What an iterator found. Matches `mar_cpg_iteration_description_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// The group.
    pub group: GroupName,
    /// The member's node; without meaning when only names were asked for.
    pub nodeid: NodeId,
    /// The member's process; without meaning when only names were asked for.
    pub pid: u32,
}

/// Sends a message to the group. The daemon does not answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mcast {
    /// Which order is wanted; the daemon does not look at it.
    pub guarantee: Guarantee,
    /// The message.
    pub message: Bytes,
}

impl Mcast {
    /// Everything in front of a message of `length` bytes, which the caller sends right behind it.
    pub(crate) fn encode_head(guarantee: Guarantee, length: usize) -> Result<Vec<u8>, WireError> {
        let mut writer = begin_message::<Self>();
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

/// Sends a piece of a message to the group. Since corosync 2.3.5; earlier daemons die of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialMcast {
    /// As in [`Mcast`].
    pub guarantee: Guarantee,
    /// Length of the whole message in bytes.
    pub msglen: u32,
    /// Which piece it is.
    pub fragment_type: FragmentType,
    /// The piece.
    pub message: Bytes,
}

impl PartialMcast {
    /// Everything in front of a piece of `length` bytes, which the caller sends right behind it.
    pub(crate) fn encode_head(
        guarantee: Guarantee,
        msglen: u32,
        fragment_type: FragmentType,
        length: usize,
    ) -> Result<Vec<u8>, WireError> {
        let mut writer = begin_message::<Self>();
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

/// Answer to [`MembershipGet`]. The message has room for 384 members, however many there are.
#[derive(Clone, Debug, PartialEq)]
pub struct MembershipReply {
    /// The members. Their reasons mean nothing.
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

/// The membership of the group changed.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfchgCallback {
    /// The group.
    pub group_name: GroupName,
    /// The members, without those that left. Their reasons mean nothing.
    pub member_list: Vec<Address>,
    /// Those that left.
    pub left_list: Vec<Address>,
    /// Those that joined.
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
        // Not in the order of the counts.
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

/// A member sent a message.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliverCallback {
    /// The group.
    pub group_name: GroupName,
    /// The member's node.
    pub nodeid: NodeId,
    /// The member's process.
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

/// A member sent a piece of a message. Since corosync 2.3.5.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialDeliverCallback {
    /// The group.
    pub group_name: GroupName,
    /// Length of the whole message in bytes, as its sender says.
    pub msglen: u32,
    /// The member's node.
    pub nodeid: NodeId,
    /// The member's process.
    pub pid: u32,
    /// Which piece it is.
    pub fragment_type: FragmentType,
    /// The piece.
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
    /// Any request. Those of zero copy (ids 9 to 11), by which a client makes the daemon follow
    /// pointers, are not spoken.
    pub enum AnyRequest {
        Join, Leave, Mcast, MembershipGet, LocalGet, IterationInitialize, IterationNext, IterationFinalize, Finalize,
        PartialMcast,
    }
}

any_message! {
    /// Any answer.
    pub enum AnyResponse {
        JoinReply, LeaveReply, MembershipReply, LocalGetReply, IterationInitializeReply, IterationNextReply,
        IterationFinalizeReply, FinalizeReply, PartialSendReply,
    }
}

any_message! {
    /// Any event.
    pub enum AnyEvent { ConfchgCallback, DeliverCallback, TotemConfchgCallback, PartialDeliverCallback }
}

/// `mar_cpg_name_t`: a 32-bit length in a slot and 128 bytes.
pub(crate) struct CpgName;

impl Encoding<GroupName> for CpgName {
    fn write(field: &'static str, value: &GroupName, writer: &mut Writer) -> Result<(), WireError> {
        let length = writer.length(field, value.as_bytes().len(), MAX_GROUP_NAME)?;
        writer.slot(field, length);
        writer.padded(field, value.as_bytes(), MAX_GROUP_NAME, MAX_GROUP_NAME)
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<GroupName, WireError> {
        let length = reader.number_slot::<u32>(field)?;
        let value = reader.take(field, MAX_GROUP_NAME)?;
        let length = reader.bounded(length, MAX_GROUP_NAME)?;
        Ok(value.get(..length).and_then(GroupName::from_wire).unwrap_or_default())
    }
}

/// As [`CpgName`], but what is no name is read as the empty one: where no name is wanted, libcpg
/// sends what was on its stack.
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
    for _ in 0..count {
        let node_id = reader.slot(field)?;
        let pid = reader.slot(field)?;
        let reason: Reason = reader.slot(field)?;
        list.push(Address { node_id, pid, reason });
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
