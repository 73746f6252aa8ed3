//! Messages as they travel, for the benches.

use bytes::Bytes;
use corosync_ipc::cmap::{TrackEvents, ValueType};
use corosync_ipc::cpg::{GroupName, Guarantee};
use corosync_ipc::wire::{cmap, cpg};

/// Asks for a number.
pub fn get() -> cmap::Get {
    cmap::Get { key_name: Bytes::from_static(b"runtime.totem.members.1.status"), value_len: 4 }
}

/// Answers with a number.
pub fn get_reply() -> cmap::GetReply {
    cmap::GetReply { value_len: 4, value: number(7) }
}

/// Tells that a number changed.
pub fn notification() -> cmap::NotifyCallback {
    cmap::NotifyCallback {
        track_inst_handle: 1,
        key_name: Bytes::from_static(b"runtime.totem.members.1.status"),
        event: TrackEvents::MODIFY,
        new_value: number(8),
        old_value: number(7),
    }
}

/// Sends a message of this size to a group.
pub fn multicast(size: usize) -> cpg::Mcast {
    cpg::Mcast { guarantee: Guarantee::AGREED, message: vec![1; size].into() }
}

/// Brings a message of this size.
///
/// # Panics
/// Never: the name of the group is valid.
pub fn delivery(size: usize) -> cpg::DeliverCallback {
    cpg::DeliverCallback {
        group_name: GroupName::new("a group").expect("a valid name"),
        nodeid: 1.into(),
        pid: 4_000,
        message: vec![1; size].into(),
    }
}

fn number(number: u32) -> cmap::RawValue {
    cmap::RawValue {
        value_type: ValueType::UINT32,
        data: Bytes::copy_from_slice(&number.to_ne_bytes()),
    }
}
