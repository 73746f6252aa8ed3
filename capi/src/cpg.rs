//! libcpg.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use corosync_ipc::cpg::{
    self, Client, Discard, Entry, Event, GroupName, Guarantee, Iteration, MAX_MEMBERS, Options,
};
use corosync_ipc::{CsError, Error};
use nix::libc;

use crate::common::{CS_OK, Code, status};
use crate::handle::Handles;
use crate::pointer::{In, Out, Piece};
use crate::service::{
    Instance, Iterated, NOTHING, RingId, common_functions, endpoint, mode_or_blocking,
};

/// `CPG_MODEL_V1`
const MODEL_V1: c_int = 1;
/// `CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF`
const DELIVER_INITIAL_TOTEM_CONF: c_uint = 1;
/// `CPG_FLOW_CONTROL_DISABLED`
const FLOW_CONTROL_DISABLED: c_int = 0;
/// `CPG_MAX_NAME_LENGTH`
const MAX_NAME_LENGTH: usize = 128;

/// `struct cpg_name`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Name {
    length: u32,
    value: [u8; MAX_NAME_LENGTH],
}

/// `struct cpg_address`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Address {
    nodeid: u32,
    pid: u32,
    reason: u32,
}

/// `struct cpg_iteration_description_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Description {
    group: Name,
    nodeid: u32,
    pid: u32,
}

type DeliverFn = extern "C" fn(u64, *const Name, u32, u32, *mut c_void, usize);
type ConfchgFn = extern "C" fn(
    u64,
    *const Name,
    *const Address,
    usize,
    *const Address,
    usize,
    *const Address,
    usize,
);
type TotemConfchgFn = extern "C" fn(u64, RingId, u32, *const u32);

/// `cpg_callbacks_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Callbacks {
    deliver: Option<DeliverFn>,
    confchg: Option<ConfchgFn>,
}

/// `cpg_model_v1_data_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ModelV1 {
    model: c_int,
    deliver: Option<DeliverFn>,
    confchg: Option<ConfchgFn>,
    totem_confchg: Option<TotemConfchgFn>,
    flags: c_uint,
}

const NO_CALLBACKS: ModelV1 =
    ModelV1 { model: MODEL_V1, deliver: None, confchg: None, totem_confchg: None, flags: 0 };

static HANDLES: Handles<Instance<Client, ModelV1>> = Handles::new(1);

static ITERATIONS: Handles<Iterated<Entry>> = Handles::new(2);

impl Name {
    fn new(group: &GroupName) -> Self {
        let mut value = [0; MAX_NAME_LENGTH];
        for (to, from) in value.iter_mut().zip(group.as_bytes()) {
            *to = *from;
        }
        Self { length: group.as_bytes().len() as u32, value }
    }

    fn group(&self) -> Result<GroupName, Code> {
        let name = self.value.get(..self.length as usize).ok_or(CsError::NameTooLong)?;
        Ok(GroupName::new(name)?)
    }
}

impl Address {
    fn all(addresses: &[cpg::Address]) -> Vec<Self> {
        let address =
            |it: &cpg::Address| Self { nodeid: it.node_id.0, pid: it.pid, reason: it.reason.0 };
        addresses.iter().map(address).collect()
    }
}

fn group(name: &In<Name>) -> Result<GroupName, Code> {
    name.value().ok_or(CsError::InvalidParam)?.group()
}

/// Connects, with the callbacks of a message and of a change of membership.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_initialize(handle: Out<u64>, callbacks: In<Callbacks>) -> c_int {
    let model = callbacks.value().map_or(NO_CALLBACKS, |Callbacks { deliver, confchg }| ModelV1 {
        deliver,
        confchg,
        ..NO_CALLBACKS
    });
    status(|| initialize(handle, model, NOTHING))
}

/// Connects, with the callbacks and flags of a model.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_model_initialize(
    handle: Out<u64>,
    model: c_int,
    model_data: In<ModelV1>,
    context: *mut c_void,
) -> c_int {
    status(|| {
        if model != MODEL_V1 {
            return Err(CsError::InvalidParam.into());
        }
        let model = model_data.value().unwrap_or(NO_CALLBACKS);
        if model.flags & !DELIVER_INITIAL_TOTEM_CONF != 0 {
            return Err(CsError::InvalidParam.into());
        }
        initialize(handle, model, context)
    })
}

