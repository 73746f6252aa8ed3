//! libvotequorum.

use std::ffi::{c_char, c_int, c_uint, c_void};

use bytes::Bytes;
use corosync_ipc::votequorum::{Client, Event, MAX_QDEVICE_EXTRA_INFO, QDEVICE_NODE_ID};
use corosync_ipc::{CsError, NodeId, TrackFlags};

use crate::common::{Code, status};
use crate::handle::Handles;
use crate::pointer::{In, Out, Text, fill};
use crate::service::{Instance, NOTHING, RingId, common_functions, endpoint, mode};

/// `VOTEQUORUM_QDEVICE_MAX_NAME_LEN`
const MAX_NAME_LEN: usize = 255;

/// `struct votequorum_info`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Info {
    node_id: c_uint,
    node_state: c_uint,
    node_votes: c_uint,
    node_expected_votes: c_uint,
    highest_expected: c_uint,
    total_votes: c_uint,
    quorum: c_uint,
    flags: c_uint,
    qdevice_votes: c_uint,
    qdevice_name: [c_char; MAX_NAME_LEN],
}

/// `votequorum_node_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Node {
    nodeid: u32,
    state: u32,
}

type QuorumFn = extern "C" fn(u64, u64, u32, u32, *mut Node);
type NodelistFn = extern "C" fn(u64, u64, RingId, u32, *mut u32);
type ExpectedVotesFn = extern "C" fn(u64, u64, u32);
type ExtraInfoFn = extern "C" fn(u64, u64, u32, u32, *mut c_void);

/// `votequorum_callbacks_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Callbacks {
    quorum: Option<QuorumFn>,
    expected_votes: Option<ExpectedVotesFn>,
    nodelist: Option<NodelistFn>,
}

/// `votequorum_model_v1_data_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ModelV1 {
    model: c_int,
    quorum: Option<QuorumFn>,
    expected_votes: Option<ExpectedVotesFn>,
    nodelist: Option<NodelistFn>,
    extra_info: Option<ExtraInfoFn>,
}

/// `VOTEQUORUM_MODEL_V1`
const MODEL_V1: c_int = 1;

const NO_CALLBACKS: ModelV1 = ModelV1 {
    model: MODEL_V1,
    quorum: None,
    expected_votes: None,
    nodelist: None,
    extra_info: None,
};

static HANDLES: Handles<Instance<Client, ModelV1>> = Handles::new(6);

/// Connects.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_initialize(handle: Out<u64>, callbacks: In<Callbacks>) -> c_int {
    let model = callbacks.value().map_or(NO_CALLBACKS, |it| ModelV1 {
        quorum: it.quorum,
        expected_votes: it.expected_votes,
        nodelist: it.nodelist,
        ..NO_CALLBACKS
    });
    status(|| initialize(handle, model))
}

/// Connects, with the callbacks of a model.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_model_initialize(handle: Out<u64>, model: In<ModelV1>) -> c_int {
    let model = model.value().unwrap_or(NO_CALLBACKS);
    status(|| initialize(handle, model))
}

fn initialize(handle: Out<u64>, model: ModelV1) -> Result<(), Code> {
    let client = Client::connect_to(&endpoint()?)?;
    let opened = HANDLES.insert(Instance::new(client, model, NOTHING));
    handle.put(opened)
}

common_functions!(
    HANDLES: votequorum_fd_get,
    finalize: votequorum_finalize,
    context: votequorum_context_get, votequorum_context_set
);

/// Hands events to the callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_dispatch(handle: u64, dispatch_types: c_int) -> c_int {
    status(|| {
        let mode = mode(dispatch_types)?;
        let instance = HANDLES.get(handle)?;
        let callbacks = instance.state;
        instance.dispatch(mode, |event| call(handle, &callbacks, event))
    })
}

fn call(handle: u64, callbacks: &ModelV1, event: Event) -> Result<(), Code> {
    match event {
        Event::Quorum(it) => {
            let Some(quorum) = callbacks.quorum else { return Ok(()) };
            let mut nodes: Vec<Node> = it
                .nodes
                .iter()
                .map(|node| Node { nodeid: node.node_id.0, state: node.state.0 })
                .collect();
            let count = nodes.len() as u32;
            quorum(handle, it.context, it.quorate.into(), count, nodes.as_mut_ptr());
        }
        Event::Nodelist(it) => {
            let Some(nodelist) = callbacks.nodelist else { return Ok(()) };
            let mut nodes: Vec<u32> = it.members.iter().map(|node| node.0).collect();
            let ring_id = it.ring_id.into();
            let count = nodes.len() as u32;
            nodelist(handle, it.context, ring_id, count, nodes.as_mut_ptr());
        }
        Event::ExpectedVotes(it) => {
            let Some(expected_votes) = callbacks.expected_votes else { return Ok(()) };
            expected_votes(handle, it.context, it.expected_votes);
        }
        Event::QdeviceExtraInfo(it) => {
            let Some(extra_info) = callbacks.extra_info else { return Ok(()) };
            let mut bytes = it.extra_info.to_vec();
            let (node, count) = (it.node_id.0, bytes.len() as u32);
            extra_info(handle, it.context, node, count, bytes.as_mut_ptr().cast());
        }
        _ => return Err(CsError::Library.into()),
    }
    Ok(())
}

