//! The messages of the cfg service. `proto/cfg.json` has their layouts.
//!
//! The ids and layouts are those of corosync 1.99.3 and later.
//!
//! ```
//! use corosync_ipc::NodeId;
//! use corosync_ipc::wire::{Message, cfg};
//!
//! let request = cfg::KillNode { nodeid: NodeId(3), reason: "lost its disk".into() };
//! assert_eq!(cfg::KillNode::decode(&request.encode()?)?, request);
//! // The layout has room for 255 bytes.
//! let request = cfg::KillNode { nodeid: NodeId(3), reason: vec![b'x'; 256].into() };
//! assert!(request.encode().is_err());
//! # Ok::<(), corosync_ipc::WireError>(())
//! ```

use bytes::Bytes;

use crate::codec::{CS_OK, Header, Kind, Reader, Writer};
use crate::error::WireError;
use crate::wire::Message;
use crate::wire::message::{
    Chars, Encoding, MAR_NAME_SIZE, Native, Slot, any_message, message, write_message,
};
use crate::wire::values::{NodeId, open_enum};

open_enum! {
    /// The say that trackers have in a shutdown. Matches `corosync_cfg_shutdown_flags_t`.
    pub struct ShutdownKind: u32 {
        /// All trackers must agree. One that says no, or does not answer in time, prevents the
        /// shutdown. `COROSYNC_CFG_SHUTDOWN_FLAG_REQUEST`
        const REQUEST = 0, "request";
        /// The daemon waits for the answers of the trackers, but they cannot prevent the shutdown.
        /// `COROSYNC_CFG_SHUTDOWN_FLAG_REGARDLESS`
        const REGARDLESS = 1, "regardless";
        /// The daemon does not ask the trackers. `COROSYNC_CFG_SHUTDOWN_FLAG_IMMEDIATE`
        const IMMEDIATE = 2, "immediate";
    }
}

open_enum! {
    /// A tracker's answer to [`Event::Shutdown`](crate::cfg::Event::Shutdown). Matches
    /// `corosync_cfg_shutdown_reply_flags_t`.
    pub struct ShutdownAnswer: u32 {
        /// Objects to the shutdown. `COROSYNC_CFG_SHUTDOWN_FLAG_NO`
        const NO = 0, "no";
        /// Agrees to the shutdown. `COROSYNC_CFG_SHUTDOWN_FLAG_YES`
        const YES = 1, "yes";
    }
}

/// The most interfaces in a [`RingStatusReply`]. Matches `CFG_MAX_INTERFACES`.
pub const MAX_INTERFACES: usize = 16;

/// The room for an interface's name in bytes, NUL included. Matches `CFG_INTERFACE_NAME_MAX_LEN`.
pub const INTERFACE_NAME_SIZE: usize = 128;

/// The room for an interface's status in bytes, NUL included. Matches
/// `CFG_INTERFACE_STATUS_MAX_LEN`.
pub const INTERFACE_STATUS_SIZE: usize = 512;

/// The number of links of a node in a [`NodeStatusReply`]. Matches `CFG_MAX_LINKS`.
pub const MAX_LINKS: usize = 8;

/// The room for an address as text in bytes, NUL included. Matches `CFG_MAX_HOST_LEN`.
pub const HOST_SIZE: usize = 256;

/// The version of [`NodeStatusReply`]'s layout. Matches `CFG_NODE_STATUS_V1`.
pub const NODE_STATUS_V1: u32 = 1;

/// The size of an address in a [`NodeAddressesReply`], in bytes. Matches `TOTEMIP_ADDRLEN`.
pub const ADDRESS_SIZE: usize = 16;

message! {
    /// Asks for the state of this node's interfaces.
    request 0 "req_lib_cfg_ringstatusget" -> RingStatusReply: pub struct GetRingStatus {}
}

message! {
    /// Enables faulty rings again. corosync 2.99 and later refuse it with `CS_ERR_NOT_SUPPORTED`.
    request 1 "req_lib_cfg_ringreenable" -> RingReenableReply: pub struct RingReenable {}
}

message! {
    /// Ends another node's corosync.
    request 2 "req_lib_cfg_killnode" -> KillNodeReply: pub struct KillNode {
        /// The node.
        nodeid: NodeId as Slot,
        /// The reason for that node's log, at most 255 bytes.
        reason: Bytes as Reason,
    }
}