fn initialize(handle: Out<u64>, model: ModelV1, context: *mut c_void) -> Result<(), Code> {
    let options = Options::new()
        .initial_totem_confchg(model.flags & DELIVER_INITIAL_TOTEM_CONF != 0)
        .reassembly_limit(usize::MAX);
    let client = Client::connect_with(&endpoint()?, options)?;
    let opened = HANDLES.insert(Instance::new(client, model, context));
    handle.put(opened)
}

common_functions!(HANDLES: cpg_fd_get, context: cpg_context_get, cpg_context_set);

/// Waits until the daemon has taken every message, and ends the connection and its iterations. A
/// dispatch of another thread, which hangs in C, returns `CS_ERR_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_finalize(handle: u64) -> c_int {
    status(|| {
        let instance = HANDLES.remove(handle)?;
        ITERATIONS.retain(|iteration| iteration.owner != handle);
        instance.is_finalized.store(true, Ordering::Relaxed);
        Ok(instance.client.close()?)
    })
}

/// Gives the length of the longest message that travels in one piece.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_max_atomic_msgsize_get(handle: u64, size: Out<u32>) -> c_int {
    status(|| {
        let most = HANDLES.get(handle)?.client.max_atomic_message_size();
        size.put(u32::try_from(most).unwrap_or(u32::MAX))
    })
}

/// Hands events to the callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_dispatch(handle: u64, dispatch_types: c_int) -> c_int {
    status(|| {
        let instance = HANDLES.get(handle)?;
        let callbacks = instance.state;
        instance.dispatch(mode_or_blocking(dispatch_types), |event| call(handle, &callbacks, event))
    })
}

fn call(handle: u64, callbacks: &ModelV1, event: Event) -> Result<(), Code> {
    match event {
        Event::Deliver(message) => {
            let Some(deliver) = callbacks.deliver else { return Ok(()) };
            let group = Name::new(&message.group);
            let (node_id, pid) = (message.node_id.0, message.pid);
            // The callback may write into the message, as in C.
            let mut payload = owned(message.payload);
            let length = payload.len();
            deliver(handle, &group, node_id, pid, payload.as_mut_ptr().cast(), length);
        }
        Event::Confchg(change) => {
            let Some(confchg) = callbacks.confchg else { return Ok(()) };
            let group = Name::new(&change.group);
            let [members, left, joined] =
                [&change.members, &change.left, &change.joined].map(|list| Address::all(list));
            confchg(
                handle,
                &group,
                members.as_ptr(),
                members.len(),
                left.as_ptr(),
                left.len(),
                joined.as_ptr(),
                joined.len(),
            );
        }
        Event::TotemConfchg(change) => {
            let Some(totem_confchg) = callbacks.totem_confchg else { return Ok(()) };
            let ring_id = change.ring_id.into();
            let members: Vec<u32> = change.members.iter().map(|node| node.0).collect();
            totem_confchg(handle, ring_id, members.len() as u32, members.as_ptr());
        }
        Event::Discarded(cpg::Discarded { reason: Discard::TooLong, .. }) => {
            return Err(CsError::NoMemory.into());
        }
        _ => return Err(CsError::Library.into()),
    }
    Ok(())
}

/// A message that a callback may write into. It lies where any type may lie, as in C: at a multiple
/// of 8 in its memory.
fn owned(payload: Bytes) -> BytesMut {
    payload.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared))
}

/// Joins a group, which waits for a leave or join before it.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_join(handle: u64, group_name: In<Name>) -> c_int {
    status(|| {
        let group = group(&group_name)?;
        Ok(HANDLES.get(handle)?.client.join(&group)?)
    })
}

/// Leaves the group.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_leave(handle: u64, group_name: In<Name>) -> c_int {
    status(|| {
        let group = group(&group_name)?;
        Ok(HANDLES.get(handle)?.client.leave(&group)?)
    })
}

/// Sends a message to the group. One in fragments waits as long as the daemon takes them. Another
/// one waits, as in C, for a daemon that has not yet read what wakes it.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_mcast_joined(
    handle: u64,
    guarantee: c_uint,
    iovec: In<Piece>,
    iov_len: c_uint,
) -> c_int {
    status(|| {
        let instance = HANDLES.get(handle)?;
        let pieces = iovec.values(iov_len as usize)?;
        send(&instance.client, guarantee, pieces)
    })
}

