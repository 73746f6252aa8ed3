//! libcfg.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::net::IpAddr;

use corosync_ipc::cfg::{Client, Event, LinkStatus, RingStatus, ShutdownAnswer, ShutdownKind};
use corosync_ipc::{CsError, Error, NodeId};
use nix::libc;

use crate::common::{Code, status};
use crate::handle::Handles;
use crate::pointer::{In, Out, Text, fill};
use crate::service::{Instance, NOTHING, common_functions, endpoint, mode_or_blocking};

/// `CFG_MAX_HOST_LEN`
const MAX_HOST_LEN: usize = 256;
/// `CFG_MAX_LINKS`
const MAX_LINKS: usize = 8;
/// `CFG_NODE_STATUS_V1`
const NODE_STATUS_V1: c_int = 1;
/// `CS_MAX_NAME_LENGTH`
const MAX_NAME_LENGTH: usize = 256;

type ShutdownFn = extern "C" fn(u64, c_uint);

/// `corosync_cfg_callbacks_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Callbacks {
    shutdown: Option<ShutdownFn>,
}

/// `corosync_cfg_node_address_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NodeAddress {
    address_length: c_int,
    address: [u8; size_of::<libc::sockaddr_in6>()],
}

/// `struct corosync_knet_link_status_v1`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KnetLinkStatus {
    enabled: u8,
    connected: u8,
    dynconnected: u8,
    mtu: c_uint,
    src_ipaddr: [c_char; MAX_HOST_LEN],
    dst_ipaddr: [c_char; MAX_HOST_LEN],
}

/// `struct corosync_cfg_node_status_v1`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NodeStatus {
    version: c_int,
    nodeid: c_uint,
    reachable: u8,
    remote: u8,
    external: u8,
    onwire_min: u8,
    onwire_max: u8,
    onwire_ver: u8,
    link_status: [KnetLinkStatus; MAX_LINKS],
}

const NO_LINK: KnetLinkStatus = KnetLinkStatus {
    enabled: 0,
    connected: 0,
    dynconnected: 0,
    mtu: 0,
    src_ipaddr: [0; MAX_HOST_LEN],
    dst_ipaddr: [0; MAX_HOST_LEN],
};

impl From<&LinkStatus> for KnetLinkStatus {
    fn from(link: &LinkStatus) -> Self {
        Self {
            enabled: link.enabled.into(),
            connected: link.connected.into(),
            dynconnected: link.dynconnected.into(),
            mtu: link.mtu,
            src_ipaddr: fill(link.source.as_bytes()),
            dst_ipaddr: fill(link.destination.as_bytes()),
        }
    }
}

impl NodeAddress {
    /// As `struct sockaddr_in` or `sockaddr_in6`. A link that a node does not have has the address
    /// of zeros, and no family.
    fn new(address: IpAddr) -> Self {
        let family =
            |is_one: bool, family: c_int| if is_one { family as libc::sa_family_t } else { 0 };
        let mut bytes = [0; size_of::<libc::sockaddr_in6>()];
        let (family, length, offset, octets): (_, _, _, &[u8]) = match &address {
            IpAddr::V4(v4) => (
                family(!v4.is_unspecified(), libc::AF_INET),
                size_of::<libc::sockaddr_in>(),
                std::mem::offset_of!(libc::sockaddr_in, sin_addr),
                &v4.octets(),
            ),
            IpAddr::V6(v6) => (
                family(!v6.is_unspecified(), libc::AF_INET6),
                size_of::<libc::sockaddr_in6>(),
                std::mem::offset_of!(libc::sockaddr_in6, sin6_addr),
                &v6.octets(),
            ),
        };
        let parts: [(usize, &[u8]); 2] = [(0, &family.to_ne_bytes()), (offset, octets)];
        for (offset, part) in parts {
            for (to, from) in bytes.iter_mut().skip(offset).zip(part) {
                *to = *from;
            }
        }
        Self { address_length: length as c_int, address: bytes }
    }
}

static HANDLES: Handles<Instance<Client, Option<ShutdownFn>>> = Handles::new(7);

/// Connects.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_initialize(
    cfg_handle: Out<u64>,
    cfg_callbacks: In<Callbacks>,
) -> c_int {
    status(|| {
        let shutdown = cfg_callbacks.value().and_then(|callbacks| callbacks.shutdown);
        let client = Client::connect_to(&endpoint()?)?;
        let opened = HANDLES.insert(Instance::new(client, shutdown, NOTHING));
        cfg_handle.put(opened)
    })
}

common_functions!(HANDLES: corosync_cfg_fd_get, finalize: corosync_cfg_finalize);

/// Hands events to the callback.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_dispatch(cfg_handle: u64, dispatch_flags: c_int) -> c_int {
    status(|| {
        let instance = HANDLES.get(cfg_handle)?;
        instance.dispatch(mode_or_blocking(dispatch_flags), |event| {
            let kind = match event {
                Event::Shutdown(it) => it.kind,
                Event::ShutdownTimedOut(it) => it.kind,
                _ => return Err(CsError::Library.into()),
            };
            if let Some(shutdown) = instance.state {
                shutdown(cfg_handle, kind.0);
            }
            Ok(())
        })
    })
}