message! {
    /// Ends this node's corosync, if the trackers agree.
    request 3 "req_lib_cfg_tryshutdown" -> TryShutdownReply: pub struct TryShutdown {
        /// The say that the trackers have.
        flags: ShutdownKind as Native,
    }
}

message! {
    /// Answers a [`TestShutdown`].
    request 4 "req_lib_cfg_replytoshutdown" -> ReplyToShutdownReply: pub struct ReplyToShutdown {
        /// The answer.
        response: ShutdownAnswer as Native,
    }
}

message! {
    /// Asks for the addresses of a node.
    request 5 "req_lib_cfg_get_node_addrs" -> NodeAddressesReply: pub struct GetNodeAddresses {
        /// The node; 0 is the local one.
        nodeid: NodeId as Native,
    }
}

message! {
    /// Asks for the id of this node.
    request 6 "req_lib_cfg_local_get" -> LocalGetReply joins(|_| 64): pub struct LocalGet {}
}

message! {
    /// Makes all nodes read corosync.conf again. Since corosync 2.3.2.
    request 7 "req_lib_cfg_reload_config" -> ReloadConfigReply: pub struct ReloadConfig {}
}

message! {
    /// Makes this node's corosync open its log files again. Since corosync 2.99.4.
    request 8 "req_lib_cfg_reopen_log_files" -> ReopenLogFilesReply: pub struct ReopenLogFiles {}
}

message! {
    /// Asks for the state of a node and of the links to it. Since corosync 3.1.1.
    request 9 "req_lib_cfg_nodestatusget" -> NodeStatusReply: pub struct GetNodeStatus {
        /// The node.
        nodeid: NodeId as Slot,
        /// The layout of the reply: [`NODE_STATUS_V1`].
        version: u32 as Slot,
    }
}

message! {
    /// Starts tracking shutdown requests. Since corosync 3.1.1.
    request 10 "req_lib_cfg_trackstart" -> TrackStartReply: pub struct TrackStart {
        /// Reserved: no flag has a meaning.
        track_flags: u8 as Native,
    }
}

message! {
    /// Stops tracking shutdown requests. Since corosync 3.1.1.
    request 11 "req_lib_cfg_trackstop" -> TrackStopReply: pub struct TrackStop {}
}

/// An interface in a [`RingStatusReply`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Interface {
    /// The address. Since corosync 2.99 the number of the link and a space precede it.
    pub name: Bytes,
    /// The state: words, or one character per node.
    pub status: Bytes,
}

/// Reply to [`GetRingStatus`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RingStatusReply {
    /// The interfaces, at most [`MAX_INTERFACES`].
    pub interfaces: Vec<Interface>,
}

impl Message for RingStatusReply {
    const NAME: &'static str = "res_lib_cfg_ringstatusget";
    const ID: i32 = 0;
    const KIND: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        let count = writer.length("interface_count", self.interfaces.len(), MAX_INTERFACES)?;
        writer.slot("interface_count", count);
        let mut column = |field, size, text: fn(&Interface) -> &Bytes| {
            let texts = self.interfaces.iter().map(|interface| &text(interface)[..]);
            let unused = std::iter::repeat_n(&[][..], MAX_INTERFACES - self.interfaces.len());
            texts.chain(unused).try_for_each(|text| writer.padded(field, text, size, size - 1))
        };
        column("interface_name", INTERFACE_NAME_SIZE, |interface| &interface.name)?;
        column("interface_status", INTERFACE_STATUS_SIZE, |interface| &interface.status)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = reader.number_slot::<u32>("interface_count")?;
        // Entries from the count on hold bytes of the daemon's stack.
        let count = reader.bounded(count, MAX_INTERFACES)?;
        let names = texts::<INTERFACE_NAME_SIZE>("interface_name", reader)?;
        let statuses = texts::<INTERFACE_STATUS_SIZE>("interface_status", reader)?;
        let interfaces =
            names.into_iter().zip(statuses).map(|(name, status)| Interface { name, status });
        Ok(Self { interfaces: interfaces.take(count).collect() })
    }
}

message! {
    /// Reply to [`RingReenable`].
    response 1 "res_lib_cfg_ringreenable": pub struct RingReenableReply {}
}

