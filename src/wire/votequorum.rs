//! The messages of the votequorum service. `proto/votequorum.json` has their layouts.
//!
//! corosync 1.99 and 2.0 reply to [`GetInfo`] in other layouts: see [`GetInfoReply`]. Up to
//! corosync 2.3 events have other ids and layouts: [`decode_event`] decodes them all.
//!
//! ```
//! use corosync_ipc::NodeId;
//! use corosync_ipc::wire::{Message, votequorum};
//!
//! let node = votequorum::NodeEntry { node_id: NodeId(1), state: votequorum::NodeState::MEMBER };
//! // The event as corosync 1.99 and 2.0 send it.
//! let old = votequorum::Notification199 { quorate: 1, context: 0, node_list: vec![node] };
//! let event = votequorum::decode_event(&old.encode()?)?;
//! assert!(matches!(event, votequorum::AnyEvent::QuorumNotification(it) if it.quorate == 1));
//! # Ok::<(), corosync_ipc::WireError>(())
//! ```

use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::codec::{Header, Kind, Notes, Plain, Reader, Value, Writer};
use crate::error::WireError;
use crate::wire::Message;
use crate::wire::message::{
    Chars, Counted, Encoding, InSlotCounted, Native, RingIdSlots, Slot, any_message, message,
};
use crate::wire::values::{NodeId, RingId, TrackFlags, flags, open_enum};

open_enum! {
    /// The state of a node. Matches `VOTEQUORUM_NODESTATE_MEMBER` and its siblings.
    pub struct NodeState: u32 {
        /// It is a member of the ring. `VOTEQUORUM_NODESTATE_MEMBER`
        const MEMBER = 1, "member";
        /// It has left the ring. `VOTEQUORUM_NODESTATE_DEAD`
        const DEAD = 2, "dead";
        /// It is about to leave the ring. `VOTEQUORUM_NODESTATE_LEAVING`
        const LEAVING = 3, "leaving";
    }
}

flags! {
    /// The state of quorum and of the quorum device. Matches `VOTEQUORUM_INFO_TWONODE` and its
    /// siblings.
    pub struct InfoFlags: u32 {
        /// `two_node` is in force. `VOTEQUORUM_INFO_TWONODE`
        const TWO_NODE = 1;
        /// This node is quorate. `VOTEQUORUM_INFO_QUORATE`
        const QUORATE = 2;
        /// `wait_for_all` is in force. `VOTEQUORUM_INFO_WAIT_FOR_ALL`
        const WAIT_FOR_ALL = 4;
        /// `last_man_standing` is in force. `VOTEQUORUM_INFO_LAST_MAN_STANDING`
        const LAST_MAN_STANDING = 8;
        /// `auto_tie_breaker` is in force. `VOTEQUORUM_INFO_AUTO_TIE_BREAKER`
        const AUTO_TIE_BREAKER = 16;
        /// `allow_downscale` is in force. `VOTEQUORUM_INFO_ALLOW_DOWNSCALE`
        const ALLOW_DOWNSCALE = 32;
        /// The node has a quorum device. `VOTEQUORUM_INFO_QDEVICE_REGISTERED`
        const QDEVICE_REGISTERED = 64;
        /// The quorum device polls in time. `VOTEQUORUM_INFO_QDEVICE_ALIVE`
        const QDEVICE_ALIVE = 128;
        /// The quorum device votes for this node's partition. `VOTEQUORUM_INFO_QDEVICE_CAST_VOTE`
        const QDEVICE_CAST_VOTE = 256;
        /// A partition with the quorum device's vote is quorate. `VOTEQUORUM_INFO_QDEVICE_MASTER_WINS`
        const QDEVICE_MASTER_WINS = 512;
        /// The quorum device has published extra info. Since the corosync after 3.1.10.
        /// `VOTEQUORUM_INFO_QDEVICE_HAS_EXTRA_INFO`
        const QDEVICE_HAS_EXTRA_INFO = 1024;
    }
}

