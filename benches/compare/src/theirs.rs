//! The C libraries: calls of `c_side.c`, which ends the process when a call of a library fails.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::fs::OpenOptions;
use std::io::stderr;

use nix::unistd::{dup, dup2_stderr};

use crate::side::{Rival, Side};

/// `struct c_clients`, which only C looks into.
#[repr(C)]
pub(crate) struct Clients {
    _private: UnsafeCell<[u8; 0]>,
}

/// An array of `cmap_handle_t`.
#[repr(C)]
struct Handles {
    _private: UnsafeCell<[u8; 0]>,
}

// The functions that are safe take references to what C made and has not freed.
unsafe extern "C" {
    fn c_connect(group: *const c_char) -> &'static Clients;
    fn c_disconnect(clients: &Clients);
    fn c_call_number(name: *const c_char) -> c_int;
    fn c_calls(clients: &Clients, number: c_int, count: c_long, pause: c_long, nanos: *mut u64);
    safe fn c_track(clients: &Clients, trackers: c_long);
    safe fn c_set_tracked(clients: &Clients, count: c_long);
    safe fn c_drain_cmap(clients: &Clients, count: c_long);
    safe fn c_join(clients: &Clients);
    safe fn c_leave(clients: &Clients);
    fn c_round_trips(clients: &Clients, size: usize, count: c_long, nanos: *mut u64);
    safe fn c_stream(clients: &Clients, count: c_long, size: usize);
    safe fn c_stream_of_two(clients: &Clients, count: c_long, size: usize);
    safe fn c_send(clients: &Clients, count: c_long, size: usize);
    safe fn c_drain_cpg(clients: &Clients, count: c_long);
    safe fn c_open(count: c_long) -> &'static Handles;
    fn c_close(handles: &Handles, count: c_long);
    fn c_get_by_threads(
        handles: &Handles,
        shared: c_int,
        threads: c_long,
        count: c_long,
        nanos: *mut u64,
    );
    fn c_get_in_turn(handles: &Handles, connections: c_long, count: c_long, nanos: *mut u64);
}

/// Clients of the C libraries.
pub(crate) struct Theirs {
    clients: &'static Clients,
    handles: Option<&'static Handles>,
    connections: c_long,
}

impl Theirs {
    pub(crate) fn connect() -> Self {
        let group: &CStr = c"bench_c";
        // SAFETY: a text that ends with a zero, which C copies.
        let clients = unsafe { c_connect(group.as_ptr()) };
        Theirs { clients, handles: None, connections: 0 }
    }

    fn handles(&self) -> &'static Handles {
        self.handles.expect("connections are open")
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // SAFETY: C made them, and nobody uses them after this.
        unsafe { c_disconnect(self.clients) }
    }
}

impl Side for Theirs {
    fn calls(&mut self, name: &str, pause: u64, nanos: &mut [u64]) {
        let text = CString::new(name).expect("a name has no zero byte");
        // SAFETY: a text that ends with a zero, which C only reads.
        let number = unsafe { c_call_number(text.as_ptr()) };
        assert!(number >= 0, "the C side has no call {name:?}");
        let (count, pause) = (nanos.len() as c_long, pause as c_long);
        // SAFETY: `number` is that of a call, and C writes `count` times.
        unsafe { c_calls(self.clients, number, count, pause, nanos.as_mut_ptr()) }
    }

    fn track(&mut self, trackers: u32) {
        c_track(self.clients, trackers.into());
    }

    fn set_tracked(&mut self, count: u32) {
        c_set_tracked(self.clients, count.into());
    }

    fn drain_cmap(&mut self, count: u32) {
        c_drain_cmap(self.clients, count.into());
    }

    fn join(&mut self) {
        c_join(self.clients);
    }

    fn leave(&mut self) {
        c_leave(self.clients);
    }

    fn round_trips(&mut self, size: usize, nanos: &mut [u64]) {
        // SAFETY: C writes as many times as `nanos` has room for.
        quietly(size, || unsafe {
            c_round_trips(self.clients, size, nanos.len() as c_long, nanos.as_mut_ptr());
        });
    }

    fn stream(&mut self, count: u32, size: usize) {
        quietly(size, || c_stream(self.clients, count.into(), size));
    }

    fn stream_of_two(&mut self, count: u32, size: usize) {
        quietly(size, || c_stream_of_two(self.clients, count.into(), size));
    }

    fn send(&mut self, count: u32, size: usize) {
        quietly(size, || c_send(self.clients, count.into(), size));
    }

    fn drain_cpg(&mut self, count: u32) {
        c_drain_cpg(self.clients, count.into());
    }

    fn open(&mut self, connections: u32) {
        self.connections = connections.into();
        self.handles = Some(c_open(self.connections));
    }

    fn close(&mut self) {
        let handles = self.handles.take().expect("connections are open");
        // SAFETY: C made so many, and nobody uses them after this.
        unsafe { c_close(handles, self.connections) }
    }

    fn get_by_threads(&mut self, threads: u32, rival: Rival, nanos: &mut [u64]) {
        let shared = c_int::from(rival == Rival::OneHandle);
        let (threads, handles) = (c_long::from(threads), self.handles());
        let count = nanos.len() as c_long / threads;
        assert!(shared == 1 || threads <= self.connections);
        // SAFETY: there is a handle for each thread that needs one, and each of them writes `count` times.
        unsafe { c_get_by_threads(handles, shared, threads, count, nanos.as_mut_ptr()) }
    }

    fn get_in_turn(&mut self, nanos: &mut [u64]) {
        let (handles, count) = (self.handles(), nanos.len() as c_long);
        // SAFETY: there are so many handles, and C writes as many times as `nanos` has room for.
        unsafe { c_get_in_turn(handles, self.connections, count, nanos.as_mut_ptr()) }
    }
}

/// libcpg writes to standard error each time when a message in fragments has to wait, which nobody
/// wants to read.
fn quietly(size: usize, work: impl FnOnce()) {
    if size < 1 << 20 {
        return work();
    }
    let kept = dup(stderr()).expect("standard error is open");
    let nothing = OpenOptions::new().write(true).open("/dev/null").expect("it always exists");
    dup2_stderr(nothing).expect("there are descriptors");
    work();
    dup2_stderr(kept).expect("there are descriptors");
}