message! {
    /// Reply to [`TrackStart`].
    response 2 "res_lib_cfg_trackstart": pub struct TrackStartReply {}
}

message! {
    /// Reply to [`TrackStop`].
    response 3 "res_lib_cfg_trackstop": pub struct TrackStopReply {}
}

message! {
    /// Reply to [`KillNode`].
    response 8 "res_lib_cfg_killnode": pub struct KillNodeReply {}
}

message! {
    /// Reply to [`TryShutdown`], once the shutdown is decided.
    response 9 "res_lib_cfg_tryshutdown": pub struct TryShutdownReply {}
}

message! {
    /// Reply to [`LocalGet`].
    response 12 "res_lib_cfg_local_get": pub struct LocalGetReply {
        /// The node.
        local_nodeid: NodeId as Slot,
    }
}

message! {
    /// Reply to [`ReplyToShutdown`].
    response 13 "res_lib_cfg_replytoshutdown": pub struct ReplyToShutdownReply {}
}

message! {
    /// Reply to [`ReloadConfig`], once the reload is done. Its id was 15 until corosync 2.99.3.
    response 14 "res_lib_cfg_reload_config": pub struct ReloadConfigReply {}
}

message! {
    /// Reply to [`ReopenLogFiles`].
    response 15 "res_lib_cfg_reopen_log_files": pub struct ReopenLogFilesReply {}
}

/// Reply to [`GetNodeAddresses`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeAddressesReply {
    /// The family of all addresses: the daemon's system's number of `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// The addresses. An IPv4 address takes the first 4 bytes.
    pub addrs: Vec<[u8; ADDRESS_SIZE]>,
}

impl Message for NodeAddressesReply {
    const NAME: &'static str = "res_lib_cfg_get_node_addrs";
    const ID: i32 = 11;
    const KIND: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.put("family", self.family);
        let count = writer.length("num_addrs", self.addrs.len(), u32::MAX as usize)?;
        writer.put("num_addrs", count);
        writer.list("addrs", &self.addrs);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let family = reader.get("family")?;
        let count = reader.number::<u32>("num_addrs")?;
        // Entries for interfaces without an address may follow.
        let count = reader.counted(count, ADDRESS_SIZE)?;
        Ok(Self { family, addrs: reader.list("addrs", count)? })
    }
}

/// A link in a [`NodeStatusReply`]. Matches `struct corosync_knet_link_status_v1`.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Link {
    /// Not 0: the link is configured and switched on.
    pub enabled: u8,
    /// Not 0: the link is up.
    pub connected: u8,
    /// Not 0: the other end, whose address is dynamic, has set the link up.
    pub dynconnected: u8,
    /// The largest packet in bytes, as far as the daemon knows.
    pub mtu: u32,
    /// This node's address as text.
    pub src_ipaddr: Bytes,
    /// The other node's address as text.
    pub dst_ipaddr: Bytes,
}

/// Reply to [`GetNodeStatus`]. Matches `struct corosync_cfg_node_status_v1`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeStatusReply {
    /// The node.
    pub nodeid: NodeId,
    /// Not 0: this node reaches it.
    pub reachable: u8,
    /// Not 0: this node reaches it through another node.
    pub remote: u8,
    /// Not 0: it is outside of the cluster.
    pub external: u8,
    /// The oldest version of knet's protocol that it speaks.
    pub onwire_min: u8,
    /// The newest version of knet's protocol that it speaks.
    pub onwire_max: u8,
    /// The version of knet's protocol in use.
    pub onwire_ver: u8,
    /// The links by their number. A link that is not configured is all zeros.
    pub links: [Link; MAX_LINKS],
}

/// The name of every field of a link in errors. The offset identifies the field.
const LINK_STATUS: &str = "node_status.link_status";

