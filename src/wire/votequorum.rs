//! Messages of the votequorum service. Table: `proto/votequorum.json`.
//!
//! corosync 1.99 and 2.0 answered [`GetInfo`] in other layouts, and up to 2.3 events had other ids
//! and layouts, which [`decode_event`] knows.

use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::codec::Plain;
use crate::codec::{Header, Kind, Reader, Writer};
use crate::error::WireError;
use crate::wire::Message;
use crate::wire::message::{
    Chars, Counted, Encoding, InSlotCounted, Native, RingIdSlots, Slot, any_message, message,
};
use crate::wire::values::{NodeId, RingId, TrackFlags, flags, open_enum};

open_enum! {
    /// State of a node.
    pub struct NodeState: u32 {
        /// `VOTEQUORUM_NODESTATE_MEMBER`
        const MEMBER = 1, "member";
        /// `VOTEQUORUM_NODESTATE_DEAD`
        const DEAD = 2, "dead";
        /// `VOTEQUORUM_NODESTATE_LEAVING`
        const LEAVING = 3, "leaving";
    }
}

flags! {
    /// State of the cluster and of the quorum device.
    pub struct InfoFlags: u32 {
        /// `two_node` is configured. `VOTEQUORUM_INFO_TWONODE`
        const TWO_NODE = 1;
        /// This node is quorate. `VOTEQUORUM_INFO_QUORATE`
        const QUORATE = 2;
        /// `wait_for_all` is in force. `VOTEQUORUM_INFO_WAIT_FOR_ALL`
        const WAIT_FOR_ALL = 4;
        /// `VOTEQUORUM_INFO_LAST_MAN_STANDING`
        const LAST_MAN_STANDING = 8;
        /// `VOTEQUORUM_INFO_AUTO_TIE_BREAKER`
        const AUTO_TIE_BREAKER = 16;
        /// `VOTEQUORUM_INFO_ALLOW_DOWNSCALE`
        const ALLOW_DOWNSCALE = 32;
        /// `VOTEQUORUM_INFO_QDEVICE_REGISTERED`
        const QDEVICE_REGISTERED = 64;
        /// `VOTEQUORUM_INFO_QDEVICE_ALIVE`
        const QDEVICE_ALIVE = 128;
        /// `VOTEQUORUM_INFO_QDEVICE_CAST_VOTE`
        const QDEVICE_CAST_VOTE = 256;
        /// `VOTEQUORUM_INFO_QDEVICE_MASTER_WINS`
        const QDEVICE_MASTER_WINS = 512;
        /// Since corosync 3.1.10's successor. `VOTEQUORUM_INFO_QDEVICE_HAS_EXTRA_INFO`
        const QDEVICE_HAS_EXTRA_INFO = 1024;
    }
}

/// A node in a notification. Matches `votequorum_node_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct NodeEntry {
    /// The node; 0 is the quorum device.
    pub node_id: NodeId,
    /// Its state.
    pub state: NodeState,
}

/// Room for a quorum device's name, its NUL included. Matches `VOTEQUORUM_QDEVICE_MAX_NAME_LEN`.
pub const QDEVICE_MAX_NAME_LEN: usize = 255;

/// A quorum device's name on the wire.
pub(crate) type DeviceName = Chars<QDEVICE_MAX_NAME_LEN>;

message! {
    /// Votes and state of a node.
    request 0 "req_lib_votequorum_getinfo" -> GetInfoReply: pub struct GetInfo {
        /// The node; 0 asks for the quorum device.
        nodeid: NodeId as Native,
    }
}

message! {
    /// Sets the expected votes of the cluster.
    request 1 "req_lib_votequorum_setexpected" -> Status: pub struct SetExpected {
        /// Votes.
        expected_votes: u32 as Native,
    }
}

message! {
    /// Sets the votes of a node.
    request 2 "req_lib_votequorum_setvotes" -> Status: pub struct SetVotes {
        /// Votes.
        votes: u32 as Native,
        /// The node.
        nodeid: NodeId as Native,
    }
}