/// A node in a notification. Matches `votequorum_node_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct NodeEntry {
    /// The node. 0 is the quorum device.
    pub node_id: NodeId,
    /// The node's state.
    pub state: NodeState,
}

impl Plain for NodeEntry {
    fn value(&self) -> Value {
        Value::Struct(vec![("nodeid", self.node_id.value()), ("state", self.state.value())])
    }
}

/// The room for a quorum device's name in bytes, NUL included. Matches
/// `VOTEQUORUM_QDEVICE_MAX_NAME_LEN`.
pub const QDEVICE_MAX_NAME_LEN: usize = 255;

/// A quorum device's name on the wire.
pub(crate) type DeviceName = Chars<QDEVICE_MAX_NAME_LEN>;

message! {
    /// Asks for the votes and state of a node.
    request 0 "req_lib_votequorum_getinfo" -> GetInfoReply joins(|_| 512): pub struct GetInfo {
        /// The node. 0 asks for the quorum device.
        nodeid: NodeId as Native,
    }
}

message! {
    /// Sets the expected votes of the cluster.
    request 1 "req_lib_votequorum_setexpected" -> Status: pub struct SetExpected {
        /// The expected votes.
        expected_votes: u32 as Native,
    }
}

message! {
    /// Sets the votes of a node.
    request 2 "req_lib_votequorum_setvotes" -> Status: pub struct SetVotes {
        /// The votes.
        votes: u32 as Native,
        /// The node.
        nodeid: NodeId as Native,
    }
}

message! {
    /// Starts notifications.
    request 3 "req_lib_votequorum_trackstart" -> Status: pub struct TrackStart {
        /// A value of the client's choice, which every notification returns.
        context: u64 as Native,
        /// The notifications to send.
        track_flags: TrackFlags as Native,
    }
}

message! {
    /// Ends notifications.
    request 4 "req_lib_votequorum_trackstop" -> Status: pub struct TrackStop {}
}

message! {
    /// Registers a quorum device.
    request 5 "req_lib_votequorum_qdevice_register" -> Status: pub struct QdeviceRegister {
        /// The device's name.
        name: Bytes as DeviceName,
    }
}

message! {
    /// Unregisters a quorum device.
    request 6 "req_lib_votequorum_qdevice_unregister" -> Status: pub struct QdeviceUnregister {
        /// The device's name.
        name: Bytes as DeviceName,
    }
}

message! {
    /// Renames a quorum device.
    request 7 "req_lib_votequorum_qdevice_update" -> Status: pub struct QdeviceUpdate {
        /// The old name.
        oldname: Bytes as DeviceName,
        /// The new name.
        newname: Bytes as DeviceName,
    }
}

message! {
    /// Reports that a quorum device is alive, and its vote.
    request 8 "req_lib_votequorum_qdevice_poll" -> Status: pub struct QdevicePoll {
        /// The device's name.
        name: Bytes as DeviceName,
        /// Not 0: it votes for this node's partition.
        cast_vote: i32 as AfterName,
        /// The ring that the vote is for. The daemon refuses any but the current one with
        /// `CS_ERR_MESSAGE_ERROR`.
        ring_id: RingId as RingIdSlots,
    }
}

message! {
    /// Switches `master_wins` on or off.
    request 9 "req_lib_votequorum_qdevice_master_wins" -> Status: pub struct QdeviceMasterWins {
        /// The device's name.
        name: Bytes as DeviceName,
        /// Not 0: on.
        allow: u32 as AfterName,
    }
}

message! {
    /// Publishes bytes of a quorum device to all nodes. Since the corosync after 3.1.10.
    request 10 "req_lib_votequorum_set_qdevice_extra_info" -> Status: pub struct SetQdeviceExtraInfo {
        /// The bytes, at most 4096.
        extra_info: Bytes as InSlotCounted,
    }
}