impl Message for NodeStatusReply {
    const NAME: &'static str = "res_lib_cfg_nodestatusget_v1";
    const ID: i32 = 16;
    const KIND: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.put("node_status.version", NODE_STATUS_V1);
        writer.put("node_status.nodeid", self.nodeid);
        writer.put("node_status.reachable", self.reachable);
        writer.put("node_status.remote", self.remote);
        writer.put("node_status.external", self.external);
        writer.put("node_status.onwire_min", self.onwire_min);
        writer.put("node_status.onwire_max", self.onwire_max);
        writer.put("node_status.onwire_ver", self.onwire_ver);
        writer.padding(2);
        for link in &self.links {
            writer.put(LINK_STATUS, link.enabled);
            writer.put(LINK_STATUS, link.connected);
            writer.put(LINK_STATUS, link.dynconnected);
            writer.padding(1);
            writer.put(LINK_STATUS, link.mtu);
            Host::write(LINK_STATUS, &link.src_ipaddr, writer)?;
            Host::write(LINK_STATUS, &link.dst_ipaddr, writer)?;
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let offset = reader.offset();
        let version: u32 = reader.get("node_status.version")?;
        if version != NODE_STATUS_V1 {
            return Err(reader.invalid("node_status.version", offset, i64::from(version)));
        }
        let nodeid = reader.get("node_status.nodeid")?;
        let reachable = reader.get("node_status.reachable")?;
        let remote = reader.get("node_status.remote")?;
        let external = reader.get("node_status.external")?;
        let onwire_min = reader.get("node_status.onwire_min")?;
        let onwire_max = reader.get("node_status.onwire_max")?;
        let onwire_ver = reader.get("node_status.onwire_ver")?;
        reader.skip(2);
        let mut links: [Link; MAX_LINKS] = Default::default();
        for (index, link) in links.iter_mut().enumerate() {
            link.enabled = reader.part(format_args!("[{index}].enabled")).get(LINK_STATUS)?;
            link.connected = reader.part(format_args!("[{index}].connected")).get(LINK_STATUS)?;
            link.dynconnected =
                reader.part(format_args!("[{index}].dynconnected")).get(LINK_STATUS)?;
            reader.skip(1);
            link.mtu = reader.part(format_args!("[{index}].mtu")).get(LINK_STATUS)?;
            reader.part(format_args!("[{index}].src_ipaddr"));
            link.src_ipaddr = Host::read(LINK_STATUS, reader)?;
            reader.part(format_args!("[{index}].dst_ipaddr"));
            link.dst_ipaddr = Host::read(LINK_STATUS, reader)?;
        }
        Ok(Self { nodeid, reachable, remote, external, onwire_min, onwire_max, onwire_ver, links })
    }
}

/// Event: asks a tracker whether this node's corosync may end, or reports that the time to answer
/// is over.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TestShutdown {
    /// The status in the header. `CS_OK`: the daemon asks. `CS_ERR_TIMEOUT`: the time is over.
    pub status: i32,
    /// As in [`TryShutdown`].
    pub flags: ShutdownKind,
}

impl Message for TestShutdown {
    const NAME: &'static str = "res_lib_cfg_testshutdown";
    const ID: i32 = 10;
    const KIND: Kind = Kind::Event;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.slot("flags", self.flags);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { status: CS_OK, flags: reader.get("flags")? })
    }

    fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut bytes = write_message(self)?.finish(0)?;
        Header::set_status(&mut bytes, self.status);
        Ok(bytes)
    }

    fn decode_from(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let header = Header::read(&mut reader, Self::HEADER)?;
        if header.id != Self::ID {
            return Err(WireError::UnknownId { message: Self::NAME, id: header.id });
        }
        Ok(Self { status: header.error, ..Self::read(&mut reader)? })
    }
}

any_message! {
    /// Any request of the service.
    pub enum AnyRequest {
        GetRingStatus, RingReenable, KillNode, TryShutdown, ReplyToShutdown, GetNodeAddresses, LocalGet, ReloadConfig,
        ReopenLogFiles, GetNodeStatus, TrackStart, TrackStop,
    }
}

any_message! {
    /// Any reply of the service.
    pub enum AnyResponse {
        RingStatusReply, RingReenableReply, TrackStartReply, TrackStopReply, KillNodeReply, TryShutdownReply,
        NodeAddressesReply, LocalGetReply, ReplyToShutdownReply, ReloadConfigReply, ReopenLogFilesReply, NodeStatusReply,
    }
}

any_message! {
    /// Any event of the service.
    pub enum AnyEvent { TestShutdown }
}

/// An address as text.
type Host = Chars<HOST_SIZE>;

/// A `mar_name_t` whose length is not in a slot. It holds a C string, and the length includes the
/// NUL.
pub(crate) struct Reason;

