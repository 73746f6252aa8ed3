//! A connection to a service: opened, used by many threads, and closed.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::call::Call;
use super::connect::{self, Channels, Parts};
use super::counters::ClientStats;
use super::datagrams::BoundSockets;
use super::events::Events;
use super::link::{Link, State};
use super::orphans::Origin;
use super::requests::{Nudge, Requests};
use crate::endpoint::Endpoint;
use crate::error::{Error, ProtocolError, Result};
use crate::libqb::Transport;
use crate::sys::socket::{self, Credentials};

/// The service to connect to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// The name of its socket.
    pub(crate) name: &'a str,
    /// The size of each ring, in bytes. Every message of the service fits.
    pub(crate) ring_size: u32,
    /// Whether the service may make larger rings than the client asks for. No corosync does.
    pub(crate) may_raise_size: bool,
    /// `None`: there is no such request.
    pub(crate) nudge: Option<Nudge>,
}

/// A connection to one service.
///
/// Locking rules: a thread holds the lock in `requests` from its request to the reply, and the lock
/// in `events` while it takes an event. No thread takes one of them while it holds the other. No
/// user code runs under either. Logging is user code, so notes for the log are kept in `link` until
/// the locks are released. All other locks are held for a few instructions only.
pub(crate) struct Connection {
    pub(super) link: Link,
    /// In a box, as it is large, and connections are moved.
    pub(super) requests: Box<Requests>,
    pub(super) events: Events,
    origin: Origin,
    sockets: BoundSockets,
    peer: Credentials,
    transport: Transport,
    max_request: usize,
    /// The sizes of the request ring and the event ring.
    capacities: [Option<usize>; 2],
    max_reply: usize,
    is_before_libqb_015: bool,
    /// See [`Endpoint::wait_while_busy`].
    waits_while_busy: bool,
    /// In nanoseconds.
    timeout: AtomicU64,
    /// The process that may use it; `None`: whichever has it. See [`Endpoint::refuse_forks`].
    owner: Option<u32>,
}

impl Connection {
    /// Connects to a service.
    pub(crate) fn open(target: Target<'_>, endpoint: &Endpoint, call: Call) -> Result<Self> {
        crate::log::in_span!("connect", endpoint.name(target.name), call.name, || {
            Self::connect(target, endpoint, call)
        })
    }

    fn connect(target: Target<'_>, endpoint: &Endpoint, call: Call) -> Result<Self> {
        let Parts {
            socket,
            peer,
            generation: _generation,
            is_before_libqb_015,
            channels:
                Channels { request, response, event, max_request, max_reply, joins, descriptor, sockets },
            origin,
        } = connect::connect(target, endpoint, call).inspect_err(|_error| {
            crate::log::debug!(service = %endpoint.name(target.name), error = %_error.with_sources(), "cannot connect");
        })?;
        let service: Cow<'static, str> = Cow::Owned(endpoint.name(target.name).to_owned());
        let socket_buffer = socket::send_buffer(&socket)
            .map_err(|source| Error::system("looking at the setup socket", source))?;
        let connection = Self {
            capacities: [request.capacity(), event.capacity()],
            transport: request.transport(),
            max_reply,
            link: Link::new(service, socket),
            requests: Box::new(Requests::new(
                request,
                response,
                [max_request, max_reply],
                joins,
                socket_buffer,
                target.nudge,
            )),
            events: Events::new(event, descriptor),
            origin,
            sockets,
            peer,
            max_request,
            is_before_libqb_015,
            waits_while_busy: endpoint.waits_while_busy(),
            timeout: AtomicU64::new(0),
            owner: endpoint.refuses_forks().then(process::id),
        };
        connection.set_timeout(endpoint.request_timeout_value());
        crate::log::debug!(service = %connection.link.service, pid = peer.pid, generation = %_generation, "connected");
        Ok(connection)
    }

    /// # Errors
    /// [`Error::ForeignProcess`] in a fork of the process that owns the connection.
    pub(super) fn check_process(&self) -> Result<()> {
        match self.owner {
            Some(pid) if pid != process::id() => {
                Err(Error::ForeignProcess { service: self.link.service.clone(), pid })
            }
            _ => Ok(()),
        }
    }

    /// The name of the service.
    pub(crate) fn service(&self) -> &str {
        &self.link.service
    }

    pub(crate) fn peer(&self) -> Credentials {
        self.peer
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// The process id by which the daemon knows the process that connected, if it tells.
    pub(crate) fn pid_at_daemon(&self) -> Option<u32> {
        self.origin.client_pid()
    }

    /// Whether the daemon's libqb is older than 0.15, judging by its rings. The rings of some later
    /// versions look the same.
    pub(crate) fn is_before_libqb_015(&self) -> bool {
        self.is_before_libqb_015
    }

    /// The longest request the daemon takes on this connection, in bytes: the ring size asked for,
    /// unless the daemon raised it.
    pub(crate) fn max_request(&self) -> usize {
        self.max_request
    }

    /// The longest answer the daemon can send on this connection, in bytes.
    pub(crate) fn max_reply(&self) -> usize {
        self.max_reply
    }

    /// How many of `most` requests can be under way at once.
    pub(crate) fn at_once(&self, most: usize) -> usize {
        if self.requests.joins() { most } else { 1 }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout.load(Ordering::Relaxed))
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.timeout.store(nanos, Ordering::Relaxed);
    }

    /// A call that begins now and may take [`Connection::timeout`].
    pub(crate) fn call(&self, name: &'static str) -> Call {
        Call::new(name, self.timeout(), self.waits_while_busy)
    }

    pub(crate) fn stats(&self) -> ClientStats {
        let counters = &self.link.counters;
        counters.event_ring.note(self.events.used());
        if let Some(used) = self.requests.used() {
            counters.request_ring.note(used);
            // Another thread may have found the turn taken.
            self.send_wanted_nudge();
        }
        let [requests, events] = self.capacities;
        counters.stats(requests, events)
    }

    /// Ends the connection for all threads that use it.
    pub(crate) fn finalize(&self) {
        self.link.advance(State::Finalized);
        if self.check_process().is_err() {
            return;
        }
        self.sockets.leave_with(&self.link.socket);
        socket::shut_down(&self.link.socket);
    }

    /// Whether either end has ended the connection.
    pub(crate) fn has_ended(&self) -> bool {
        self.link.state() != State::Open || !self.link.is_hung_up().is_ok_and(|hung_up| !hung_up)
    }

    /// Ends the connection of a daemon whose answers break the protocol.
    pub(crate) fn refuse(&self, source: ProtocolError) -> Error {
        let error = self.link.broken(source);
        self.link.log_notes();
        error
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.descriptor(&self.link)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.check_process().is_err() {
            // The owner goes on. The descriptors and mappings of this process are closed.
            return self.sockets.keep();
        }
        self.requests.detach();
        self.events.detach();
        // The daemon may send something before it notices that this client is gone.
        self.sockets.leave_with(&self.link.socket);
        // How often to check whether the daemon's process is gone. After `finalize` the socket does
        // not show which end closed it.
        let looks = match self.link.state() {
            State::Finalized => 1,
            _ if self.has_ended() => 4,
            _ => 0,
        };
        socket::shut_down(&self.link.socket);
        self.origin.remove_orphans(looks);
    }
}