message! {
    /// Asks for the bytes that a node's quorum device published. Since the corosync after 3.1.10.
    request 11 "req_lib_votequorum_get_qdevice_extra_info" -> GetQdeviceExtraInfoReply: pub struct GetQdeviceExtraInfo {
        /// The node.
        nodeid: NodeId as Native,
    }
}

message! {
    /// Reply to all requests but [`GetInfo`] and [`GetQdeviceExtraInfo`]: only a status.
    response 0 "res_lib_votequorum_status": pub struct Status {}
}

/// Reply to [`GetInfo`], in the layout of any corosync.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum GetInfoReply {
    /// The layout of corosync 2.1 and later.
    Full(NodeInfo),
    /// One of the two layouts of corosync 1.99 and 2.0. The message does not say which.
    Short(ShortNodeInfo),
}

/// The votes and state of a node. Matches `struct res_lib_votequorum_getinfo`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeInfo {
    /// The node.
    pub nodeid: NodeId,
    /// The node's state. `None` if the daemon does not report it.
    pub state: Option<NodeState>,
    /// The node's votes.
    pub votes: u32,
    /// The node's configured expected votes.
    pub expected_votes: u32,
    /// The highest expected votes of all members.
    pub highest_expected: u32,
    /// The votes of all members.
    pub total_votes: u32,
    /// The votes that quorum needs.
    pub quorum: u32,
    /// The state of quorum and of the quorum device.
    pub flags: InfoFlags,
    /// The quorum device's votes.
    pub qdevice_votes: u32,
    /// The quorum device's name.
    pub qdevice_name: Bytes,
}

/// The words of a reply of corosync 1.99 or 2.0.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ShortNodeInfo(pub [u32; 8]);

impl ShortNodeInfo {
    /// Reads the words in the layout of corosync 1.99.6 to 2.0.3.
    pub fn with_state(self) -> NodeInfo {
        let [nodeid, state, votes, expected_votes, highest_expected, total_votes, quorum, flags] =
            self.0;
        NodeInfo {
            nodeid: NodeId(nodeid),
            state: Some(NodeState(state)),
            votes,
            expected_votes,
            highest_expected,
            total_votes,
            quorum,
            flags: InfoFlags::from_bits(flags),
            qdevice_votes: 0,
            qdevice_name: Bytes::new(),
        }
    }

    /// Reads the words in the layout of corosync 1.99.0 to 1.99.5. The last word is padding.
    pub fn without_state(self) -> NodeInfo {
        let [nodeid, rest @ .., _] = self.0;
        let [votes, expected_votes, highest_expected, total_votes, quorum, flags] = rest;
        let words =
            [nodeid, 0, votes, expected_votes, highest_expected, total_votes, quorum, flags];
        NodeInfo { state: None, ..Self(words).with_state() }
    }
}

impl Message for GetInfoReply {
    const NAME: &'static str = "res_lib_votequorum_getinfo";
    const ID: i32 = 1;
    const KIND: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        let info = match self {
            Self::Short(words) => {
                writer.list("words", &words.0);
                return Ok(());
            }
            Self::Full(info) => info,
        };
        writer.put("nodeid", info.nodeid);
        writer.put("state", info.state.unwrap_or_default());
        writer.put("votes", info.votes);
        writer.put("expected_votes", info.expected_votes);
        writer.put("highest_expected", info.highest_expected);
        writer.put("total_votes", info.total_votes);
        writer.put("quorum", info.quorum);
        writer.put("flags", info.flags);
        writer.put("qdevice_votes", info.qdevice_votes);
        DeviceName::write("qdevice_name", &info.qdevice_name, writer)?;
        writer.align();
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        if reader.remaining() <= size_of::<ShortNodeInfo>() {
            let mut words = [0; 8];
            for word in &mut words {
                *word = reader.get("words")?;
            }
            return Ok(Self::Short(ShortNodeInfo(words)));
        }
        Ok(Self::Full(NodeInfo {
            nodeid: reader.get("nodeid")?,
            state: Some(reader.get("state")?),
            votes: reader.get("votes")?,
            expected_votes: reader.get("expected_votes")?,
            highest_expected: reader.get("highest_expected")?,
            total_votes: reader.get("total_votes")?,
            quorum: reader.get("quorum")?,
            flags: reader.get("flags")?,
            qdevice_votes: reader.get("qdevice_votes")?,
            qdevice_name: DeviceName::read("qdevice_name", reader)?,
        }))
    }
}