impl Encoding<Bytes> for Reason {
    fn write(field: &'static str, value: &Bytes, writer: &mut Writer) -> Result<(), WireError> {
        let length = writer.length(field, value.len(), MAR_NAME_SIZE - 1)? as u16;
        writer.put(field, if value.is_empty() { 0 } else { length + 1 });
        writer.padded(field, value, MAR_NAME_SIZE, MAR_NAME_SIZE - 1)
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<Bytes, WireError> {
        let length = reader.part(".length").number::<u16>(field)?;
        reader.part(".value");
        let text = Chars::<MAR_NAME_SIZE>::read(field, reader)?;
        let length = reader.bounded(length, MAR_NAME_SIZE)?;
        Ok(text.slice(..text.len().min(length).min(MAR_NAME_SIZE - 1)))
    }
}

/// Reads an array of C strings. A string without a NUL loses its last byte to it.
fn texts<const SIZE: usize>(
    field: &'static str,
    reader: &mut Reader<'_>,
) -> Result<Vec<Bytes>, WireError> {
    let text = |text: Bytes| text.slice(..text.len().min(SIZE - 1));
    let mut read = |index| {
        reader.part(format_args!("[{index}]"));
        Chars::<SIZE>::read(field, reader).map(text)
    };
    (0..MAX_INTERFACES).map(&mut read).collect()
}

#[cfg(test)]
mod tests {
    use proptest::array::uniform8;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::error::CsError;

    /// Text without a NUL, as it goes into an array of this size.
    fn text(size: usize) -> impl Strategy<Value = Bytes> {
        vec(1..=255u8, 0..size).prop_map(Bytes::from)
    }

    fn link() -> impl Strategy<Value = Link> {
        (any::<[u8; 3]>(), any::<u32>(), text(HOST_SIZE), text(HOST_SIZE)).prop_map(
            |([enabled, connected, dynconnected], mtu, src_ipaddr, dst_ipaddr)| Link {
                enabled,
                connected,
                dynconnected,
                mtu,
                src_ipaddr,
                dst_ipaddr,
            },
        )
    }

    fn request() -> impl Strategy<Value = AnyRequest> {
        prop_oneof![
            (any::<u32>(), text(MAR_NAME_SIZE)).prop_map(|(node, reason)| AnyRequest::KillNode(
                KillNode { nodeid: NodeId(node), reason }
            )),
            any::<u32>().prop_map(|flags| AnyRequest::TryShutdown(TryShutdown {
                flags: ShutdownKind(flags)
            })),
            any::<u32>().prop_map(|answer| {
                AnyRequest::ReplyToShutdown(ReplyToShutdown { response: ShutdownAnswer(answer) })
            }),
            any::<u32>().prop_map(|node| AnyRequest::GetNodeAddresses(GetNodeAddresses {
                nodeid: NodeId(node)
            })),
            any::<(u32, u32)>().prop_map(|(node, version)| {
                AnyRequest::GetNodeStatus(GetNodeStatus { nodeid: NodeId(node), version })
            }),
            any::<u8>().prop_map(|track_flags| AnyRequest::TrackStart(TrackStart { track_flags })),
        ]
    }

