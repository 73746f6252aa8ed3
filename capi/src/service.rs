//! What the libraries of all services share: a connection with its context, and dispatching.

use std::ffi::{c_int, c_void};
use std::ops::ControlFlow;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::time::Duration;

use corosync_ipc::{CsError, Dispatch, ENV_TIMEOUT, Endpoint, NodeId, ServiceClient};

use crate::common::Code;

/// `struct cpg_ring_id`, `struct quorum_ring_id` and `votequorum_ring_id_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RingId {
    nodeid: u32,
    seq: u64,
}

impl From<corosync_ipc::RingId> for RingId {
    fn from(ring_id: corosync_ipc::RingId) -> Self {
        Self { nodeid: ring_id.node_id.0, seq: ring_id.seq }
    }
}

impl From<RingId> for corosync_ipc::RingId {
    fn from(ring_id: RingId) -> Self {
        Self { node_id: NodeId(ring_id.nodeid), seq: ring_id.seq }
    }
}

/// An iteration: a list that is handed out one by one.
pub(crate) struct Iterated<T> {
    /// The handle of its connection.
    pub(crate) owner: u64,
    entries: Vec<T>,
    at: AtomicUsize,
}

impl<T> Iterated<T> {
    pub(crate) fn new(owner: u64, entries: Vec<T>) -> Self {
        Self { owner, entries, at: AtomicUsize::new(0) }
    }

    /// Returns the next entry; `CS_ERR_NO_SECTIONS` after the last.
    pub(crate) fn next(&self) -> Result<&T, Code> {
        let at = self.at.fetch_add(1, Ordering::Relaxed);
        self.entries.get(at).ok_or(CsError::NoSections.into())
    }

    /// Goes back to the first entry.
    pub(crate) fn rewind(&self) {
        self.at.store(0, Ordering::Relaxed);
    }
}

/// What stands behind a handle.
pub(crate) struct Instance<C, S> {
    pub(crate) client: C,
    /// What the program wants to remember.
    pub(crate) context: AtomicPtr<c_void>,
    pub(crate) is_finalized: AtomicBool,
    /// What only this service has: its callbacks.
    pub(crate) state: S,
}

impl<C: ServiceClient, S> Instance<C, S> {
    pub(crate) fn new(client: C, state: S, context: *mut c_void) -> Self {
        let context = AtomicPtr::new(context);
        Self { client, context, is_finalized: AtomicBool::new(false), state }
    }

    /// Ends the connection. A dispatch that is under way ends too.
    pub(crate) fn finalize(&self) {
        self.is_finalized.store(true, Ordering::Relaxed);
        self.client.finalize();
    }

    /// Hands events to `call`, which may end it with an error.
    pub(crate) fn dispatch(
        &self,
        mode: Dispatch,
        mut call: impl FnMut(C::Event) -> Result<(), Code>,
    ) -> Result<(), Code> {
        let mut result = Ok(());
        self.client.dispatch(mode, |event| {
            result = call(event);
            // A callback may have finalized the handle.
            if result.is_ok() && self.is_finalized.load(Ordering::Relaxed) {
                result = Err(CsError::BadHandle.into());
            }
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        result
    }
}

/// Reads `cs_dispatch_flags_t`, as libquorum and libvotequorum do.
pub(crate) fn mode(flags: c_int) -> Result<Dispatch, Code> {
    [Dispatch::One, Dispatch::All, Dispatch::Blocking, Dispatch::OneNonblocking]
        .into_iter()
        .find(|mode| *mode as c_int == flags)
        .ok_or(CsError::InvalidParam.into())
}

/// Reads `cs_dispatch_flags_t`, as libcpg, libcmap and libcfg do: they block for an unknown one.
pub(crate) fn mode_or_blocking(flags: c_int) -> Dispatch {
    mode(flags).unwrap_or(Dispatch::Blocking)
}

/// How the libraries connect: as C's, which wait for ever and return `CS_ERR_TRY_AGAIN` at once.
/// The variables of the environment override it.
pub(crate) fn endpoint() -> Result<Endpoint, Code> {
    let endpoint = Endpoint::from_env()?.wait_while_busy(false);
    let is_set = std::env::var_os(ENV_TIMEOUT).is_some_and(|value| !value.is_empty());
    Ok(if is_set { endpoint } else { endpoint.timeout(Duration::MAX) })
}

/// No context.
pub(crate) const NOTHING: *mut c_void = ptr::null_mut();

/// The functions that every library has.
macro_rules! common_functions {
    (
        $handles:ident: $fd_get:ident
        $(, finalize: $finalize:ident)?
        $(, context: $context_get:ident, $context_set:ident)?
    ) => {
        $(
            /// Ends the connection. A dispatch of another thread, which hangs in C, returns
            /// `CS_ERR_BAD_HANDLE`.
            #[unsafe(no_mangle)]
            pub extern "C" fn $finalize(handle: u64) -> std::ffi::c_int {
                crate::common::status(|| {
                    $handles.remove(handle)?.finalize();
                    Ok(())
                })
            }
        )?

        /// Gives the descriptor to poll for reading. Only poll it.
        #[unsafe(no_mangle)]
        pub extern "C" fn $fd_get(
            handle: u64,
            fd: crate::pointer::Out<std::ffi::c_int>,
        ) -> std::ffi::c_int {
            use std::os::fd::{AsFd, AsRawFd};
            crate::common::status(|| {
                let instance = $handles.get(handle)?;
                fd.put(instance.client.as_fd().as_raw_fd())
            })
        }

        $(
            /// Gives the context.
            #[unsafe(no_mangle)]
            pub extern "C" fn $context_get(
                handle: u64,
                context: crate::pointer::Out<*mut std::ffi::c_void>,
            ) -> std::ffi::c_int {
                crate::common::status(|| {
                    let instance = $handles.get(handle)?;
                    let found = instance.context.load(std::sync::atomic::Ordering::Relaxed);
                    context.put(found)
                })
            }

            /// Sets the context.
            #[unsafe(no_mangle)]
            pub extern "C" fn $context_set(
                handle: u64,
                context: *mut std::ffi::c_void,
            ) -> std::ffi::c_int {
                crate::common::status(|| {
                    let instance = $handles.get(handle)?;
                    instance.context.store(context, std::sync::atomic::Ordering::Relaxed);
                    Ok(())
                })
            }
        )?
    };
}
pub(crate) use common_functions;