message! {
    /// Reply to [`GetQdeviceExtraInfo`].
    response 6 "res_lib_votequorum_get_qdevice_extra_info": pub struct GetQdeviceExtraInfoReply {
        /// The published bytes.
        extra_info: Bytes as InSlotCounted,
    }
}

message! {
    /// Event: quorum or the state of a node changed.
    event 3 "res_lib_votequorum_quorum_notification": pub struct QuorumNotification {
        /// Not 0: quorate.
        quorate: u32 as Slot,
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// All known nodes, and the quorum device as node 0.
        node_list: Vec<NodeEntry> as Counted,
    }
}

message! {
    /// [`QuorumNotification`] in the layout of corosync 2.3.4 to 2.3.6: with the ring id, which later
    /// versions send in a [`NodelistNotification`].
    event 3 "res_lib_votequorum_notification_234": pub struct Notification234 {
        /// Not 0: quorate.
        quorate: u32 as Slot,
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The ring.
        ring_id: RingId as RingIdSlots,
        /// All known nodes, and the quorum device as node 0.
        node_list: Vec<NodeEntry> as Counted,
    }
}

message! {
    /// [`QuorumNotification`] with the id of corosync 1.99 and 2.0.
    event 4 "res_lib_votequorum_notification_199": pub struct Notification199 {
        /// Not 0: quorate.
        quorate: u32 as Slot,
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// All known nodes.
        node_list: Vec<NodeEntry> as Counted,
    }
}

message! {
    /// [`ExpectedVotesNotification`] with the id of corosync 1.99 and 2.0.
    event 5 "res_lib_votequorum_expectedvotes_notification_199": pub struct ExpectedVotesNotification199 {
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The new expected votes.
        expected_votes: u32 as Slot,
    }
}

message! {
    /// Event: the expected votes changed.
    event 4 "res_lib_votequorum_expectedvotes_notification": pub struct ExpectedVotesNotification {
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The new expected votes.
        expected_votes: u32 as Slot,
    }
}

message! {
    /// Event: the membership changed.
    event 5 "res_lib_votequorum_nodelist_notification": pub struct NodelistNotification {
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The new ring.
        ring_id: RingId as RingIdSlots,
        /// The members of the ring.
        node_list: Vec<NodeId> as Counted,
    }
}

message! {
    /// Event: a node's quorum device published other bytes. Every tracker gets it. Since the corosync
    /// after 3.1.10.
    event 7 "res_lib_votequorum_qdevice_extra_info_notification": pub struct QdeviceExtraInfoNotification {
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The node.
        nodeid: NodeId as Slot,
        /// The published bytes.
        extra_info: Bytes as Counted,
    }
}

any_message! {
    /// Any request of the service.
    pub enum AnyRequest {
        GetInfo, SetExpected, SetVotes, TrackStart, TrackStop, QdeviceRegister, QdeviceUnregister, QdeviceUpdate, QdevicePoll,
        QdeviceMasterWins, SetQdeviceExtraInfo, GetQdeviceExtraInfo,
    }
}

any_message! {
    /// Any reply of the service.
    pub enum AnyResponse { Status, GetInfoReply, GetQdeviceExtraInfoReply }
}

any_message! {
    /// Any event of the service since corosync 2.4. See [`decode_event`] for earlier versions.
    pub enum AnyEvent { QuorumNotification, ExpectedVotesNotification, NodelistNotification, QdeviceExtraInfoNotification }
}