    fn response() -> impl Strategy<Value = AnyResponse> {
        let interface = (text(INTERFACE_NAME_SIZE), text(INTERFACE_STATUS_SIZE));
        let interface = interface.prop_map(|(name, status)| Interface { name, status });
        prop_oneof![
            vec(interface, 0..=MAX_INTERFACES).prop_map(|interfaces| AnyResponse::RingStatusReply(
                RingStatusReply { interfaces }
            )),
            any::<(u32, Vec<[u8; ADDRESS_SIZE]>)>().prop_map(|(family, addrs)| {
                AnyResponse::NodeAddressesReply(NodeAddressesReply { family, addrs })
            }),
            any::<u32>().prop_map(|node| AnyResponse::LocalGetReply(LocalGetReply {
                local_nodeid: NodeId(node)
            })),
            (any::<u32>(), any::<[u8; 6]>(), uniform8(link())).prop_map(|(node, bytes, links)| {
                let [reachable, remote, external, onwire_min, onwire_max, onwire_ver] = bytes;
                AnyResponse::NodeStatusReply(NodeStatusReply {
                    nodeid: NodeId(node),
                    reachable,
                    remote,
                    external,
                    onwire_min,
                    onwire_max,
                    onwire_ver,
                    links,
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back_as_they_went(request in request()) {
            prop_assert_eq!(AnyRequest::decode(&request.encode().unwrap()), Ok(request));
        }

        #[test]
        fn answers_come_back_as_they_went(response in response()) {
            prop_assert_eq!(AnyResponse::decode(&response.encode().unwrap()), Ok(response));
        }

        #[test]
        fn events_come_back_with_their_status(status: i32, flags: u32) {
            let event = AnyEvent::TestShutdown(TestShutdown { status, flags: ShutdownKind(flags) });
            prop_assert_eq!(AnyEvent::decode(&event.encode().unwrap()), Ok(event));
        }
    }

    #[test]
    fn what_the_layout_has_no_room_for_is_refused() {
        let reason = Bytes::from(vec![b'x'; MAR_NAME_SIZE]);
        let error = KillNode { nodeid: NodeId(1), reason }.encode().unwrap_err();
        let message = "req_lib_cfg_killnode";
        assert_eq!(
            error,
            WireError::TooLarge { message, field: "reason", offset: 24, value: 256, limit: 255 }
        );
        let interface = Interface {
            name: Bytes::new(),
            status: Bytes::from(vec![b'x'; INTERFACE_STATUS_SIZE]),
        };
        assert!(RingStatusReply { interfaces: vec![interface.clone()] }.encode().is_err());
        let interfaces = vec![Interface { status: Bytes::new(), ..interface }; MAX_INTERFACES + 1];
        assert!(RingStatusReply { interfaces }.encode().is_err());
    }

    #[test]
    fn counts_beyond_the_message_are_refused() {
        let mut rings = RingStatusReply { interfaces: vec![] }.encode().unwrap();
        rings[24..28].copy_from_slice(&(MAX_INTERFACES as u32 + 1).to_ne_bytes());
        let (message, field) = ("res_lib_cfg_ringstatusget", "interface_count");
        let limit = MAX_INTERFACES as u64;
        assert_eq!(
            RingStatusReply::decode(&rings),
            Err(WireError::TooLarge { message, field, offset: 24, value: limit + 1, limit })
        );
        let mut addresses =
            NodeAddressesReply { family: 2, addrs: vec![[0; 16]; 2] }.encode().unwrap();
        addresses[28..32].copy_from_slice(&3u32.to_ne_bytes());
        assert!(matches!(
            NodeAddressesReply::decode(&addresses),
            Err(WireError::TooLarge { value: 3, limit: 2, .. })
        ));
        // A count below the room: the other entries have no address.
        addresses[28..32].copy_from_slice(&1u32.to_ne_bytes());
        assert_eq!(NodeAddressesReply::decode(&addresses).unwrap().addrs.len(), 1);
    }

    #[test]
    fn a_reason_ends_at_its_length_and_at_a_nul() {
        let mut bytes = KillNode { nodeid: NodeId(1), reason: "because".into() }.encode().unwrap();
        assert_eq!((bytes.len(), &bytes[26..34]), (288, &b"because\0"[..]));
        assert_eq!(bytes[24..26], 8u16.to_ne_bytes());
        bytes[24..26].copy_from_slice(&2u16.to_ne_bytes());
        assert_eq!(KillNode::decode(&bytes).unwrap().reason, "be");
        bytes[24..26].copy_from_slice(&256u16.to_ne_bytes());
        bytes[26..282].fill(b'x');
        assert_eq!(KillNode::decode(&bytes).unwrap().reason.len(), 255);
        bytes[24..26].copy_from_slice(&257u16.to_ne_bytes());
        assert!(matches!(
            KillNode::decode(&bytes),
            Err(WireError::TooLarge { value: 257, limit: 256, .. })
        ));
    }

    #[test]
    fn the_end_of_the_time_to_answer_is_in_the_header() {
        let event = TestShutdown { status: CsError::Timeout.raw(), flags: ShutdownKind::REQUEST };
        let bytes = event.encode().unwrap();
        assert_eq!((bytes.len(), &bytes[16..20]), (32, &5u32.to_ne_bytes()[..]));
        assert_eq!(TestShutdown::decode(&bytes).unwrap(), event);
    }
}
