//! The messages of the quorum service. `proto/quorum.json` has their layouts. The
//! [parent module](super) has an example.

use crate::codec::{Kind, Reader, Writer};
use crate::error::WireError;
use crate::wire::Message;
use crate::wire::message::{
    Encoding, InSlotCounted, Native, RingIdSlots, Slot, any_message, message,
};
use crate::wire::values::{NodeId, RingId, TrackFlags};

message! {
    /// Asks whether this node is quorate.
    request 0 "req_lib_quorum_getquorate" -> GetQuorateReply joins(|_| 64): pub struct GetQuorate {}
}

message! {
    /// Starts notifications.
    request 1 "req_lib_quorum_trackstart" -> TrackStartReply: pub struct TrackStart {
        /// The notifications to send.
        track_flags: TrackFlags as Native,
    }
}

message! {
    /// Ends notifications.
    request 2 "req_lib_quorum_trackstop" -> TrackStopReply: pub struct TrackStop {}
}

message! {
    /// Asks whether a quorum provider is configured.
    request 3 "req_lib_quorum_gettype" -> GetTypeReply: pub struct GetType {}
}

message! {
    /// Chooses the model, which decides the layout of notifications. Since corosync 3.1.1.
    request 4 "req_lib_quorum_model_gettype" -> ModelGetTypeReply: pub struct ModelGetType {
        /// 0 or 1.
        model: u32 as Slot,
    }
}

message! {
    /// Reply to [`GetQuorate`].
    response 0 "res_lib_quorum_getquorate": pub struct GetQuorateReply {
        /// Not 0: quorate.
        quorate: u32 as Native,
    }
}

message! {
    /// Reply to [`TrackStart`].
    response 1 "res_lib_quorum_trackstart": pub struct TrackStartReply {}
}

message! {
    /// Reply to [`TrackStop`].
    response 2 "res_lib_quorum_trackstop": pub struct TrackStopReply {}
}

message! {
    /// Reply to [`GetType`].
    response 4 "res_lib_quorum_gettype": pub struct GetTypeReply {
        /// 0: free, there is no quorum provider. 1: set.
        quorum_type: u32 as Native,
    }
}

message! {
    /// Reply to [`ModelGetType`].
    response 5 "res_lib_quorum_model_gettype": pub struct ModelGetTypeReply {
        /// 0: free, there is no quorum provider. 1: set.
        quorum_type: u32 as Slot,
    }
}

message! {
    /// Event of model v0: quorum or membership changed.
    event 3 "res_lib_quorum_notification": pub struct Notification {
        /// Not 0: quorate.
        quorate: i32 as Slot,
        /// The sequence number of the ring.
        ring_seq: u64 as Slot,
        /// The members of the ring.
        view_list: Vec<NodeId> as InSlotCounted,
    }
}

message! {
    /// Event of model v1: quorum changed.
    event 6 "res_lib_quorum_v1_quorum_notification": pub struct QuorumNotification {
        /// Not 0: quorate.
        quorate: i32 as Slot,
        /// The ring.
        ring_id: RingId as RingIdSlots,
        /// The members of the ring.
        view_list: Vec<NodeId> as InSlotCounted,
    }
}

/// Event of model v1: membership changed.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodelistNotification {
    /// The ring.
    pub ring_id: RingId,
    /// The members of the ring.
    pub member_list: Vec<NodeId>,
    /// The members that were not in the last ring.
    pub joined_list: Vec<NodeId>,
    /// The members of the last ring that are not in this one.
    pub left_list: Vec<NodeId>,
}

impl Message for NodelistNotification {
    const NAME: &'static str = "res_lib_quorum_v1_nodelist_notification";
    const ID: i32 = 7;
    const KIND: Kind = Kind::Event;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        RingIdSlots::write("ring_id", &self.ring_id, writer)?;
        let lists = [
            ("member_list", &self.member_list),
            ("joined_list", &self.joined_list),
            ("left_list", &self.left_list),
        ];
        for (field, list) in lists {
            let count = writer.length(field, list.len(), u32::MAX as usize)?;
            writer.align();
            writer.put(field, count);
        }
        for (field, list) in lists {
            writer.list(field, list);
        }
        // As `InSlotCounted`: the lists begin inside the last count's slot.
        writer.padding(4);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let ring_id = RingIdSlots::read("ring_id", reader)?;
        let members = reader.number_slot::<u32>("member_list_entries")?;
        let joined = reader.number_slot::<u32>("joined_list_entries")?;
        let left = reader.number::<u32>("left_list_entries")?;
        let mut list = |field, count| {
            let count = reader.counted(count, size_of::<NodeId>())?;
            reader.list(field, count)
        };
        Ok(Self {
            ring_id,
            member_list: list("member_list", members)?,
            joined_list: list("joined_list", joined)?,
            left_list: list("left_list", left)?,
        })
    }
}

any_message! {
    /// Any request of the service.
    pub enum AnyRequest { GetQuorate, TrackStart, TrackStop, GetType, ModelGetType }
}

any_message! {
    /// Any reply of the service.
    pub enum AnyResponse { GetQuorateReply, TrackStartReply, TrackStopReply, GetTypeReply, ModelGetTypeReply }
}

any_message! {
    /// Any event of the service.
    pub enum AnyEvent { Notification, QuorumNotification, NodelistNotification }
}