/// Gives what the daemon knows of a node; 0 stands for this one.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_getinfo(handle: u64, nodeid: c_uint, info: Out<Info>) -> c_int {
    status(|| {
        let found = HANDLES.get(handle)?.client.info(NodeId(nodeid))?;
        let found = Info {
            node_id: found.node_id.0,
            node_state: found.state.map_or(0, |state| state.0),
            node_votes: found.votes,
            node_expected_votes: found.expected_votes,
            highest_expected: found.highest_expected,
            total_votes: found.total_votes,
            quorum: found.quorum,
            flags: found.flags.bits(),
            qdevice_votes: found.qdevice_votes,
            qdevice_name: fill(found.qdevice_name.as_bytes()),
        };
        info.put(found)
    })
}

/// Sets the expected votes of the cluster.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_setexpected(handle: u64, expected_votes: c_uint) -> c_int {
    status(|| Ok(HANDLES.get(handle)?.client.set_expected(expected_votes)?))
}

/// Sets the votes of a node; 0 stands for the quorum device.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_setvotes(handle: u64, nodeid: c_uint, votes: c_uint) -> c_int {
    status(|| {
        let instance = HANDLES.get(handle)?;
        match NodeId(nodeid) {
            QDEVICE_NODE_ID => Ok(instance.client.set_qdevice_votes(votes)?),
            node => Ok(instance.client.set_votes(node, votes)?),
        }
    })
}

/// Starts notifications, which bring `context` with them.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_trackstart(handle: u64, context: u64, flags: c_uint) -> c_int {
    status(|| Ok(HANDLES.get(handle)?.client.track_start(context, TrackFlags::from_bits(flags))?))
}

/// Ends notifications.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_trackstop(handle: u64) -> c_int {
    status(|| Ok(HANDLES.get(handle)?.client.track_stop()?))
}

/// Reads the name of a quorum device.
///
/// # Safety
/// As [`string`].
fn device(name: &Text) -> Result<&str, Code> {
    let name = name.string()?.to_str().map_err(|_| CsError::InvalidParam)?;
    if name.is_empty() || name.len() >= MAX_NAME_LEN {
        return Err(CsError::InvalidParam.into());
    }
    Ok(name)
}

/// Registers a quorum device.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_qdevice_register(handle: u64, name: Text) -> c_int {
    status(|| {
        let name = device(&name)?;
        Ok(HANDLES.get(handle)?.client.qdevice_register(name)?)
    })
}

/// Unregisters a quorum device.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_qdevice_unregister(handle: u64, name: Text) -> c_int {
    status(|| {
        let name = device(&name)?;
        Ok(HANDLES.get(handle)?.client.qdevice_unregister(name)?)
    })
}

/// Renames a quorum device.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_qdevice_update(handle: u64, oldname: Text, newname: Text) -> c_int {
    status(|| {
        let (old_name, new_name) = (device(&oldname)?, device(&newname)?);
        Ok(HANDLES.get(handle)?.client.qdevice_update(old_name, new_name)?)
    })
}

/// Casts, or does not cast, the vote of a quorum device.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_qdevice_poll(
    handle: u64,
    name: Text,
    cast_vote: c_uint,
    ring_id: RingId,
) -> c_int {
    status(|| {
        let name = device(&name)?;
        Ok(HANDLES.get(handle)?.client.qdevice_poll(name, cast_vote != 0, ring_id.into())?)
    })
}

/// Allows that the device's partition alone is quorate.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_qdevice_master_wins(handle: u64, name: Text, allow: c_uint) -> c_int {
    status(|| {
        let name = device(&name)?;
        Ok(HANDLES.get(handle)?.client.qdevice_master_wins(name, allow != 0)?)
    })
}

/// Gives the bytes that a node's quorum device published. The caller has room for 4096.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_get_qdevice_extra_info(
    handle: u64,
    nodeid: c_uint,
    ei_size: Out<u32>,
    extra_info: Out<c_void>,
) -> c_int {
    status(|| {
        ei_size.check()?;
        extra_info.check()?;
        let found = HANDLES.get(handle)?.client.qdevice_extra_info(NodeId(nodeid))?;
        let found = found.get(..MAX_QDEVICE_EXTRA_INFO).unwrap_or(&found);
        extra_info.of::<u8>().put_all(found)?;
        ei_size.put(found.len() as u32)
    })
}

/// Publishes bytes of this node's quorum device, 4096 at most; null for none.
#[unsafe(no_mangle)]
pub extern "C" fn votequorum_set_qdevice_extra_info(
    handle: u64,
    ei_size: u32,
    extra_info: In<c_void>,
) -> c_int {
    status(|| {
        let instance = HANDLES.get(handle)?;
        let size = if extra_info.is_null() { 0 } else { ei_size as usize };
        if size > MAX_QDEVICE_EXTRA_INFO {
            return Err(CsError::InvalidParam.into());
        }
        let bytes = Bytes::copy_from_slice(extra_info.of::<u8>().values(size)?);
        Ok(instance.client.set_qdevice_extra_info(bytes)?)
    })
}
