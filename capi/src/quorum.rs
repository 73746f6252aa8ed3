//! libquorum.

use std::ffi::{c_int, c_uint, c_void};

use corosync_ipc::quorum::{Client, Event, Model, Options};
use corosync_ipc::{CsError, NodeId, TrackFlags};

use crate::common::{Code, status};
use crate::handle::Handles;
use crate::pointer::{In, Out};
use crate::service::{Instance, NOTHING, RingId, common_functions, endpoint, mode};

type NotificationFn = extern "C" fn(u64, u32, u64, u32, *mut u32);
type QuorumFn = extern "C" fn(u64, u32, RingId, u32, *const u32);
type NodelistFn = extern "C" fn(u64, RingId, u32, *const u32, u32, *const u32, u32, *const u32);

/// `quorum_callbacks_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Callbacks {
    notify: Option<NotificationFn>,
}

/// `quorum_model_v0_data_t`
#[repr(C)]
#[derive(Clone, Copy)]
struct ModelV0 {
    model: c_int,
    notify: Option<NotificationFn>,
}

/// `quorum_model_v1_data_t`
#[repr(C)]
#[derive(Clone, Copy)]
struct ModelV1 {
    model: c_int,
    quorum: Option<QuorumFn>,
    nodelist: Option<NodelistFn>,
}

/// The callbacks of both models.
#[derive(Clone, Copy, Default)]
struct Called {
    notify: Option<NotificationFn>,
    quorum: Option<QuorumFn>,
    nodelist: Option<NodelistFn>,
}

static HANDLES: Handles<Instance<Client, Called>> = Handles::new(5);

/// Connects. Gives whether there is a quorum provider.
#[unsafe(no_mangle)]
pub extern "C" fn quorum_initialize(
    handle: Out<u64>,
    callbacks: In<Callbacks>,
    quorum_type: Out<u32>,
) -> c_int {
    let notify = callbacks.value().and_then(|callbacks| callbacks.notify);
    let called = Called { notify, ..Called::default() };
    status(|| initialize(handle, Model::V0, called, quorum_type, NOTHING))
}

/// Connects, with the callbacks of a model. Gives whether there is a quorum provider.
#[unsafe(no_mangle)]
pub extern "C" fn quorum_model_initialize(
    handle: Out<u64>,
    model: c_int,
    model_data: In<c_void>,
    quorum_type: Out<u32>,
    context: *mut c_void,
) -> c_int {
    status(|| {
        let (model, called) = match model {
            0 => {
                let data = model_data.of::<ModelV0>().value();
                let notify = data.and_then(|data| data.notify);
                (Model::V0, Called { notify, ..Called::default() })
            }
            1 => {
                let data = model_data.of::<ModelV1>().value();
                let called = data.map(|ModelV1 { quorum, nodelist, .. }| Called {
                    quorum,
                    nodelist,
                    notify: None,
                });
                (Model::V1, called.unwrap_or_default())
            }
            _ => return Err(CsError::InvalidParam.into()),
        };
        initialize(handle, model, called, quorum_type, context)
    })
}

fn initialize(
    handle: Out<u64>,
    model: Model,
    called: Called,
    quorum_type: Out<u32>,
    context: *mut c_void,
) -> Result<(), Code> {
    let options = Options::new().model(model).nodelist_apart(true);
    let client = Client::connect_with(&endpoint()?, options)?;
    quorum_type.put_if_wanted(client.quorum_type().0);
    let opened = HANDLES.insert(Instance::new(client, called, context));
    handle.put(opened)
}

common_functions!(
    HANDLES: quorum_fd_get, finalize: quorum_finalize, context: quorum_context_get, quorum_context_set
);

/// Hands events to the callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn quorum_dispatch(handle: u64, dispatch_types: c_int) -> c_int {
    status(|| {
        let mode = mode(dispatch_types)?;
        let instance = HANDLES.get(handle)?;
        let called = instance.state;
        instance.dispatch(mode, |event| call(handle, called, event))
    })
}

fn call(handle: u64, called: Called, event: Event) -> Result<(), Code> {
    match event {
        Event::Notification(notification) => {
            let mut members = numbers(&notification.members);
            if let Some(notify) = called.notify {
                notify(
                    handle,
                    notification.quorate.into(),
                    notification.ring_seq,
                    members.len() as u32,
                    members.as_mut_ptr(),
                );
            }
        }
        Event::Quorum(notification) => {
            let members = numbers(&notification.members);
            if let Some(quorum) = called.quorum {
                quorum(
                    handle,
                    notification.quorate.into(),
                    notification.ring_id.into(),
                    members.len() as u32,
                    members.as_ptr(),
                );
            }
        }
        Event::Nodelist(notification) => {
            let [members, joined, left] =
                [&notification.members, &notification.joined, &notification.left]
                    .map(|list| numbers(list));
            if let Some(nodelist) = called.nodelist {
                nodelist(
                    handle,
                    notification.ring_id.into(),
                    members.len() as u32,
                    members.as_ptr(),
                    joined.len() as u32,
                    joined.as_ptr(),
                    left.len() as u32,
                    left.as_ptr(),
                );
            }
        }
        _ => return Err(CsError::Library.into()),
    }
    Ok(())
}

fn numbers(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}

/// Gives whether this node is quorate.
#[unsafe(no_mangle)]
pub extern "C" fn quorum_getquorate(handle: u64, quorate: Out<c_int>) -> c_int {
    status(|| {
        let is_quorate = HANDLES.get(handle)?.client.is_quorate()?;
        quorate.put(is_quorate.into())
    })
}

/// Starts notifications.
#[unsafe(no_mangle)]
pub extern "C" fn quorum_trackstart(handle: u64, flags: c_uint) -> c_int {
    status(|| Ok(HANDLES.get(handle)?.client.track_start(TrackFlags::from_bits(flags))?))
}

/// Ends notifications.
#[unsafe(no_mangle)]
pub extern "C" fn quorum_trackstop(handle: u64) -> c_int {
    status(|| Ok(HANDLES.get(handle)?.client.track_stop()?))
}