message! {
    /// Starts notifications.
    request 3 "req_lib_votequorum_trackstart" -> Status: pub struct TrackStart {
        /// Comes back with every notification.
        context: u64 as Native,
        /// What to be told.
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
        /// Its name.
        name: Bytes as DeviceName,
    }
}

message! {
    /// Removes a quorum device.
    request 6 "req_lib_votequorum_qdevice_unregister" -> Status: pub struct QdeviceUnregister {
        /// Its name.
        name: Bytes as DeviceName,
    }
}

message! {
    /// Renames a quorum device.
    request 7 "req_lib_votequorum_qdevice_update" -> Status: pub struct QdeviceUpdate {
        /// The name it has.
        oldname: Bytes as DeviceName,
        /// The name it gets.
        newname: Bytes as DeviceName,
    }
}

message! {
    /// Says that a quorum device is alive and whether it votes.
    request 8 "req_lib_votequorum_qdevice_poll" -> Status: pub struct QdevicePoll {
        /// Its name.
        name: Bytes as DeviceName,
        /// Not 0: it votes for this partition.
        cast_vote: i32 as AfterName,
        /// The ring the vote is for. The daemon answers `CS_ERR_MESSAGE_ERROR` when it is not the
        /// present one.
        ring_id: RingId as RingIdSlots,
    }
}

message! {
    /// Allows or forbids master wins.
    request 9 "req_lib_votequorum_qdevice_master_wins" -> Status: pub struct QdeviceMasterWins {
        /// Name of the device.
        name: Bytes as DeviceName,
        /// Not 0: allowed.
        allow: u32 as AfterName,
    }
}

message! {
    /// Publishes bytes of a quorum device to all nodes. Corosync after 3.1.10.
    request 10 "req_lib_votequorum_set_qdevice_extra_info" -> Status: pub struct SetQdeviceExtraInfo {
        /// The bytes, at most 4096.
        extra_info: Bytes as InSlotCounted,
    }
}

message! {
    /// Asks for the bytes a node's quorum device published. Corosync after 3.1.10.
    request 11 "req_lib_votequorum_get_qdevice_extra_info" -> GetQdeviceExtraInfoReply: pub struct GetQdeviceExtraInfo {
        /// The node.
        nodeid: NodeId as Native,
    }
}

message! {
    /// The answer of every request but two: only a status.
    response 0 "res_lib_votequorum_status": pub struct Status {}
}

/// Answer to [`GetInfo`], in the layout of any generation.
#[derive(Clone, Debug, PartialEq)]
pub enum GetInfoReply {
    /// corosync 2.1 and later.
    Full(NodeInfo),
    /// corosync 1.99 and 2.0: one of two layouts that the message does not tell apart.
    Short(ShortNodeInfo),
}

/// Votes and state of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeInfo {
    /// The node.
    pub nodeid: NodeId,
    /// Its state; `None` where the daemon does not tell.
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
    /// Its name.
    pub qdevice_name: Bytes,
}

/// The words of an answer of corosync 1.99 or 2.0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShortNodeInfo(pub [u32; 8]);

impl ShortNodeInfo {
    /// As corosync 1.99.6 to 2.0.3 means them.
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

    /// As corosync 1.99.0 to 1.99.5 means them: the last is padding.
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
    /// Answer to [`GetQdeviceExtraInfo`].
    response 6 "res_lib_votequorum_get_qdevice_extra_info": pub struct GetQdeviceExtraInfoReply {
        /// The bytes published.
        extra_info: Bytes as InSlotCounted,
    }
}

message! {
    /// Quorum changed, or a node's state.
    event 3 "res_lib_votequorum_quorum_notification": pub struct QuorumNotification {
        /// Not 0 when quorate.
        quorate: u32 as Slot,
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// All nodes known, and the quorum device as node 0.
        node_list: Vec<NodeEntry> as Counted,
    }
}

message! {
    /// [`QuorumNotification`] as corosync 2.3.4 to 2.3.6 send it: with the ring id that later got a
    /// notification of its own.
    event 3 "res_lib_votequorum_notification_234": pub struct Notification234 {
        /// Not 0 when quorate.
        quorate: u32 as Slot,
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The ring.
        ring_id: RingId as RingIdSlots,
        /// All nodes known, and the quorum device as node 0.
        node_list: Vec<NodeEntry> as Counted,
    }
}