/// Gives names and states of this node's links, in memory that the caller frees: each text, and the
/// two arrays.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_ring_status_get(
    cfg_handle: u64,
    interface_names: Out<*mut *mut c_char>,
    status_texts: Out<*mut *mut c_char>,
    interface_count: Out<c_uint>,
) -> c_int {
    status(|| {
        let rings = HANDLES.get(cfg_handle)?.client.ring_status()?;
        let name = |ring: &RingStatus| match ring.link {
            Some(link) => format!("{link} {}", ring.address),
            None => ring.address.clone(),
        };
        let names: Vec<_> = rings.iter().map(name).collect();
        let states: Vec<_> = rings.iter().map(|ring| ring.status.clone()).collect();
        interface_names.put(texts(&names)?)?;
        status_texts.put(texts(&states)?)?;
        interface_count.put(rings.len() as c_uint)
    })
}

/// Copies texts for the caller to free.
fn texts(texts: &[String]) -> Result<*mut *mut c_char, Code> {
    // SAFETY: any size may be asked for. One of 0 may give null, which is no error then.
    let array = unsafe { libc::calloc(texts.len().max(1), size_of::<*mut c_char>()) };
    let array = array.cast::<*mut c_char>();
    if array.is_null() {
        return Err(CsError::NoMemory.into());
    }
    for (index, text) in texts.iter().enumerate() {
        let text = CString::new(text.as_str()).unwrap_or_default();
        // SAFETY: the text ends with a NUL.
        let copy = unsafe { libc::strdup(text.as_ptr()) };
        if copy.is_null() {
            return Err(CsError::NoMemory.into());
        }
        // SAFETY: the array has that many elements.
        let element = unsafe { array.add(index) };
        // SAFETY: as above.
        unsafe { element.write(copy) };
    }
    Ok(array)
}

/// Gives the state of a node's links.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_node_status_get(
    cfg_handle: u64,
    nodeid: c_uint,
    version: c_int,
    node_status: Out<c_void>,
) -> c_int {
    status(|| {
        if version != NODE_STATUS_V1 || node_status.is_null() {
            return Err(CsError::InvalidParam.into());
        }
        let found = HANDLES.get(cfg_handle)?.client.node_status(NodeId(nodeid))?;
        let mut link_status = [NO_LINK; MAX_LINKS];
        for link in &found.links {
            if let Some(to) = link_status.get_mut(usize::from(link.link)) {
                *to = link.into();
            }
        }
        let found = NodeStatus {
            version,
            nodeid: found.node_id.0,
            reachable: found.reachable.into(),
            remote: found.remote.into(),
            external: found.external.into(),
            onwire_min: found.onwire_min,
            onwire_max: found.onwire_max,
            onwire_ver: found.onwire_version,
            link_status,
        };
        node_status.of().put(found)
    })
}

/// Makes a node's corosync end.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_kill_node(cfg_handle: u64, nodeid: c_uint, reason: Text) -> c_int {
    status(|| {
        let reason = reason.string()?.to_string_lossy();
        if reason.len() >= MAX_NAME_LENGTH {
            return Err(CsError::NameTooLong.into());
        }
        Ok(HANDLES.get(cfg_handle)?.client.kill_node(NodeId(nodeid), &reason)?)
    })
}

/// Asks to be told of shutdowns. No flag has a meaning.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_trackstart(cfg_handle: u64, _track_flags: u8) -> c_int {
    status(|| Ok(HANDLES.get(cfg_handle)?.client.track_start()?))
}

/// Asks not to be told of shutdowns any more.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_trackstop(cfg_handle: u64) -> c_int {
    status(|| Ok(HANDLES.get(cfg_handle)?.client.track_stop()?))
}

/// Asks this node's corosync to end.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_try_shutdown(cfg_handle: u64, flags: c_uint) -> c_int {
    status(|| Ok(HANDLES.get(cfg_handle)?.client.try_shutdown(ShutdownKind(flags))?))
}

/// Answers to a shutdown. Succeeds even when nobody asked, as in C.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_replyto_shutdown(cfg_handle: u64, flags: c_uint) -> c_int {
    status(|| match HANDLES.get(cfg_handle)?.client.reply_to_shutdown(ShutdownAnswer(flags)) {
        Ok(()) | Err(Error::Cs { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    })
}

/// Gives the addresses of a node: as many as the caller has room for, and how many there are.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_get_node_addrs(
    cfg_handle: u64,
    nodeid: c_uint,
    max_addrs: usize,
    num_addrs: Out<c_int>,
    addrs: Out<NodeAddress>,
) -> c_int {
    status(|| {
        if addrs.is_null() && max_addrs > 0 {
            return Err(CsError::InvalidParam.into());
        }
        let found = HANDLES.get(cfg_handle)?.client.node_addresses(NodeId(nodeid))?;
        let addresses: Vec<_> =
            found.iter().copied().take(max_addrs).map(NodeAddress::new).collect();
        if !addresses.is_empty() {
            addrs.put_all(&addresses)?;
        }
        num_addrs.put(found.len() as c_int)
    })
}

/// Gives the id of this node.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_local_get(handle: u64, local_nodeid: Out<c_uint>) -> c_int {
    status(|| {
        let node_id = HANDLES.get(handle)?.client.local_node_id()?;
        local_nodeid.put(node_id.0)
    })
}

/// Makes all nodes read corosync.conf again.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_reload_config(handle: u64) -> c_int {
    status(|| Ok(HANDLES.get(handle)?.client.reload_config()?))
}

/// Makes this node's corosync open its log files again.
#[unsafe(no_mangle)]
pub extern "C" fn corosync_cfg_reopen_log_files(handle: u64) -> c_int {
    status(|| Ok(HANDLES.get(handle)?.client.reopen_log_files()?))
}