fn send(client: &Client, guarantee: c_uint, pieces: &[Piece]) -> Result<(), Code> {
    let pieces = pieces.iter().map(Piece::bytes).collect::<Result<Vec<_>, _>>()?;
    let sent = client.multicast_slices(Guarantee(guarantee), &pieces);
    match sent {
        // C sends it all the same, and the daemon drops it.
        Err(Error::Cs { error: CsError::NotExist, .. }) => Ok(()),
        sent => Ok(sent?),
    }
}

/// Gives the members of a group: 128 at most, for which the caller has room.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_membership_get(
    handle: u64,
    group_name: In<Name>,
    member_list: Out<Address>,
    member_list_entries: Out<c_int>,
) -> c_int {
    status(|| {
        let group = group(&group_name)?;
        member_list.check()?;
        member_list_entries.check()?;
        let instance = HANDLES.get(handle)?;
        let mut members = Address::all(&instance.client.membership(&group)?);
        members.truncate(MAX_MEMBERS);
        member_list.put_all(&members)?;
        member_list_entries.put(members.len() as c_int)
    })
}

/// Gives the id of this node.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_local_get(handle: u64, local_nodeid: Out<c_uint>) -> c_int {
    status(|| {
        let node_id = HANDLES.get(handle)?.client.local_node_id()?;
        local_nodeid.put(node_id.0)
    })
}

/// Always gives `CPG_FLOW_CONTROL_DISABLED`, as in C.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_flow_control_state_get(
    handle: u64,
    flow_control_enabled: Out<c_int>,
) -> c_int {
    status(|| {
        HANDLES.get(handle)?;
        flow_control_enabled.put(FLOW_CONTROL_DISABLED)
    })
}

/// Allocates a message. It is ordinary memory, as in C after corosync 3.1.10.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_zcb_alloc(_: u64, size: usize, buffer: Out<*mut c_void>) -> c_int {
    status(|| {
        // SAFETY: any size may be asked for.
        let memory = unsafe { libc::malloc(size) };
        buffer.put(memory)?;
        if memory.is_null() { Err(CsError::NoMemory.into()) } else { Ok(()) }
    })
}

/// Frees what [`cpg_zcb_alloc`] gave.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_zcb_free(_: u64, buffer: Out<c_void>) -> c_int {
    buffer.free();
    CS_OK
}

/// Sends a message as [`cpg_mcast_joined`] does.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_zcb_mcast_joined(
    handle: u64,
    guarantee: c_uint,
    msg: In<c_void>,
    msg_len: usize,
) -> c_int {
    status(|| send(&HANDLES.get(handle)?.client, guarantee, &[Piece::new(msg, msg_len)]))
}

/// Begins to iterate over groups or members, of which it takes a list at once.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_iteration_initialize(
    handle: u64,
    iteration_type: c_int,
    group_name: In<Name>,
    cpg_iteration_handle: Out<u64>,
) -> c_int {
    status(|| {
        let group = group_name.value().map(|name| name.group()).transpose()?;
        let iteration = match (iteration_type, group) {
            (1, None) => Iteration::Names,
            (2, Some(group)) => Iteration::Group(group),
            (3, None) => Iteration::All,
            _ => return Err(CsError::InvalidParam.into()),
        };
        cpg_iteration_handle.check()?;
        let entries = HANDLES.get(handle)?.client.list(iteration)?;
        cpg_iteration_handle.put(ITERATIONS.insert(Iterated::new(handle, entries)))
    })
}

/// Gives the next one. After the last `CS_ERR_NO_SECTIONS`, and then the first again.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_iteration_next(handle: u64, description: Out<Description>) -> c_int {
    status(|| {
        description.check()?;
        let iterated = ITERATIONS.get(handle)?;
        let next = iterated.next().inspect_err(|_| iterated.rewind());
        let Entry { group, node_id, pid } = next?;
        let next = Description { group: Name::new(group), nodeid: node_id.0, pid: *pid };
        description.put(next)
    })
}

/// Ends an iteration.
#[unsafe(no_mangle)]
pub extern "C" fn cpg_iteration_finalize(handle: u64) -> c_int {
    status(|| ITERATIONS.remove(handle).map(drop))
}