message! {
    /// [`QuorumNotification`] as corosync 1.99 and 2.0 number it.
    event 4 "res_lib_votequorum_notification_199": pub struct Notification199 {
        /// Not 0 when quorate.
        quorate: u32 as Slot,
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// All nodes known.
        node_list: Vec<NodeEntry> as Counted,
    }
}

message! {
    /// [`ExpectedVotesNotification`] as corosync 1.99 and 2.0 number it.
    event 5 "res_lib_votequorum_expectedvotes_notification_199": pub struct ExpectedVotesNotification199 {
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The new value.
        expected_votes: u32 as Slot,
    }
}

message! {
    /// The expected votes changed.
    event 4 "res_lib_votequorum_expectedvotes_notification": pub struct ExpectedVotesNotification {
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The new value.
        expected_votes: u32 as Slot,
    }
}

message! {
    /// Membership changed.
    event 5 "res_lib_votequorum_nodelist_notification": pub struct NodelistNotification {
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The ring.
        ring_id: RingId as RingIdSlots,
        /// Its members.
        node_list: Vec<NodeId> as Counted,
    }
}

message! {
    /// A node's quorum device published other bytes. Corosync after 3.1.10, to every tracker.
    event 7 "res_lib_votequorum_qdevice_extra_info_notification": pub struct QdeviceExtraInfoNotification {
        /// As given to [`TrackStart`].
        context: u64 as Slot,
        /// The node.
        nodeid: NodeId as Slot,
        /// The bytes.
        extra_info: Bytes as Counted,
    }
}

any_message! {
    /// Any request.
    pub enum AnyRequest {
        GetInfo, SetExpected, SetVotes, TrackStart, TrackStop, QdeviceRegister, QdeviceUnregister, QdeviceUpdate, QdevicePoll,
        QdeviceMasterWins, SetQdeviceExtraInfo, GetQdeviceExtraInfo,
    }
}

any_message! {
    /// Any answer.
    pub enum AnyResponse { Status, GetInfoReply, GetQdeviceExtraInfoReply }
}

any_message! {
    /// Any event (of corosync 2.4 and later).
    pub enum AnyEvent { QuorumNotification, ExpectedVotesNotification, NodelistNotification, QdeviceExtraInfoNotification }
}

/// Reads an event of any generation. Before corosync 2.4 ids and one layout were others; the length
/// tells which it is, since each message has exactly the length its count of nodes gives it.
pub fn decode_event(message: &[u8]) -> Result<AnyEvent, WireError> {
    /// Length of an expected votes notification, which is always the same.
    const EXPECTED_VOTES_SIZE: usize = 40;

    fn exactly<M: Message>(message: &[u8]) -> Option<M> {
        let decoded = M::decode(message).ok()?;
        (decoded.encode().ok()?.len() == message.len()).then_some(decoded)
    }

    let header = Header::read(&mut Reader::new("votequorum event", message), Kind::Event)?;
    match header.id {
        QuorumNotification::ID if exactly::<QuorumNotification>(message).is_none() => {
            if let Some(old) = exactly::<Notification234>(message) {
                let Notification234 { quorate, context, node_list, .. } = old;
                return Ok(AnyEvent::QuorumNotification(QuorumNotification {
                    quorate,
                    context,
                    node_list,
                }));
            }
        }
        Notification199::ID if message.len() != EXPECTED_VOTES_SIZE => {
            if let Some(Notification199 { quorate, context, node_list }) = exactly(message) {
                return Ok(AnyEvent::QuorumNotification(QuorumNotification {
                    quorate,
                    context,
                    node_list,
                }));
            }
        }
        ExpectedVotesNotification199::ID if message.len() == EXPECTED_VOTES_SIZE => {
            let ExpectedVotesNotification199 { context, expected_votes } =
                Message::decode(message)?;
            return Ok(AnyEvent::ExpectedVotesNotification(ExpectedVotesNotification {
                context,
                expected_votes,
            }));
        }
        _ => {}
    }
    AnyEvent::decode(message)
}

/// An `int` behind a `char[255]`: one byte of padding, then the value.
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