/// Decodes an event of any corosync. Before 2.4 two ids and one layout are others. The length of a
/// message identifies its layout, since its count of nodes determines its length.
///
/// # Errors
/// As [`AnyEvent::decode`].
pub fn decode_event(message: &[u8]) -> Result<AnyEvent, WireError> {
    let quorum = |quorate, context, node_list| {
        AnyEvent::QuorumNotification(QuorumNotification { quorate, context, node_list })
    };
    Ok(match EventLayout::of(message)? {
        EventLayout::Current => AnyEvent::decode(message)?,
        EventLayout::Quorum234 => {
            let old = Notification234::decode(message)?;
            quorum(old.quorate, old.context, old.node_list)
        }
        EventLayout::Quorum199 => {
            let old = Notification199::decode(message)?;
            quorum(old.quorate, old.context, old.node_list)
        }
        EventLayout::ExpectedVotes199 => {
            let ExpectedVotesNotification199 { context, expected_votes } =
                Message::decode(message)?;
            AnyEvent::ExpectedVotesNotification(ExpectedVotesNotification {
                context,
                expected_votes,
            })
        }
    })
}

/// Decodes as [`decode_event`], and notes the fields of the layout that the message has.
pub(crate) fn note_event(
    message: &[u8],
    notes: &mut Notes,
) -> Result<&'static str, (&'static str, WireError)> {
    fn note<M: Message>(
        message: &[u8],
        notes: &mut Notes,
    ) -> Result<&'static str, (&'static str, WireError)> {
        let read = M::decode_from(Reader::noting(M::NAME, message, notes));
        read.map(|_| M::NAME).map_err(|error| (M::NAME, error))
    }
    match EventLayout::of(message) {
        Ok(EventLayout::Quorum234) => note::<Notification234>(message, notes),
        Ok(EventLayout::Quorum199) => note::<Notification199>(message, notes),
        Ok(EventLayout::ExpectedVotes199) => note::<ExpectedVotesNotification199>(message, notes),
        Ok(EventLayout::Current) | Err(_) => AnyEvent::note(message, notes),
    }
}

/// The layouts that an event of votequorum can have.
enum EventLayout {
    /// Of corosync since 2.4, or unknown.
    Current,
    /// [`Notification234`]
    Quorum234,
    /// [`Notification199`]
    Quorum199,
    /// [`ExpectedVotesNotification199`]
    ExpectedVotes199,
}

impl EventLayout {
    fn of(message: &[u8]) -> Result<Self, WireError> {
        /// The length of every expected votes notification in bytes.
        const EXPECTED_VOTES_SIZE: usize = 40;

        fn is_exactly<M: Message>(message: &[u8]) -> bool {
            let decoded = M::decode(message).and_then(|decoded| decoded.encode());
            decoded.is_ok_and(|encoded| encoded.len() == message.len())
        }

        let header = Header::read(&mut Reader::new("votequorum event", message), Kind::Event)?;
        Ok(match header.id {
            QuorumNotification::ID
                if !is_exactly::<QuorumNotification>(message)
                    && is_exactly::<Notification234>(message) =>
            {
                Self::Quorum234
            }
            Notification199::ID
                if message.len() != EXPECTED_VOTES_SIZE
                    && is_exactly::<Notification199>(message) =>
            {
                Self::Quorum199
            }
            ExpectedVotesNotification199::ID if message.len() == EXPECTED_VOTES_SIZE => {
                Self::ExpectedVotes199
            }
            _ => Self::Current,
        })
    }
}

/// An `int` that follows a `char[255]`: one byte of padding, then the value.
pub(crate) struct AfterName;

impl<T: Plain> Encoding<T> for AfterName {
    fn write(field: &'static str, value: &T, writer: &mut Writer) -> Result<(), WireError> {
        writer.padding(1);
        writer.slot(field, *value);
        Ok(())
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<T, WireError> {
        reader.skip(1);
        reader.slot(field)
    }
}
